"""Latency over the run: drift, steps and bursts of slowness, which a distribution hides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.bench.figures import calls_of
from heartvit_edge.report.chart import Frame, axes, drawing, labelled_ticks
from heartvit_edge.report.markup import Markup, element, escaped
from heartvit_edge.report.palette import Series
from heartvit_edge.report.scale import padded
from heartvit_edge.spec.measurement import Trial

FRAME = Frame(width=980, height=260)
SPAN_PX = 3.0
"""Width of the equal spans of calls of which the median, the fastest and a slow call are drawn."""

MIN_CALLS = 5
"""Fewest calls of a span."""

SLOW_SHARE = 0.95
"""The band of a span ends at the call that this share of its calls does not exceed."""


def spans(trial: Trial, most: int) -> list[tuple[float, float, float, float]]:
    """Return the time at the middle of each equal span of calls in s, and its fastest, median and slow call in ms.

    Args:
        trial: Any.
        most: Spans at the most, at least one.
    """
    latency = calls_of(trial)
    count = max(1, min(most, len(latency) // MIN_CALLS))
    # Calls of one window are nearly as long as each other: the one in the middle ran in the middle.
    length_s = (trial.end_s - trial.start_s) / count
    return [
        (trial.start_s + (index + 0.5) * length_s, float(part.min()), float(np.median(part)), _slow(part))
        for index, part in enumerate(np.array_split(latency, count))
    ]


def timeline_plot(trials: Sequence[tuple[Series, Trial]], batch_size: int) -> Markup:
    """Return latency over seconds: a line through the medians, in a band from the fastest to the slow calls.

    Args:
        trials: How the engine is drawn, and a trial of it; at least one.
        batch_size: Images an inference, for the words.
    """
    x = FRAME.x(min(trial.start_s for _, trial in trials), max(trial.end_s for _, trial in trials))
    drawn = [(series, trial, spans(trial, _most(x(trial.end_s) - x(trial.start_s)))) for series, trial in trials]
    ends = [(fast, slow) for *_, found in drawn for _, fast, _, slow in found]
    low, high = padded(min(fast for fast, _ in ends), max(slow for _, slow in ends))
    y = FRAME.y(max(0.0, low), high)
    parts = [axes(FRAME, x, y, "seconds since the run began", "latency, ms", labelled_ticks(x, 10), labelled_ticks(y))]
    for series, trial, found in drawn:
        edges = [(at, fast) for at, fast, _, _ in found] + [(at, slow) for at, _, _, slow in reversed(found)]
        medians = [(at, median) for at, _, median, _ in found]
        if len(found) == 1:  # a point would not be seen
            medians = [(trial.start_s, found[0][2]), (trial.end_s, found[0][2])]
        calls = calls_of(trial)
        words = f"{series.name}: {trial.start_s:.2f} to {trial.end_s:.2f} s, {calls.min():.4g} to {calls.max():.4g} ms"
        band = " ".join(f"{x(at):.1f},{y(ms):.1f}" for at, ms in edges)
        line = " ".join(f"{x(at):.1f},{y(ms):.1f}" for at, ms in medians)
        parts.append(
            element(
                "g",
                element("title", escaped(words)),
                element("polygon", class_=f"window {series.colour}", points=band),
                element("polyline", class_=f"line thin {series.colour}", points=line),
            )
        )
    label = f"Latency over the run at batch size {batch_size}: {len(trials)} trials"
    return drawing(FRAME, label, *parts, class_="chart wide")


def _most(width_px: float) -> int:
    return max(1, round(width_px / SPAN_PX))


def _slow(latency_ms: NDArray[np.float64]) -> float:
    return float(np.quantile(latency_ms, SLOW_SHARE))
