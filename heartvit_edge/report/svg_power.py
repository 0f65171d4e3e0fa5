"""Power over the run, with the measured windows shaded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.report.chart import Frame, axes, drawing, labelled_ticks
from heartvit_edge.report.markup import Markup, element, escaped
from heartvit_edge.report.palette import Series
from heartvit_edge.report.scale import Scale
from heartvit_edge.spec.measurement import PowerTrace, Trial, Window

FRAME = Frame(width=980, height=300)
BUCKETS = 450
"""The line is drawn through the smallest and the largest reading of each of these equal spans of time."""


def envelope(times_s: NDArray[np.float64], values: NDArray[np.float64], buckets: int) -> list[tuple[float, float]]:
    """Return the readings, thinned to the smallest and largest of each bucket, in time order.

    Args:
        times_s: Shape (N,), ascending.
        values: Shape (N,).
        buckets: Equal spans of time; no more than twice as many points come back.
    """
    if len(times_s) <= 2 * buckets:
        return list(zip(times_s.tolist(), values.tolist(), strict=True))
    edges = np.linspace(times_s[0], times_s[-1], buckets + 1)
    bounds = np.searchsorted(times_s, edges)
    bounds[-1] = len(times_s)
    keep: set[int] = set()
    for first, last in pairwise(bounds.tolist()):
        if last > first:
            keep |= {first + int(values[first:last].argmin()), first + int(values[first:last].argmax())}
    return [(float(times_s[index]), float(values[index])) for index in sorted(keep)]


def power_plot(trace: PowerTrace, windows: Sequence[tuple[Series, int, Trial]], idle: Window | None = None) -> Markup:
    """Return total power in watt over seconds.

    Args:
        trace: Every reading; at least one.
        windows: How the engine is drawn, its batch size, and the trial whose window is shaded.
        idle: The window in which nothing ran, shaded too; None where there is none.
    """
    times = np.asarray(trace.times_s, dtype=np.float64)
    watts = np.asarray(trace.total_mw(), dtype=np.float64) / 1000
    x = FRAME.x(0.0, max(float(times[-1]), 1e-3, *(trial.end_s for _, _, trial in windows)))
    y = FRAME.y(min(0.0, float(watts.min())), 1.08 * float(watts.max()) if watts.max() > 0 else 1.0)
    parts = [_window(x, y, *window) for window in windows]
    if idle is not None:
        parts.append(_shade(x, y, idle.start_s, idle.end_s, "idle", "idle"))
    parts.append(
        axes(FRAME, x, y, "seconds since the run began", "total power, W", labelled_ticks(x, 10), labelled_ticks(y))
    )
    points = " ".join(f"{x(at):.1f},{y(watt):.1f}" for at, watt in envelope(times, watts, BUCKETS))
    parts.append(element("polyline", class_="power", points=points))
    label = f"Total power from {trace.source}: {watts.min():.3g} to {watts.max():.3g} W, {len(windows)} windows shaded"
    return drawing(FRAME, label, *parts, class_="chart wide")


def _window(x: Scale, y: Scale, series: Series, batch_size: int, trial: Trial) -> Markup:
    name = f"{series.name}, batch size {batch_size}"
    return _shade(x, y, trial.start_s, trial.end_s, name, f"window {series.colour}")


def _shade(x: Scale, y: Scale, start_s: float, end_s: float, name: str, class_: str) -> Markup:
    """Return the whole height of the plot between two times, shaded."""
    words = f"{name}: {start_s:.2f} to {end_s:.2f} s"
    return element(
        "rect",
        element("title", escaped(words)),
        class_=class_,
        x=x(start_s),
        y=y.end,
        width=x(end_s) - x(start_s),
        height=y.start - y.end,
    )
