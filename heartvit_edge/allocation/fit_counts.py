"""Token counts fitted to what chooses tokens.

A plan is made with the scores choosing. A gate foresees them well at one site and less well at another, so the counts
that are best for the scores are not best for the gate. Here tokens move between the plan's sites, within its budgets,
for as long as that surely lowers the loss measured with the gate choosing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.allocation.best import cheapest_by
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.race import mean_and_stderr
from heartvit_edge.allocation.routing import Counts, with_counts
from heartvit_edge.spec.budget import Quantity
from heartvit_edge.spec.plan import PruningPlan

RunCounts = Callable[[Counts], NDArray[np.float64]]
"""Returns the losses of some images, in nats, where other counts than the plan's are kept at its sites."""
MOVES = (0.015, 0.03, 0.05, 0.08, 0.12)
"""Shares of the patch tokens that a move takes from a site, at least one token."""
SURE = 1.0
"""Standard errors of the paired difference by which counts must lose less than those before them to be taken."""


@dataclass(frozen=True)
class FitEffort:
    """How long to look for better counts.

    Attributes:
        most_tried: Different counts that are measured at most.
        idle: Moves in a row that are drawn in vain, be they tried before or over a limit, before the search ends.
        seed: Of the moves.
    """

    most_tried: int = 80
    idle: int = 500
    seed: int = 0


DEFAULT_FIT = FitEffort()


@dataclass(frozen=True)
class FittedCounts:
    """Where the search ended.

    Attributes:
        counts: Site to patch tokens; the plan's where none were surely better.
        before: Losses of the plan's counts, in nats, shape (N,).
        losses: Losses of these, on the same images.
        num_tried: Different counts that were measured, the plan's apart.
    """

    counts: Counts
    before: NDArray[np.float64]
    losses: NDArray[np.float64]
    num_tried: int


def fit_counts(
    plan: PruningPlan,
    cost: CostModel,
    parts: Sequence[RunCounts],
    *,
    candidates: Sequence[int] | None = None,
    most_entering: int | None = None,
    effort: FitEffort = DEFAULT_FIT,
    advance: Callable[[int], None] = lambda _: None,
) -> FittedCounts:
    """Return the best counts found at a plan's sites by moving tokens from site to site.

    A move takes tokens from one site and gives another as many as the limits have room for. What it leads to runs on
    one part of the images after the other, and leaves once it has lost more than what it came from. Every site goes on
    dropping tokens, so that what was taught for these sites still fits.

    Args:
        plan: Drops tokens.
        cost: What plans of the model cost.
        parts: Run counts on parts of the images.
        candidates: Tokens, prefix included, that a site may keep, ascending; None: any number.
        most_entering: Most patch tokens that may enter the sites, summed over them: what a gate costs; None: any.
        effort: How long to look.
        advance: Told of counts tried; there are at most ``effort.most_tried``.
    """
    limits = _Limits(plan, cost, most_entering)
    prefix = plan.shape.num_prefix_tokens
    offered = np.array(candidates if candidates is not None else range(prefix + 1, plan.shape.num_tokens)) - prefix
    offered = offered[(offered >= 1) & (offered < plan.shape.num_patches)]
    counts = {site: tokens - prefix for site, tokens in plan.sites.items()}
    losses = [part(counts) for part in parts]
    before, tried = np.concatenate(losses), {tuple(counts.values())}
    draws, idle = np.random.default_rng(effort.seed), 0
    while len(counts) > 1 and len(tried) <= effort.most_tried and idle < effort.idle:
        moved = _move(counts, offered, limits, draws)
        if moved is None or tuple(moved.values()) in tried:
            idle += 1
            continue
        tried.add(tuple(moved.values()))
        found = _run_while_less(moved, parts, losses)
        advance(1)
        idle = 0
        if found is not None:
            counts, losses = moved, found
    return FittedCounts(counts, before, np.concatenate(losses), len(tried) - 1)


class _Limits:
    """What counts must keep: the plan's budgets on costs; and its own cost where a loss budget made it as small."""

    def __init__(self, plan: PruningPlan, cost: CostModel, most_entering: int | None) -> None:
        self.plan, self.cost, self.most_entering = plan, cost, most_entering
        self.limits: dict[Quantity, float] = {
            budget.quantity: cost.limit(budget) for budget in plan.budgets if budget.quantity != "loss-nats"
        }
        if not self.limits or any(budget.quantity == "loss-nats" for budget in plan.budgets):
            quantity = cheapest_by(cost)
            self.limits[quantity] = cost.cost(quantity, plan.blocks)

    def keep(self, counts: Counts) -> bool:
        """Return whether each site drops tokens and no limit is broken."""
        falling = [self.plan.shape.num_patches, *counts.values()]
        if any(later >= sooner for sooner, later in pairwise(falling)):
            return False
        if self.most_entering is not None and sum(falling[:-1]) > self.most_entering:
            return False
        blocks = with_counts(self.plan, counts)
        return all(self.cost.cost(quantity, blocks) <= limit for quantity, limit in self.limits.items())


def _move(counts: Counts, offered: NDArray[np.int64], limits: _Limits, draws: np.random.Generator) -> Counts | None:
    """Return counts with fewer tokens at one site and as many more at another as fit; None where none do."""
    giver, taker = (list(counts)[position] for position in draws.choice(len(counts), 2, replace=False))
    share = MOVES[draws.integers(len(MOVES))]
    fewer = offered[offered <= counts[giver] - max(1, round(share * limits.plan.shape.num_patches))]
    more = offered[offered > counts[taker]]
    if not len(fewer):
        return None
    moved: Counts | None = None
    for count in more.tolist():
        wider = counts | {giver: int(fewer[-1]), taker: count}
        if limits.keep(wider):
            moved = wider
        elif moved is not None:
            break
    return moved


def _run_while_less(
    counts: Counts, parts: Sequence[RunCounts], before: Sequence[NDArray[np.float64]]
) -> list[NDArray[np.float64]] | None:
    """Return the losses of counts, a part's each, where they are surely less than those before; None where not."""
    found: list[NDArray[np.float64]] = []
    for part in parts:
        found.append(part(counts))
        added, error = mean_and_stderr(np.concatenate(found) - np.concatenate(before[: len(found)]))
        if added >= 0:
            return None
    return found if added < -SURE * error else None
