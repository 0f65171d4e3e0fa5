"""Where to write the names of points so that they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heartvit_edge.report.chart import CHARACTER_PX, LINE_PX


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Return the shared area in square pixels."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def outside(self, area: Box) -> float:
        """Return how much of this lies outside ``area``, in square pixels."""
        return (self.right - self.left) * (self.bottom - self.top) - self.overlap(area)


def place(texts: Sequence[str], points: Sequence[tuple[float, float]], taken: Sequence[Box], area: Box) -> list[Box]:
    """Return a box for each text beside its point.

    Each takes the first of fourteen places around its point that is free, or the one that covers least.

    Args:
        texts: What is written.
        points: Where its point is drawn, in pixels.
        taken: Boxes that no text should cover: marks and error bars.
        area: The plot area, which no text should leave.
    """
    placed: list[Box] = []
    for text, (x, y) in zip(texts, points, strict=True):
        busy = [*taken, *placed]
        placed.append(min(_around(text, x, y), key=lambda box: sum(map(box.overlap, busy)) + 4 * box.outside(area)))
    return placed


def _around(text: str, x: float, y: float) -> list[Box]:
    width, gap, half = CHARACTER_PX * len(text), 10.0, LINE_PX / 2
    right, left, middle = x + gap, x - gap - width, x - width / 2
    above, below = y - gap - half, y + gap + half
    centres = [(right, y), (left, y), (right, above), (right, below), (left, above), (left, below)]
    centres += [(middle, above), (middle, below)]
    centres += [(at, centre) for centre in (above - LINE_PX, below + LINE_PX) for at in (right, left, middle)]
    return [Box(at, centre - half, at + width, centre + half) for at, centre in centres]
