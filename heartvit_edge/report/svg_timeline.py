"""Latency over the run: drift, steps and bursts of slowness, which a distribution hides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heartvit_edge.bench.figures import calls_of
from heartvit_edge.report.chart import Frame, axes, drawing, labelled_ticks
from heartvit_edge.report.markup import Markup, element, escaped
from heartvit_edge.report.palette import Series
from heartvit_edge.report.scale import padded
from heartvit_edge.report.svg_power import envelope
from heartvit_edge.spec.measurement import Trial

FRAME = Frame(width=980, height=260)
POINTS = 700
"""Points of all lines together: each is drawn through the fastest and the slowest call of equal spans of time."""

SHOWN_SHARE = 0.999
"""The axis ends where this share of all calls has ended; slower ones are drawn at its edge."""


def timeline_plot(trials: Sequence[tuple[Series, Trial]], batch_size: int) -> Markup:
    """Return the latency of every call over seconds, one line a trial.

    Args:
        trials: How the engine is drawn, and a trial of it; at least one.
        batch_size: Images an inference, for the words.
    """
    every = np.concatenate([calls_of(trial) for _, trial in trials])
    low, high = padded(float(every.min()), float(np.quantile(every, SHOWN_SHARE)))
    x = FRAME.x(0.0, max(trial.end_s for _, trial in trials))
    y = FRAME.y(max(0.0, low), high)
    parts = [axes(FRAME, x, y, "seconds since the run began", "latency, ms", labelled_ticks(x, 10), labelled_ticks(y))]
    buckets = max(4, POINTS // (2 * len(trials)))
    for series, trial in trials:
        latency = calls_of(trial)
        # Calls of one window are nearly as long as each other: the one in the middle ran in the middle.
        share = (np.arange(len(latency)) + 0.5) / len(latency)
        times = trial.start_s + share * (trial.end_s - trial.start_s)
        points = " ".join(f"{x(at):.1f},{y(min(ms, high)):.1f}" for at, ms in envelope(times, latency, buckets))
        words = (
            f"{series.name}: {trial.start_s:.2f} to {trial.end_s:.2f} s, {latency.min():.4g} to {latency.max():.4g} ms"
        )
        parts.append(
            element("polyline", element("title", escaped(words)), class_=f"line thin {series.colour}", points=points)
        )
    label = f"Latency over the run at batch size {batch_size}: {len(trials)} trials"
    return drawing(FRAME, label, *parts, class_="chart wide")
