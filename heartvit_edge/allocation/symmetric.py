"""Symmetric plans: every site keeps the same share of the tokens left, every block as many heads."""

from __future__ import annotations

import numpy as np

from heartvit_edge.allocation.best import Best, Budgets, cheapest_by
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.losses import Losses, make_block
from heartvit_edge.allocation.predict import Curve
from heartvit_edge.errors import InfeasibleError
from heartvit_edge.spec.budget import Quantity
from heartvit_edge.spec.plan import BlockPlan, PruningPlan


def find_symmetric(
    losses: Losses,
    terms: dict[int, Curve],
    cost: CostModel,
    budgets: Budgets,
    *,
    within: PruningPlan | None = None,
) -> Best:
    """Return the best symmetric plan: for each number of heads the largest share of tokens, or under a loss budget any.

    Args:
        losses: What may go of each block, and what that loses; its token tables are not read, for the ratio may ask for
            any number of tokens.
        terms: For each site its loss by tokens dropped up to it, as ``predict.site_terms`` gives them.
        cost: What plans cost.
        budgets: Limits that hold together; under a loss budget the cost is minimised, else the loss.
        within: A larger plan, whose tokens this one may not exceed; its heads are for ``losses`` to leave out.

    Raises:
        InputError: If a budget needs a device table that is not there.
        InfeasibleError: If no symmetric plan meets the budgets.
    """
    limits = {budget.quantity: cost.limit(budget) for budget in budgets}
    max_loss = limits.pop("loss-nats", np.inf)
    shape = losses.shape
    goal = cheapest_by(cost)
    found: list[tuple[float, Best]] = []
    least: dict[Quantity, float] = {}
    for heads_gone in range(losses.heads.shape[1]):
        head_loss = float(losses.heads[:, heads_gone].sum())
        if not np.isfinite(head_loss):
            continue
        for first in range(shape.num_patches, 0, -1):
            counts = symmetric_counts(shape.num_patches, first / shape.num_patches, len(terms))
            if cost.table is not None:
                counts = _down_to(counts, losses)
            dropped = (shape.num_patches - count for count in counts)
            loss = head_loss + float(sum(term[d] for term, d in zip(terms.values(), dropped, strict=True)))
            blocks = _blocks(losses, dict(zip(terms, counts, strict=True)), heads_gone)
            if within and any(
                own.num_tokens > most.num_tokens for own, most in zip(blocks, within.blocks, strict=True)
            ):
                continue
            costs = {quantity: cost.cost(quantity, blocks) for quantity in limits}
            reached: dict[Quantity, float] = {q: cost.share(q, value) for q, value in costs.items()}
            for quantity, value in ({**reached, "loss-nats": loss} if max_loss < np.inf else reached).items():
                least[quantity] = min(value, least.get(quantity, np.inf))
            if loss > max_loss or any(costs[quantity] > limit for quantity, limit in limits.items()):
                continue
            found.append((cost.cost(goal, blocks) if max_loss < np.inf else loss, Best(blocks, loss)))
            if max_loss == np.inf:
                break  # fewer tokens would only lose more
    if not found:
        wanted = ", ".join(f"{budget.quantity}={budget.limit:g}" for budget in budgets)
        nearest = ", ".join(f"{quantity} {value:.4g}" for quantity, value in least.items())
        raise InfeasibleError(
            f"no symmetric plan with sites {', '.join(map(str, terms))} meets {wanted}: the least of each is {nearest}",
            hint="allow more, or leave --symmetric out",
        )
    return min(found, key=lambda pair: pair[0])[1]


def _down_to(counts: tuple[int, ...], losses: Losses) -> tuple[int, ...]:
    """Return the counts of patch tokens, each lowered to the next on offer."""
    offered = [count - losses.shape.num_prefix_tokens for count in losses.candidates]
    return tuple(max((one for one in offered if one <= count), default=offered[0]) for count in counts)


def symmetric_counts(num_patches: int, keep_ratio: float, num_sites: int) -> tuple[int, ...]:
    """Return the patch tokens kept at each site, each the same share of what the one before left, at least one."""
    return tuple(max(1, round(num_patches * keep_ratio ** (order + 1))) for order in range(num_sites))


def _blocks(losses: Losses, counts: dict[int, int], heads_gone: int) -> tuple[BlockPlan, ...]:
    shape, blocks, left = losses.shape, [], losses.shape.num_patches
    for block in range(shape.depth):
        left = counts.get(block, left)
        gone = losses.head_sets[block][heads_gone]
        blocks.append(make_block(shape, shape.num_prefix_tokens + left, gone, (), losses.unit_groups))
    return tuple(blocks)
