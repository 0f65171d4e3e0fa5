"""What each removal is predicted to lose, as tables that a solver adds up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.allocation.predict import (
    corrected_curves,
    corrected_heads,
    losses_at,
    site_terms,
)
from heartvit_edge.allocation.problem import Choice, Table
from heartvit_edge.sensitivity.table import ScoreTable
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.plan import BlockPlan, PruningPlan

Sets = tuple[tuple[tuple[int, ...], ...], ...]
"""For each block, by how many go, which."""


@dataclass(frozen=True)
class Losses:
    """Predicted loss of removals; infinite where a removal is not on offer.

    Attributes:
        shape: The dense model.
        sites: Blocks before which tokens may go, ascending.
        candidates: Token counts on offer, prefix included, ascending; the last is all tokens.
        tokens: Shape (sites, candidates), terms as ``predict.site_terms`` gives them.
        heads: Shape (depth, columns), by how many heads go.
        head_sets: Which heads go.
        units: Shape (depth, columns), by how many unit groups go.
        unit_sets: Which unit groups go.
        unit_groups: Groups into which each block's MLP hidden units are divided; 0: whole MLPs.
    """

    shape: ModelShape
    sites: tuple[int, ...]
    candidates: tuple[int, ...]
    tokens: Table
    heads: Table
    head_sets: Sets
    units: Table
    unit_sets: Sets
    unit_groups: int = 0

    def blocks(self, choice: Choice) -> tuple[BlockPlan, ...]:
        """Return what each block keeps under a choice."""
        found, count, at = [], self.shape.num_tokens, dict(zip(self.sites, choice.num_keep, strict=True))
        for block in range(self.shape.depth):
            count = at.get(block, count)
            gone = self.unit_sets[block][choice.units_removed[block]]
            found.append(
                make_block(
                    self.shape, count, self.head_sets[block][choice.heads_removed[block]], gone, self.unit_groups
                )
            )
        return tuple(found)


def make_block(
    shape: ModelShape, num_tokens: int, heads_gone: tuple[int, ...], units_gone: tuple[int, ...], unit_groups: int
) -> BlockPlan:
    """Return what a block keeps, from what goes."""
    units = tuple(group for group in range(unit_groups) if group not in units_gone)
    return BlockPlan(
        kept_heads=tuple(head for head in range(shape.num_heads) if head not in heads_gone),
        num_tokens=num_tokens,
        kept_units=units if units_gone else None,
    )


def dense_losses(
    table: ScoreTable,
    candidates: tuple[int, ...],
    *,
    sites: tuple[int, ...],
    prune_heads: bool,
    within: PruningPlan | None = None,
) -> Losses:
    """Return the losses that the scores at the dense model predict, corrected by what was measured for their map.

    Args:
        table: Scores of the model.
        candidates: Token counts on offer.
        sites: Blocks before which tokens may go; all scored.
        prune_heads: Whether heads may go, where the scorer scores them.
        within: A larger plan: what it removed is gone, and nothing of it is on offer.
    """
    shape = table.info.shape
    curves = corrected_curves(table)
    terms = site_terms({site: curves[site] for site in sites})
    tokens = np.array([losses_at(term, shape, candidates) for term in terms.values()]).reshape(
        len(sites), len(candidates)
    )
    groups = table.info.settings.unit_groups
    blocks = within.blocks if within else ()
    heads, head_sets = _by_count(
        corrected_heads(table) if table.info.heads_mean else np.zeros((shape.depth, shape.num_heads)),
        [missing(block.kept_heads, shape.num_heads) for block in blocks],
        free=prune_heads and bool(table.info.heads_mean),
    )
    units, unit_sets = _by_count(
        np.array(table.info.units_mean) if groups else np.zeros((shape.depth, 1)),
        [missing(block.kept_units, groups) for block in blocks],
        free=groups > 0,
    )
    if within is not None:
        for row, site in enumerate(sites):
            tokens[row, np.array(candidates) > within.blocks[site].num_tokens] = np.inf
    return Losses(shape, sites, candidates, tokens, heads, head_sets, units, unit_sets, groups)


def missing(kept: tuple[int, ...] | None, count: int) -> tuple[int, ...]:
    """Return those of 0 .. count - 1 that are not kept, ascending; None keeps all."""
    return () if kept is None else tuple(sorted(set(range(count)) - set(kept)))


def _by_count(scores: NDArray[np.float64], gone: Sequence[tuple[int, ...]], *, free: bool) -> tuple[Table, Sets]:
    """Return the losses of a block by how many go, the least-scored first, and which those are.

    Args:
        scores: Mean loss of each one, shape (depth, count); one stays.
        gone: For each block those that are gone already and stay so; empty for none anywhere.
        free: Whether more may go.
    """
    depth, count = scores.shape
    losses, sets = np.full((depth, count), np.inf), []
    for block in range(depth):
        before = gone[block] if gone else ()
        own = np.maximum(scores[block], 0)
        order = (*before, *(int(one) for one in np.argsort(own, kind="stable") if one not in before))
        last = count if free else len(before) + 1
        losses[block, len(before) : last] = np.concatenate([[0.0], np.cumsum(own[list(order)])])[len(before) : last]
        sets.append(tuple(tuple(sorted(order[:number])) for number in range(count)))
    return losses, tuple(sets)
