"""Plans one step from a plan, and what they lose as tables that add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.allocation.losses import Losses, Sets, make_block, missing
from heartvit_edge.allocation.problem import Table
from heartvit_edge.spec.plan import BlockPlan

Blocks = tuple[BlockPlan, ...]


class RanPlan(Protocol):
    """A plan that ran on images."""

    @property
    def losses(self) -> NDArray[np.float64]:
        """Loss of each image, in nats, shape (N,)."""

    @property
    def num_agreeing(self) -> int:
        """Images whose first class is the dense model's."""

    def measure(self, variants: Sequence[Sequence[BlockPlan]]) -> NDArray[np.float64]:
        """Return the losses of plans near this one on the same images, shape (plans, N), in nats."""


MOST_AT_ONCE = 2
"""Heads, or unit groups, of one block that may go in one round: their losses are taken to add up."""


@dataclass(frozen=True)
class Step:
    """A change of a plan by one step.

    Attributes:
        block: Where it begins.
        shift: Tokens dropped more (or, negative, fewer) from that block on.
        head: A head of the block that goes, or comes back.
        unit: A unit group of the block that goes, or comes back.
    """

    block: int
    shift: int = 0
    head: int | None = None
    unit: int | None = None


@dataclass(frozen=True)
class Neighbours:
    """The steps from a plan, each with the loss it adds.

    Attributes:
        blocks: The plan.
        offer: What may go at all, as the dense model's losses say it.
        steps: The steps.
        added: Loss that each step adds on each image, in nats, shape (steps, N).
    """

    blocks: Blocks
    offer: Losses
    steps: tuple[Step, ...]
    added: NDArray[np.float64]

    @classmethod
    def none(cls, blocks: Blocks, offer: Losses) -> Neighbours:
        """Return a plan of which no neighbour is known yet."""
        return cls(blocks, offer, (), np.empty((0, 0)))

    def moved(self, blocks: Blocks, steps: list[Step], ran: RanPlan) -> Neighbours:
        """Return the steps from a plan, measured on the images on which it ran, but for those known already.

        Args:
            blocks: The plan.
            steps: Steps from it.
            ran: What it answered.
        """
        known = dict(zip(self.steps, self.added, strict=True)) if blocks == self.blocks else {}
        unknown = [step for step in steps if step not in known]
        measured = ran.measure([take(step, blocks, self.offer) for step in unknown]) - ran.losses
        known |= dict(zip(unknown, measured, strict=True))
        added = np.array([known[step] for step in steps]).reshape(len(steps), len(ran.losses))
        return Neighbours(blocks, self.offer, tuple(steps), added)

    def losses(self, images: NDArray[np.int64] | None = None) -> Losses:
        """Return the mean losses that steps add, as tables in which every choice but a step or none is infinite.

        A token step at site s says what dropping so many more from s on adds, up to the last block. Choices at several
        sites add up as ``predict.site_terms`` has it: each site pays for the change from what the one before chose.

        Args:
            images: Positions to average over, repeats allowed; None: each once.
        """
        added = self.added.mean(axis=1) if images is None else self.added[:, images].mean(axis=1)
        by_step = dict(zip(self.steps, added.tolist(), strict=True))
        no_heads = [missing(block.kept_heads, self.offer.shape.num_heads) for block in self.blocks]
        no_units = [missing(block.kept_units, self.offer.unit_groups) for block in self.blocks]
        heads, head_sets = self._removed(no_heads, by_step, "head")
        units, unit_sets = self._removed(no_units, by_step, "unit")
        return replace(
            self.offer, tokens=self._tokens(by_step), heads=heads, head_sets=head_sets, units=units, unit_sets=unit_sets
        )

    def _tokens(self, by_step: dict[Step, float]) -> Table:
        """Return the sites' terms, shape (sites, candidates).

        A site that has as many tokens as the one before can only follow that one to more: of what the other's step
        saves, the share of its own blocks is taken for its own.
        """
        offer, depth = self.offer, self.offer.shape.depth
        added = {site: {0: 0.0} for site in offer.sites}  # by tokens dropped more from the site on
        for step, loss in by_step.items():
            if step.shift:
                added[step.block][step.shift] = loss
        for before, site in pairwise(offer.sites):
            if self.blocks[site].num_tokens == self.blocks[before].num_tokens:
                share = (depth - site) / (depth - before)
                added[site] |= {shift: share * loss for shift, loss in added[before].items() if shift < 0}
        table = np.full((len(offer.sites), len(offer.candidates)), np.inf)
        for row, site in enumerate(offer.sites):
            following = added[offer.sites[row + 1]] if row + 1 < len(offer.sites) else {0: 0.0}
            at = sorted(following)
            for column, count in enumerate(offer.candidates):
                shift = self.blocks[site].num_tokens - count
                if shift in added[site] and (not shift or np.isfinite(offer.tokens[row, column])):
                    later = np.interp(shift, at, [following[one] for one in at])
                    table[row, column] = added[site][shift] - later
        return table

    def _removed(
        self, gone: list[tuple[int, ...]], by_step: dict[Step, float], kind: Literal["head", "unit"]
    ) -> tuple[Table, Sets]:
        """Return the losses by how many heads or unit groups go, and which: those gone, one back, or some more."""
        columns = (self.offer.heads if kind == "head" else self.offer.units).shape[1]
        losses, sets = np.full((len(gone), columns), np.inf), []
        for block, before in enumerate(gone):
            own = {getattr(step, kind): loss for step, loss in by_step.items() if step.block == block}
            own.pop(None, None)
            by_count: list[tuple[int, ...]] = [()] * columns
            losses[block, len(before)], by_count[len(before)] = 0.0, before
            back = [(own[one], one) for one in before if one in own]
            if back:
                loss, one = min(back)
                losses[block, len(before) - 1] = loss
                by_count[len(before) - 1] = tuple(other for other in before if other != one)
            more = sorted((loss, one) for one, loss in own.items() if one not in before)
            for number in range(1, min(MOST_AT_ONCE, len(more), columns - 1 - len(before)) + 1):
                chosen = more[:number]
                losses[block, len(before) + number] = sum(loss for loss, _ in chosen)
                by_count[len(before) + number] = tuple(sorted((*before, *(one for _, one in chosen))))
            sets.append(tuple(by_count))
        return losses, tuple(sets)


