"""From scores and budgets to pruning plans."""

from __future__ import annotations

import numpy as np

from heartvit_edge.allocation.cost import dense_macs, plan_macs
from heartvit_edge.allocation.predict import corrected_curves, corrected_heads, head_curve, site_terms
from heartvit_edge.allocation.solve import Problem, candidate_tokens, losses_at, solve
from heartvit_edge.errors import InputError
from heartvit_edge.sensitivity.table import ScoreTable
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.model import ModelShape, ModelSource
from heartvit_edge.spec.plan import BlockPlan, PruningPlan


def dense_plan(source: ModelSource, shape: ModelShape) -> PruningPlan:
    """Return the plan that removes nothing."""
    whole = BlockPlan(kept_heads=tuple(range(shape.num_heads)), num_tokens=shape.num_tokens)
    macs = dense_macs(shape)
    return PruningPlan(
        source=source,
        shape=shape,
        budgets=(),
        blocks=(whole,) * shape.depth,
        predicted_loss_nats=0.0,
        macs=macs,
        dense_macs=macs,
        scorer=None,
        sensitivity_sha256=None,
    )


def make_plan(table: ScoreTable, budget: Budget, *, prune_heads: bool = True) -> PruningPlan:
    """Return the plan of least predicted loss within the budget.

    Args:
        table: Scores of the model.
        budget: Largest share of the dense MACs.
        prune_heads: Whether heads may go too, where the scorer scores them.

    Raises:
        InputError: If the scorer scores no tokens.
        InfeasibleError: If no plan meets the budget.
    """
    info = table.info
    shape = info.shape
    if not table.tokens:
        raise InputError(
            f"scorer {info.settings.scorer} scores no tokens, which a plan needs",
            hint="score with --scorer removal-gate",
        )
    if budget.limit == 1:
        made_from = {"sensitivity_sha256": info.digest(), "scorer": info.settings.scorer, "prune_heads": prune_heads}
        return dense_plan(info.source, shape).model_copy(update={"budgets": (budget,)} | made_from)
    candidates = candidate_tokens(shape)
    terms = site_terms(corrected_curves(table))
    curves = [head_curve(row) for row in corrected_heads(table)] if prune_heads else []
    if curves:
        head_loss = np.stack([losses[: shape.num_heads] for losses, _ in curves])
    else:
        head_loss = np.zeros((shape.depth, 1))
    found = solve(
        Problem(
            shape=shape,
            sites=tuple(terms),
            candidates=candidates,
            token_loss=np.stack([losses_at(term, shape, candidates) for term in terms.values()]),
            head_loss=head_loss,
            max_macs=_most_macs(budget.limit, dense_macs(shape)),
        )
    )
    blocks = []
    for block in range(shape.depth):
        gone = set(curves[block][1][: found.heads_removed[block]].tolist()) if curves else set()
        passed = [count for site, count in zip(terms, found.num_keep, strict=True) if site <= block]
        blocks.append(
            BlockPlan(
                kept_heads=tuple(head for head in range(shape.num_heads) if head not in gone),
                num_tokens=passed[-1] if passed else shape.num_tokens,
            )
        )
    return PruningPlan(
        source=info.source,
        shape=shape,
        budgets=(budget,),
        blocks=tuple(blocks),
        predicted_loss_nats=max(found.loss, 0.0) if info.in_nats else None,
        macs=plan_macs(shape, blocks),
        dense_macs=dense_macs(shape),
        scorer=info.settings.scorer,
        sensitivity_sha256=info.digest(),
        prune_heads=prune_heads,
    )


def _most_macs(limit: float, dense: int) -> int:
    """Return the most MACs whose fraction of ``dense`` is within the limit, as ``PruningPlan.macs_fraction`` has it.

    Flooring limit * dense alone would refuse 29 of 100 under 0.29, since that product is 28.999999999999996.
    """
    count = int(limit * dense) + 1
    while count / dense > limit:
        count -= 1
    return count
