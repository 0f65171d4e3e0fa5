"""A plan improved by measuring its neighbours.

Scores at the dense model foresee single removals well and large sets badly. So from a plan that they propose, what
really counts is measured on images: the loss of the plan itself, tokens chosen by scores taken again at each site, then
of every neighbour one step away. The neighbours' differences add up to a new problem around the plan, whose optimum is
run in turn. Differences of means over some dozens of images are noisy, and an optimum among noisy figures is flattered
by them; so the images are drawn again and again (bootstrap), each draw proposes its own optimum, and the proposals are
measured whole before the best of them is run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from heartvit_edge.allocation.best import Budgets, cheapest_by, make_problem
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.losses import Losses
from heartvit_edge.allocation.neighbours import Blocks, Neighbours, RanPlan, Step, steps_from, take
from heartvit_edge.allocation.race import RunPlan
from heartvit_edge.allocation.solve import solve

TRIES = 2
"""Proposals that are run in one round: what they lose in the order of tokens of the plan before flatters some."""
WORTHWHILE = 24
"""Heads and unit groups that are measured again after the first round."""


@dataclass(frozen=True)
class Effort:
    """How long to look for a better plan.

    Attributes:
        rounds: Most rounds of neighbours.
        proposals: Bootstrap draws a round, each with an optimum of its own.
        seed: Of the draws.
    """

    rounds: int = 8
    proposals: int = 16
    seed: int = 0


DEFAULT_EFFORT = Effort()


@dataclass(frozen=True)
class Refined:
    """Where the search ended.

    Attributes:
        blocks: The plan.
        ran: What it answered on the images.
        neighbours: What plans around it lose.
        trail: The plans accepted on the way, with what they answered; the last is the one above.
        history: The loss of each plan that ran, in words.
    """

    blocks: Blocks
    ran: RanPlan
    neighbours: Neighbours
    trail: tuple[tuple[Blocks, RanPlan], ...]
    history: tuple[str, ...]


def refine(
    start: Blocks,
    ran: RanPlan,
    run: RunPlan,
    offer: Losses,
    cost: CostModel,
    budgets: Budgets,
    *,
    max_sites: int | None = None,
    effort: Effort = DEFAULT_EFFORT,
) -> Refined:
    """Return the best plan found from a start by measuring; it is the start where none is better.

    Steps at tokens come first; heads and unit groups join in once those alone find nothing better.

    Args:
        start: A plan within every budget on a cost.
        ran: What it answered on the images.
        run: Runs a plan on the images.
        offer: What may go at all.
        cost: What plans cost.
        budgets: Limits that hold together; a loss budget is one on the mean loss measured.
        max_sites: Most sites at which tokens go; None: any.
        effort: How long to look.
    """
    max_loss = next((budget.limit for budget in budgets if budget.quantity == "loss-nats"), np.inf)
    goal = _Goal(cost, max_loss)
    draws = np.random.default_rng(effort.seed)
    blocks, around = start, Neighbours.none(start, offer)
    trail, history = [(start, ran)], [f"{mean_loss(ran):.4g} nats at the start"]
    tokens_alone, worthwhile, seen = True, None, {start}
    for number in range(1, effort.rounds + 1):
        steps = [step for step in steps_from(blocks, offer) if step.shift or not tokens_alone]
        if worthwhile is not None:
            steps = [step for step in steps if step.shift or step in worthwhile or _undoes(step, blocks)]
        around = around.moved(blocks, steps, ran)
        if not tokens_alone and worthwhile is None:
            worthwhile = _worthwhile(around, cost)
        proposed = _propose(around, ran, cost, budgets, max_sites, effort.proposals, draws)
        fresh = [proposal for proposal in proposed if proposal not in seen]
        losses = ran.measure(fresh).mean(axis=1)
        ranked = sorted(zip(fresh, losses, strict=True), key=lambda pair: goal.at(*pair))
        better = None
        for proposal, _ in ranked[:TRIES]:
            seen.add(proposal)
            answer = run(proposal)
            history.append(f"{mean_loss(answer):.4g} in round {number}")
            if goal.of(proposal, answer) < goal.of(blocks, ran):
                better = proposal, answer
                break
        if better is not None:
            blocks, ran = better
            trail.append(better)
            continue
        if not tokens_alone or all(step.shift for step in steps_from(blocks, offer)):
            break
        tokens_alone = False
    if around.blocks != blocks or not around.steps:
        around = around.moved(blocks, [step for step in steps_from(blocks, offer) if step.shift], ran)
    return Refined(blocks, ran, around, tuple(trail), tuple(history))


def mean_loss(ran: RanPlan) -> float:
    """Return the mean loss over images, in nats."""
    return float(ran.losses.mean())


@dataclass(frozen=True)
class _Goal:
    """What makes one plan better than another: less is better, compared in order."""

    cost: CostModel
    max_loss: float

    def of(self, blocks: Blocks, ran: RanPlan) -> tuple[float, float]:
        return self.at(blocks, mean_loss(ran))

    def at(self, blocks: Blocks, loss: float) -> tuple[float, float]:
        if self.max_loss == np.inf:
            return 0.0, loss
        within = loss <= self.max_loss
        return (0.0, self.cost.cost(cheapest_by(self.cost), blocks)) if within else (loss, 0.0)


def _propose(
    around: Neighbours,
    ran: RanPlan,
    cost: CostModel,
    budgets: Budgets,
    max_sites: int | None,
    proposals: int,
    draws: np.random.Generator,
) -> list[Blocks]:
    """Return the different optima of the images as they are and of ``proposals`` bootstrap draws."""
    found: dict[Blocks, None] = {}
    number = len(ran.losses)
    for draw in range(proposals + 1):
        images = draws.integers(0, number, number) if draw else np.arange(number)
        losses = around.losses(images)
        problem = make_problem(losses, cost, budgets, max_sites, spent=float(ran.losses[images].mean()))
        chosen = solve(problem)
        if chosen is None:  # over the loss budget, and no step leads within: the least loss is on the way there
            chosen = solve(replace(problem, max_loss=np.inf, minimise=None))
        if chosen is not None:
            found[losses.blocks(chosen)] = None
    found.pop(around.blocks, None)
    return list(found)


def _worthwhile(around: Neighbours, cost: CostModel) -> set[Step]:
    """Return the steps at heads and units that add least for what they save; the others are not measured again."""
    saved = cheapest_by(cost)
    before = cost.cost(saved, around.blocks)

    def price(step: Step, added: float) -> float:
        gain = before - cost.cost(saved, take(step, around.blocks, around.offer))
        return added / gain if gain > 0 else np.inf

    ranked = sorted(
        (price(step, float(added.mean())), order)
        for order, (step, added) in enumerate(zip(around.steps, around.added, strict=True))
        if not step.shift
    )
    return {around.steps[order] for _, order in ranked[:WORTHWHILE]}


def _undoes(step: Step, blocks: Blocks) -> bool:
    """Return whether a step brings back a head or unit group that the plan removed."""
    block = blocks[step.block]
    return (step.head is not None and step.head not in block.kept_heads) or (
        step.unit is not None and block.kept_units is not None and step.unit not in block.kept_units
    )
