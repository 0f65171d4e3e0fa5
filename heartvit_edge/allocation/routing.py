"""How many tokens the tails of a plan keep, and which threshold sends how many images to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.allocation.cost import plan_macs
from heartvit_edge.spec.plan import BlockPlan, PruningPlan
from heartvit_edge.spec.reduction import Reduction

HALVINGS = 32
"""Steps of the search for a threshold, more than float32 has digits."""

Counts = dict[int, int]
"""Site to the patch tokens that go on from there."""


@dataclass(frozen=True)
class Chosen:
    """A threshold, its buckets, and what they cost on the images that chose them.

    Attributes:
        threshold: Most that all which an image loses at the first site may be worth together.
        needed: Patch tokens that each image needs, shape (N,).
        tails: Counts of each bucket, ascending.
        mean_macs: Mean multiply-accumulates of an image, rounded up to its bucket; a learned gate's are left out.
    """

    threshold: float
    needed: NDArray[np.int64]
    tails: tuple[Counts, ...]
    mean_macs: float


def scaled_counts(plan: PruningPlan, first: int, reduction: Reduction) -> Counts:
    """Return counts for all sites that stand to the first site's as the plan's do.

    They are multiples of what the plan's are multiples of, prefix tokens included, and do not grow from site to site.

    Args:
        plan: With sites.
        first: Patch tokens from the first site on.
        reduction: Where tokens are fused, each site takes one more.
    """
    prefix, step = plan.shape.num_prefix_tokens, _step(plan)
    sites = list(plan.sites.items())
    found = {sites[0][0]: first}
    takes = 1 if reduction == "fuse" else 0
    for number, (site, count) in enumerate(sites[1:], start=1):
        wanted = count * (first + prefix) / sites[0][1]
        rounded = step * max(1, round(wanted / step)) - prefix
        most = min(found.values()) - takes
        found[site] = max(min(rounded, most), 1 + takes * (len(sites) - number))
    return found


def offered_counts(plan: PruningPlan, reduction: Reduction) -> list[int]:
    """Return what the first site of a tail may keep, ascending: multiples of eight with prefix, where the plan's are.

    The largest is every patch token, or all but one for each site where tokens are fused.
    """
    shape, prefix = plan.shape, plan.shape.num_prefix_tokens
    fewest, most = 1, shape.num_patches
    if reduction == "fuse":
        fewest, most = 1 + len(plan.sites), most - 1
    step = _step(plan)
    found = {count - prefix for count in range(step, shape.num_tokens + 1, step)} | {most}
    return sorted(count for count in found if fewest <= count <= most)


def macs_of_counts(plan: PruningPlan, counts: Mapping[int, int]) -> int:
    """Return the multiply-accumulates of an image that keeps other counts at the plan's sites; gates are left out."""
    return plan_macs(plan.shape, with_counts(plan, counts), plan.unit_groups)


def with_counts(plan: PruningPlan, counts: Mapping[int, int]) -> tuple[BlockPlan, ...]:
    """Return a plan's blocks with other numbers of patch tokens from its sites on."""
    blocks, tokens = [], plan.shape.num_tokens
    for index, block in enumerate(plan.blocks):
        if index in counts:
            tokens = plan.shape.num_prefix_tokens + counts[index]
        blocks.append(block.model_copy(update={"num_tokens": tokens}))
    return tuple(blocks)


def choose_buckets(needed: NDArray[np.int64], cost: Mapping[int, int], num_buckets: int) -> tuple[int, ...]:
    """Return the buckets that cost the images least in all, each image rounded up to the next bucket.

    The largest is the first that holds every image. Exact, by dynamic programming over the offered buckets.

    Args:
        needed: Patch tokens that each image needs, shape (N,), none more than the largest offered.
        cost: Offered bucket to the cost of an image there, ascending in both.
        num_buckets: Most buckets to choose.
    """
    offered = sorted(cost)
    last = int(np.searchsorted(offered, needed.max()))
    below = np.searchsorted(np.sort(needed), offered[: last + 1], side="right")  # images that each bucket holds
    best: list[tuple[float, tuple[int, ...]]] = [
        (cost[offered[end]] * float(below[end]), (end,)) for end in range(last + 1)
    ]
    for _ in range(num_buckets - 1):
        best = [
            min(
                [
                    best[end],
                    *(
                        (
                            best[former][0] + cost[offered[end]] * float(below[end] - below[former]),
                            (*best[former][1], end),
                        )
                        for former in range(end)
                    ),
                ]
            )
            for end in range(last + 1)
        ]
    chosen = best[last][1]
    held = [0, *(int(below[end]) for end in chosen)]
    return tuple(offered[end] for number, end in enumerate(chosen) if held[number + 1] > held[number])


def choose_threshold(plan: PruningPlan, spent: NDArray[np.float32], reduction: Reduction, num_buckets: int) -> Chosen:
    """Return the threshold and buckets with the most MACs that come, in the mean over images, to the plan's at most.

    Args:
        plan: With sites.
        spent: What losing the 1, 2, .. P patch tokens of least worth costs each image, shape (N, P), rows ascending.
        reduction: What becomes of tokens that are not kept.
        num_buckets: Most tails.
    """
    offered = offered_counts(plan, reduction)
    tails = {first: scaled_counts(plan, first, reduction) for first in offered}
    cost = {first: macs_of_counts(plan, counts) for first, counts in tails.items()}

    def at(threshold: float) -> Chosen:
        fits = (spent <= np.float32(threshold)).sum(axis=1)
        needed = (spent.shape[1] - fits).clip(offered[0], offered[-1])
        buckets = choose_buckets(needed, cost, num_buckets)
        place = np.searchsorted(buckets, needed)
        mean = float(np.mean([cost[buckets[number]] for number in place]))
        return Chosen(threshold, needed, tuple(tails[bucket] for bucket in buckets), mean)

    low, high = 0.0, float(spent.max())
    best = at(high)
    for _ in range(HALVINGS):
        middle = float(np.float32((low + high) / 2))
        found = at(middle)
        if found.mean_macs > plan.macs:
            low = middle
        else:
            high = middle
            best = max(best, found, key=lambda one: one.mean_macs)
    return best


def _step(plan: PruningPlan) -> int:
    """Return 8, 4 or 2 if every site's count, prefix included, is a multiple of it; else 1."""
    counts: Sequence[int] = list(plan.sites.values())
    return next(step for step in (8, 4, 2, 1) if all(count % step == 0 for count in counts))
