"""MLPerf's ways to ask an engine, as batch sizes and the figure that each is judged by.

single-stream   one image, and the next when it is answered     90th percentile of latency
multi-stream    eight images at a time, likewise                99th percentile of latency
offline         all at once, in batches of any size             images a second, at the best batch size

Source:
    MLPerf Inference rules, section "Scenarios", from v2.0 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heartvit_edge.bench.figures import Figure, latency_figures
from heartvit_edge.errors import InputError
from heartvit_edge.spec.engine import BatchRange
from heartvit_edge.spec.measurement import EntryMeasurement, Measurement, Scenario

MULTI_STREAM_IMAGES = 8
"""Images of one query of the multi-stream scenario."""

MLPERF_S = 600.0
"""Least length of a run of MLPerf."""

HEADLINES: dict[Scenario, str] = {"single-stream": "p90 ms", "multi-stream": "p99 ms", "offline": "images/s"}


@dataclass(frozen=True)
class Pace:
    """How long everything takes, in seconds, and how often.

    Attributes:
        duration_s: Of one window, and the cap of each warm-up.
        num_trials: Windows of each engine and batch size.
        idle_s: Of the idle window, where power is read.
        cool_down_s: Of the rest before each window.
    """

    duration_s: float
    num_trials: int
    idle_s: float
    cool_down_s: float

    def time_text(self, num_workloads: int) -> str:
        """Return how long a run of so many engines and batch sizes takes at the most, roughly, in words."""
        windows_s = self.duration_s + self.num_trials * (self.duration_s + self.cool_down_s)
        seconds = self.idle_s + num_workloads * windows_s
        if seconds < 120:
            return f"{max(seconds, 1):.0f} s"
        return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


QUICK = Pace(duration_s=3.0, num_trials=3, idle_s=3.0, cool_down_s=0.0)
MLPERF = Pace(duration_s=MLPERF_S, num_trials=3, idle_s=60.0, cool_down_s=60.0)


def scenario_sizes(scenario: Scenario, given: Sequence[int], served: BatchRange) -> list[int]:
    """Return the batch sizes of a scenario.

    Args:
        scenario: Which.
        given: Batch sizes that were asked for; only ``offline`` leaves a choice.
        served: Batch sizes that every engine serves.

    Raises:
        InputError: If others than the scenario's were asked for, or the engines do not serve its own.
    """
    if scenario == "offline":
        powers = [2**k for k in range(served.max.bit_length()) if served.min <= 2**k <= served.max]
        return list(given) or powers or [served.max]
    size = 1 if scenario == "single-stream" else MULTI_STREAM_IMAGES
    if given and list(given) != [size]:
        raise InputError(
            f"--scenario {scenario} asks for {size} image{'s' if size > 1 else ''} at a time, found --batch-size "
            f"{','.join(map(str, given))}",
            hint="leave --batch-size out",
        )
    return [size]


def headline(scenario: Scenario, row: EntryMeasurement) -> Figure:
    """Return the figure that a scenario judges a row by."""
    figures = latency_figures(row)
    return {"single-stream": figures.p90_ms, "multi-stream": figures.p99_ms, "offline": figures.images_per_s}[scenario]


def best_offline(measurement: Measurement) -> dict[str, int]:
    """Map each entry to the batch size at which it answers the most images a second."""
    best: dict[str, tuple[float, int]] = {}
    for row in measurement.rows:
        rate = latency_figures(row).images_per_s.value or 0.0
        best[row.entry] = max(best.get(row.entry, (0.0, row.batch_size)), (rate, row.batch_size))
    return {entry: size for entry, (_, size) in best.items()}
