"""Which points no other point beats."""

from __future__ import annotations

from collections.abc import Sequence


def non_dominated(points: Sequence[tuple[float, float]]) -> tuple[bool, ...]:
    """Return for each (cost, quality) whether no other point costs no more and is no worse, one of them strictly.

    Equal points do not dominate each other.
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    best: tuple[float, float] | None = None  # the cheapest point of the best quality so far
    keep = [False] * len(points)
    for index in order:
        if best is None or points[index][1] > best[1]:
            best = points[index]
        keep[index] = points[index] == best
    return tuple(keep)
