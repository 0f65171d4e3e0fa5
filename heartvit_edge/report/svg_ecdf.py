"""The share of inferences that took no longer than a given time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.report.chart import Frame, axes, drawing, labelled_ticks
from heartvit_edge.report.markup import Markup, element, escaped
from heartvit_edge.report.palette import Series
from heartvit_edge.report.scale import Scale

FRAME = Frame()
MOST_STEPS = 240
"""Steps of a drawn curve; more samples are thinned to as many order statistics."""

SHOWN_SHARE = 0.995
"""The axis ends where this share of the slowest engine's inferences has ended; the rest is told in words."""

SHOWN_MEDIANS = 2.5
"""It ends no further than this many medians of that engine, so that a long tail leaves room for the body."""

Y_TICKS = {0.0: "0", 0.25: "25", 0.5: "50", 0.75: "75", 0.9: "90", 0.99: "99"}


def pooled_ms(trials: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the latencies of all trials in ascending order, shape (N,)."""
    return np.sort(np.concatenate(trials))


def steps(ordered: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return (latency, share of samples up to it) with at most ``MOST_STEPS`` ascending points, first and last kept."""
    ranks = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), MOST_STEPS)).round().astype(int))
    return [(float(ordered[rank]), (rank + 1) / len(ordered)) for rank in ranks]


def ecdf_plot(curves: Sequence[tuple[Series, NDArray[np.float64]]], batch_size: int) -> tuple[Markup, str]:
    """Return the plot and a sentence on what lies beyond its right edge.

    Args:
        curves: How each engine is drawn, and its latencies in ms ascending, shape (N,).
        batch_size: Images an inference.
    """
    low = min(float(ordered[0]) for _, ordered in curves)
    high = max(_shown_until(ordered) for _, ordered in curves)
    margin = 0.04 * (high - low) or 0.05 * high or 1.0
    x = FRAME.x(max(0.0, low - margin), high + margin)
    y = FRAME.y(0.0, 1.0)
    parts = [axes(FRAME, x, y, "latency, ms", "inferences that took no longer, %", labelled_ticks(x), Y_TICKS)]
    beyond = []
    for series, ordered in curves:
        words = f"{series.name}: {len(ordered)} inferences, {ordered[0]:.4g} to {ordered[-1]:.4g} ms"
        parts.append(
            element(
                "path",
                element("title", escaped(words)),
                class_=f"line {series.colour}",
                stroke_dasharray=series.dash,
                d=_path(steps(ordered), x, y),
            )
        )
        slower = int(np.sum(ordered > x.high))
        if slower:
            beyond.append(f"{slower} of {len(ordered)} of {series.name} (slowest {ordered[-1]:.3g} ms)")
    label = f"Latency distribution at batch size {batch_size} of {', '.join(series.name for series, _ in curves)}"
    return drawing(FRAME, label, *parts), f"Beyond the right edge: {'; '.join(beyond)}." if beyond else ""


def _shown_until(ordered: NDArray[np.float64]) -> float:
    return float(min(np.quantile(ordered, SHOWN_SHARE), SHOWN_MEDIANS * np.median(ordered)))


def _path(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    """Return the staircase through the points, cut at the right edge of the plot."""
    inside = [point for point in points if point[0] <= x.high]
    path = f"M{x(points[0][0]):.2f} {y(0):.2f}"
    path += "".join(f"H{x(at):.2f}V{y(share):.2f}" for at, share in inside)
    return f"{path}H{x.end:.2f}"