def steps_from(blocks: Blocks, offer: Losses) -> list[Step]:
    """Return every step that the offer allows: one candidate up or down at each site, one head or unit group."""
    steps = []
    for row, site in enumerate(offer.sites):
        now, before = blocks[site].num_tokens, blocks[site - 1].num_tokens
        allowed = [c for c, loss in zip(offer.candidates, offer.tokens[row], strict=True) if np.isfinite(loss)]
        fewer = [count for count in allowed if count < now]
        more = [count for count in allowed if now < count <= before]
        steps += [Step(site, shift=now - count) for count in (*fewer[-1:], *more[:1])]
    shape, groups = offer.shape, offer.unit_groups
    for index, block in enumerate(blocks):
        heads = _free(block.kept_heads, shape.num_heads, offer.heads[index], offer.head_sets[index])
        units = _free(block.kept_units, groups, offer.units[index], offer.unit_sets[index]) if groups else []
        steps += [*(Step(index, head=one) for one in heads), *(Step(index, unit=one) for one in units)]
    return steps


def take(step: Step, blocks: Blocks, offer: Losses) -> Blocks:
    """Return the plan after a step."""
    changed = list(blocks)
    if step.shift:
        before = blocks[step.block - 1].num_tokens
        for index in range(step.block, len(blocks)):
            count = blocks[index].num_tokens - step.shift
            before = min(before, max(count, offer.candidates[0]))
            changed[index] = blocks[index].model_copy(update={"num_tokens": before})
        return tuple(changed)
    block, shape, groups = blocks[step.block], offer.shape, offer.unit_groups
    heads, units = set(missing(block.kept_heads, shape.num_heads)), set(missing(block.kept_units, groups))
    if step.head is not None:
        heads ^= {step.head}
    if step.unit is not None:
        units ^= {step.unit}
    changed[step.block] = make_block(shape, block.num_tokens, tuple(sorted(heads)), tuple(sorted(units)), groups)
    return tuple(changed)


def _free(kept: tuple[int, ...] | None, count: int, losses: Table, sets: tuple[tuple[int, ...], ...]) -> list[int]:
    """Return those that may go, one of those kept always staying, and those gone that may come back."""
    gone = missing(kept, count)
    allowed = np.flatnonzero(np.isfinite(losses))
    for_good = sets[allowed[0]]
    may_go = [one for one in range(count) if one not in gone] if len(gone) < allowed[-1] else []
    return [*may_go, *(one for one in gone if one not in for_good)]
