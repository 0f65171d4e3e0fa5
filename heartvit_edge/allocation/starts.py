"""Plans that a search by measuring begins from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np

from heartvit_edge.allocation.best import Budgets
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.losses import Losses, make_block
from heartvit_edge.allocation.neighbours import Blocks, RanPlan
from heartvit_edge.allocation.plan import PlanOptions, dense_blocks, make_plan
from heartvit_edge.allocation.race import RunPlan
from heartvit_edge.allocation.refine import mean_loss
from heartvit_edge.allocation.symmetric import symmetric_counts
from heartvit_edge.errors import InfeasibleError
from heartvit_edge.sensitivity.table import ScoreTable
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.plan import BlockPlan

EASINGS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)
"""Shares of a loss budget that scores alone are asked for, until the plan they give keeps the whole when measured."""
SLOPES = (1.0, 1.5)
"""Powers of depth with which the tokens removed grow in the starts that slope."""


def find_starts(
    table: ScoreTable,
    budgets: Budgets,
    options: PlanOptions,
    run: RunPlan,
    offer: Losses,
    cost: CostModel,
    within: float,
) -> dict[Blocks, RanPlan]:
    """Return plans that meet the budgets on costs, and what they answered; the best to begin from comes first.

    Under a loss budget scores are asked for less and less loss until what they propose keeps it. Else they are their
    proposals for the costs alone, with heads and without, plans of some shapes, and the larger plan or the dense model
    where these meet the costs; those that keep most heads and units come first, so that a search passes through what
    tokens alone can do.

    Raises:
        InfeasibleError: If no plan meets the budgets on costs, or no symmetric one all of them.
    """
    ran: dict[Blocks, RanPlan] = {}
    if options.symmetric or within < np.inf:
        for share in EASINGS if within < np.inf else (1.0,):
            try:
                blocks = make_plan(table, limit_loss(budgets, share * within), options).blocks
            except InfeasibleError:
                if options.symmetric and not ran:
                    raise
                break
            if blocks not in ran:
                ran[blocks] = run(blocks)
            if mean_loss(ran[blocks]) <= within:
                return {blocks: ran[blocks]}
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
            starts += _shaped_starts(offer, cost, budgets, options.max_sites)
    ran |= {blocks: run(blocks) for blocks in dict.fromkeys(starts) if blocks not in ran}
    fewest = min(map(_num_removed, ran))
    return dict(sorted(ran.items(), key=lambda pair: (_num_removed(pair[0]) > fewest, mean_loss(pair[1]))))


def _num_removed(blocks: Blocks) -> int:
    """Return a number that grows with the heads and unit groups that a plan removes."""
    return -sum(len(block.kept_heads) + len(block.kept_units or ()) for block in blocks)


def _shaped_starts(offer: Losses, cost: CostModel, budgets: Budgets, max_sites: int | None) -> list[Blocks]:
    """Return the dearest plans within the budgets of some shapes: symmetric, and ever fewer tokens block by block."""
    shape = offer.shape
    sites = [site for site in shape.quarter_blocks if site in offer.sites][:max_sites]

    def level(gone: int) -> dict[int, int]:
        counts = symmetric_counts(shape.num_patches, 1 - gone / shape.num_patches, len(sites))
        return dict(zip(sites, counts, strict=True))

    def sloping(power: float, gone: int) -> dict[int, int]:
        return {site: round(shape.num_patches - gone * (site / (shape.depth - 1)) ** power) for site in offer.sites}

    shapes: list[Callable[[int], dict[int, int]]] = [level, *(partial(sloping, power) for power in SLOPES)]
    found = (_dearest(one, offer, cost, budgets, max_sites) for one in shapes)
    return [blocks for blocks in found if blocks is not None]


def _dearest(
    patches: Callable[[int], dict[int, int]], offer: Losses, cost: CostModel, budgets: Budgets, max_sites: int | None
) -> Blocks | None:
    """Return the plan of a shape, on the counts on offer, that removes least and meets the budgets; None for none.

    Args:
        patches: Maps a size of the removal, in patches, to the patches wanted at each site.
        offer: What may go.
        cost: What plans cost.
        budgets: Limits.
        max_sites: Most sites at which tokens go; None: any.
    """
    shape = offer.shape
    heads = tuple(
        row[int(np.isfinite(losses).argmax())] for row, losses in zip(offer.head_sets, offer.heads, strict=True)
    )
    units = tuple(
        row[int(np.isfinite(losses).argmax())] for row, losses in zip(offer.unit_sets, offer.units, strict=True)
    )
    for gone in range(shape.num_patches):
        wanted, left, blocks = patches(gone), shape.num_tokens, []
        for block in range(shape.depth):
            if block in offer.sites:
                row = offer.tokens[offer.sites.index(block)]
                most = min(left, shape.num_prefix_tokens + wanted[block]) if block in wanted else left
                allowed = (count for count, loss in zip(offer.candidates, row, strict=True) if np.isfinite(loss))
                left = max((count for count in allowed if count <= most), default=0)
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


def limit_loss(budgets: Budgets, within: float) -> list[Budget]:
    """Return the budgets with another limit on the loss, where there is one."""
    return [
        budget.model_copy(update={"limit": within}) if budget.quantity == "loss-nats" else budget for budget in budgets
    ]
