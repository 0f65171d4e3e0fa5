"""Plans accepted by what they lose when measured, not by what is predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from heartvit_edge.allocation.best import Best, Budgets, explain, make_problem
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.losses import Losses, make_block
from heartvit_edge.allocation.neighbours import Blocks, RanPlan
from heartvit_edge.allocation.plan import (
    PlanOptions,
    check_budgets,
    dense_blocks,
    finish,
    make_plan,
    meets_dense,
    starting_losses,
)
from heartvit_edge.allocation.refine import DEFAULT_EFFORT, Effort, RunPlan, mean_and_stderr, mean_loss, refine
from heartvit_edge.allocation.symmetric import symmetric_counts
from heartvit_edge.errors import InfeasibleError
from heartvit_edge.sensitivity.table import ScoreTable
from heartvit_edge.spec.budget import Budget, Quantity
from heartvit_edge.spec.model import ImageSetRef
from heartvit_edge.spec.plan import BlockPlan, PlanCheck, PruningPlan

MOST_TIGHTENINGS = 6
"""How often a loss budget is tightened for a plan that breaks it on the images it was not made on."""
TIGHTEN = 0.9
"""Beside the ratio of allowed to measured loss, what a broken loss budget is multiplied by."""
EASINGS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)
"""Shares of a loss budget that scores alone are asked for, until the plan they give keeps the whole when measured."""


@dataclass(frozen=True)
class PlanningImages:
    """Images on which plans run, to improve them or to check them.

    Attributes:
        ref: Which images.
        run: Runs a plan on them, what chooses tokens asked again at each site.
        chosen_by: What chooses tokens: ``scores``, or the name of a gate.
    """

    ref: ImageSetRef
    run: RunPlan
    chosen_by: str = "scores"


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
    allowed = next((budget.limit for budget in budgets if budget.quantity == "loss-nats"), np.inf)
    within = allowed
    blocks, ran = _start(table, budgets, options, images, offer, cost, within)
    for tightened in range(1 + MOST_TIGHTENINGS):
        price: float | None = None
        binding: tuple[Quantity, ...] = ()
        if not options.symmetric:
            limits = _limit_loss(budgets, within)
            found = refine(blocks, ran, images.run, offer, cost, limits, max_sites=options.max_sites, effort=effort)
            if within < allowed and mean_loss(found.ran) > within:  # no step leads to so little loss: begin elsewhere
                with suppress(InfeasibleError):
                    start = _start(table, budgets, options, images, offer, cost, within)
                    found = refine(*start, images.run, offer, cost, limits, max_sites=options.max_sites, effort=effort)
            tell(f"measured on {images.ref.num_images} images: {', '.join(found.history)}")
            blocks, ran = found.blocks, found.ran
            around = make_problem(found.neighbours.losses(), cost, limits, options.max_sites, spent=mean_loss(ran))
            binding, price = explain(around, cost, cost.cost("macs", blocks))
        loss, stderr = mean_and_stderr(ran)
        plan = finish(info, Best(blocks, loss), cost, budgets, options, binding=binding)
        plan = plan.model_copy(
            update={
                "predicted_loss_nats": max(loss, 0.0),
                "predicted_loss_stderr_nats": stderr,
                "nats_per_percent": price,
                "refined_on": images.ref,
                "chosen_by": images.chosen_by,
                "check": held_out and _check(blocks, held_out, tightened),
            }
        )
        measured = plan.check.loss_nats + plan.check.loss_stderr_nats if plan.check else loss
        if measured <= allowed:
            return plan
        within = min(within, loss) * TIGHTEN * allowed / measured
        which = "held-out images, standard error included," if plan.check else "the images it was made from"
        tell(f"{measured:.3g} nats on {which} is over {allowed:g}: tightened")
        if options.symmetric:
            try:
                blocks, ran = _start(table, budgets, options, images, offer, cost, within)
            except InfeasibleError:
                break
    costs = "".join(f"{budget.quantity}={budget.limit:g}," for budget in budgets if budget.quantity != "loss-nats")
    raise InfeasibleError(
        f"no plan was found that loses at most {allowed:g} nats when measured: the last loses {measured:.3g}, standard "
        "error included",
        hint=f"--budget {costs}loss-nats={measured * 1.1:.2g}, or measure on more images",
    )


def _start(
    table: ScoreTable,
    budgets: Budgets,
    options: PlanOptions,
    images: PlanningImages,
    offer: Losses,
    cost: CostModel,
    within: float,
) -> tuple[Blocks, RanPlan]:
    """Return a plan that meets the budgets on costs, and keeps ``within`` on the images if scores can tell such a plan.

    Under a loss budget scores are asked for less and less loss until what they propose keeps it. Else it is what loses
    least among their proposals, for the costs alone, with heads and without, a symmetric plan, and the larger plan or
    the dense model where these meet the costs.

    Raises:
        InfeasibleError: If no plan meets the budgets on costs, or no symmetric one all of them.
    """
    ran: dict[Blocks, RanPlan] = {}
    if options.symmetric or within < np.inf:
        for share in EASINGS if within < np.inf else (1.0,):
            try:
                blocks = make_plan(table, _limit_loss(budgets, share * within), options).blocks
            except InfeasibleError:
                if options.symmetric and not ran:
                    raise
                break
            if blocks not in ran:
                ran[blocks] = images.run(blocks)
            if mean_loss(ran[blocks]) <= within:
                return blocks, ran[blocks]
    starts: list[Blocks] = []
    if not options.symmetric:
        larger = options.within.blocks if options.within is not None else dense_blocks(offer.shape)
        costs = [budget for budget in budgets if budget.quantity != "loss-nats"]
        if _affordable(larger, cost, budgets):
            starts.append(larger)
        else:
            starts.append(make_plan(table, costs, options).blocks)
            if options.prune_heads:
                with suppress(InfeasibleError):
                    starts.append(make_plan(table, costs, replace(options, prune_heads=False)).blocks)
            level = _level_start(offer, cost, budgets, options.max_sites)
            if level is not None:
                starts.append(level)
    ran |= {blocks: images.run(blocks) for blocks in dict.fromkeys(starts) if blocks not in ran}
    return min(ran.items(), key=lambda pair: mean_loss(pair[1]))


def _level_start(offer: Losses, cost: CostModel, budgets: Budgets, max_sites: int | None) -> Blocks | None:
    """Return the symmetric plan on the counts and sites on offer that costs most within the budgets; None for none."""
    shape = offer.shape
    sites = [site for site in shape.quarter_blocks if site in offer.sites][:max_sites]
    heads = tuple(
        row[int(np.isfinite(losses).argmax())] for row, losses in zip(offer.head_sets, offer.heads, strict=True)
    )
    units = tuple(
        row[int(np.isfinite(losses).argmax())] for row, losses in zip(offer.unit_sets, offer.units, strict=True)
    )
    for first in range(shape.num_patches, 0, -1):
        counts = symmetric_counts(shape.num_patches, first / shape.num_patches, len(sites))
        left, blocks = shape.num_tokens, []
        for block in range(shape.depth):
            if block in offer.sites:
                row = offer.tokens[offer.sites.index(block)]
                wanted = shape.num_prefix_tokens + counts[sites.index(block)] if block in sites else left
                allowed = (count for count, loss in zip(offer.candidates, row, strict=True) if np.isfinite(loss))
                left = max((count for count in allowed if count <= min(left, wanted)), default=0)
            if not left:
                return None
            blocks.append(make_block(shape, left, heads[block], units[block], offer.unit_groups))
        drops = len({block.num_tokens for block in blocks}) - 1
        if (max_sites is None or drops <= max_sites) and _affordable(blocks, cost, budgets):
            return tuple(blocks)
    return None


def _affordable(blocks: Sequence[BlockPlan], cost: CostModel, budgets: Budgets) -> bool:
    """Return whether a plan meets every budget on a cost."""
    on_costs = (budget for budget in budgets if budget.quantity != "loss-nats")
    return all(cost.cost(budget.quantity, blocks) <= cost.limit(budget) for budget in on_costs)


def _limit_loss(budgets: Budgets, within: float) -> list[Budget]:
    """Return the budgets with another limit on the loss, where there is one."""
    return [
        budget.model_copy(update={"limit": within}) if budget.quantity == "loss-nats" else budget for budget in budgets
    ]


def _check(blocks: Sequence[BlockPlan], held_out: PlanningImages, num_tightenings: int) -> PlanCheck:
    ran = held_out.run(blocks)
    loss, stderr = mean_and_stderr(ran)
    return PlanCheck(
        images=held_out.ref,
        loss_nats=loss,
        loss_stderr_nats=stderr,
        num_agreeing=ran.num_agreeing,
        num_tightenings=num_tightenings,
    )
