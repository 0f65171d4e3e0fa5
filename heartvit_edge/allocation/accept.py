"""Plans accepted by what they lose when measured, not by what is predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.allocation.best import Best, Budgets, cheapest_by, explain, make_problem
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.neighbours import Blocks, Neighbours, steps_from
from heartvit_edge.allocation.plan import (
    PlanOptions,
    check_budgets,
    dense_blocks,
    finish,
    meets_dense,
    starting_losses,
)
from heartvit_edge.allocation.race import RunPlan, cheapest_within, mean_and_stderr, race
from heartvit_edge.allocation.refine import DEFAULT_EFFORT, Effort, mean_loss, refine
from heartvit_edge.allocation.starts import find_starts, limit_loss
from heartvit_edge.errors import InfeasibleError
from heartvit_edge.sensitivity.table import ScoreTable
from heartvit_edge.spec.budget import Quantity
from heartvit_edge.spec.model import ImageSetRef
from heartvit_edge.spec.plan import PlanCheck, PruningPlan

MOST_TIGHTENINGS = 6
"""How often a loss budget is tightened for a plan that breaks it on the images it was not made on."""
TIGHTEN = 0.9
"""Beside the ratio of allowed to measured loss, what a broken loss budget is multiplied by."""
FINALISTS = 4
"""Plans of the way that the search took, its last ones, between which other images decide."""


@dataclass(frozen=True)
class DecidingImages:
    """Images that decide between plans which were made on others.

    Attributes:
        ref: Which images.
        parts: Run a plan on parts of them.
    """

    ref: ImageSetRef
    parts: tuple[RunPlan, ...]


@dataclass(frozen=True)
class PlanningImages:
    """Images on which plans run, to improve them or to check them.

    Attributes:
        ref: Which images.
        run: Runs a plan on them, what chooses tokens asked again at each site.
        chosen_by: What chooses tokens: ``scores``, or the name of a gate.
        deciding: Others, which decide between the plans found on these; None: the last is taken.
    """

    ref: ImageSetRef
    run: RunPlan
    chosen_by: str = "scores"
    deciding: DecidingImages | None = None


def accept_plan(
    table: ScoreTable,
    budgets: Budgets,
    options: PlanOptions,
    images: PlanningImages,
    held_out: PlanningImages | None,
    *,
    effort: Effort = DEFAULT_EFFORT,
    tell: Callable[[str], None] = lambda _: None,
) -> PruningPlan:
    """Return a plan improved by measuring, with what it loses on other images.

    A loss budget must hold there too, its standard error included: a plan that breaks it is sought again under a
    tighter one, and the check says how often, for each time makes what it finds a little flattering.

    Args:
        table: Scores of the model.
        budgets: Limits that hold together, one a quantity.
        options: What the plan may look like.
        images: Images to improve it on.
        held_out: Other images to check it on; None: it is not checked.
        effort: How long to look for a better plan; a symmetric one is only measured.
        tell: Told what happens, in words.

    Raises:
        InputError: If a site is not scored, or a budget needs what is not there.
        InfeasibleError: If no plan meets the budgets, or none was found that keeps a loss budget when measured.
    """
    info = table.info
    check_budgets(info, budgets)
    cost = CostModel(info.shape, info.settings.unit_groups, options.table)
    if meets_dense(cost, budgets, options):
        return finish(info, Best(dense_blocks(info.shape), 0.0), cost, budgets, options)
    offer = starting_losses(table, options)
    allowed = within = next((budget.limit for budget in budgets if budget.quantity == "loss-nats"), np.inf)
    starts = find_starts(table, budgets, options, images.run, offer, cost, within)
    blocks, ran = next(iter(starts.items()))
    around: Neighbours | None = None
    decidable = allowed
    decided: tuple[Blocks, NDArray[np.float64]] | None = None
    for tightened in range(1 + MOST_TIGHTENINGS):
        limits = limit_loss(budgets, within)
        if not options.symmetric and decided is None:
            found = refine(blocks, ran, images.run, offer, cost, limits, max_sites=options.max_sites, effort=effort)
            if within < allowed and mean_loss(found.ran) > within:  # no step leads to so little loss: begin elsewhere
                with suppress(InfeasibleError):
                    starts = find_starts(table, budgets, options, images.run, offer, cost, within)
                    first = next(iter(starts.items()))
                    found = refine(*first, images.run, offer, cost, limits, max_sites=options.max_sites, effort=effort)
            tell(f"measured on {images.ref.num_images} images: {', '.join(found.history)}")
            starts |= dict(found.trail if allowed < np.inf else found.trail[-FINALISTS:])
            blocks, ran, around = found.blocks, found.ran, found.neighbours
        losses = ran.losses
        if images.deciding is not None:
            blocks, losses = decided or _decide(starts if around else [blocks], images.deciding, decidable, cost)
            ran = starts[blocks]
            tell(f"{len(losses)} other images decide for {losses.mean():.4g} nats")
        loss, stderr = mean_and_stderr(losses)
        price: float | None = None
        binding: tuple[Quantity, ...] = ()
        if around is not None:
            if around.blocks != blocks:
                around = around.moved(blocks, [step for step in steps_from(blocks, offer) if step.shift], ran)
            problem = make_problem(around.losses(), cost, limits, options.max_sites, spent=mean_loss(ran))
            binding, price = explain(problem, cost, cost.cost("macs", blocks))
        plan = finish(info, Best(blocks, loss), cost, budgets, options, binding=binding)
        plan = plan.model_copy(
            update={
                "predicted_loss_nats": max(loss, 0.0),
                "predicted_loss_stderr_nats": stderr,
                "nats_per_percent": price,
                "refined_on": images.ref,
                "decided_on": images.deciding and images.deciding.ref,
                "chosen_by": images.chosen_by,
                "check": held_out and _check(blocks, held_out, tightened),
            }
        )
        checked = [(loss, stderr)] if images.deciding is not None else [(loss, 0.0)]
        if plan.check:
            checked.append((plan.check.loss_nats, plan.check.loss_stderr_nats))
        measured = max(mean + error for mean, error in checked)
        if measured <= allowed:
            return plan
        within = min(within, mean_loss(ran)) * TIGHTEN * allowed / measured
        which = "images that it was not made on" if plan.check or images.deciding else "the images it was made from"
        tell(f"{measured:.3g} nats on {which}, standard error included, is over {allowed:g}: tightened")
        if around is not None and images.deciding is not None:  # a plan found on the way may do: no need to search
            decidable = min(decidable, loss + stderr) * TIGHTEN * allowed / measured
            decided = _decide(starts, images.deciding, decidable, cost)
            if sum(mean_and_stderr(decided[1])) > decidable:
                decided = None
        if options.symmetric:
            try:
                starts = find_starts(table, budgets, options, images.run, offer, cost, within)
            except InfeasibleError:
                break
            blocks, ran = next(iter(starts.items()))
    costs = "".join(f"{budget.quantity}={budget.limit:g}," for budget in budgets if budget.quantity != "loss-nats")
    raise InfeasibleError(
        f"no plan was found that loses at most {allowed:g} nats when measured: the last loses {measured:.3g}, standard "
        "error included",
        hint=f"--budget {costs}loss-nats={measured * 1.1:.2g}, or measure on more images",
    )


def _decide(
    candidates: Iterable[Blocks], deciding: DecidingImages, allowed: float, cost: CostModel
) -> tuple[Blocks, NDArray[np.float64]]:
    """Return the candidate that the deciding images are for, and its losses there, in nats, shape (N,)."""
    if allowed == np.inf:
        return race(list(candidates), deciding.parts)
    saved = cheapest_by(cost)
    return cheapest_within(sorted(candidates, key=lambda one: cost.cost(saved, one)), deciding.parts, allowed)


def _check(blocks: Blocks, held_out: PlanningImages, num_tightenings: int) -> PlanCheck:
    ran = held_out.run(blocks)
    loss, stderr = mean_and_stderr(ran.losses)
    return PlanCheck(
        images=held_out.ref,
        loss_nats=loss,
        loss_stderr_nats=stderr,
        num_agreeing=ran.num_agreeing,
        num_tightenings=num_tightenings,
    )
