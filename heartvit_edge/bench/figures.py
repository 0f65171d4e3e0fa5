"""Figures computed from raw samples when they are asked for: what ``bench`` and ``report`` print.

latency_figures(row)                 percentiles, mean, throughput
ratio_figures(measurement, row)      against the dense engine of the same run and batch size
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator
from typing_extensions import Self

from heartvit_edge.bench.statistics import half_width, percentile, ratio_of_means
from heartvit_edge.spec.base import Spec
from heartvit_edge.spec.measurement import EntryMeasurement, Measurement, Trial

MIN_SAMPLES = {0.5: 1, 0.9: 50, 0.99: 500}
"""Fewest samples that give each percentile: a tail needs five samples expected beyond it."""

DENSE = "dense"
"""Name of the pack's entry that every other is compared with."""

BOOTSTRAP_SEED = 0
"""Seed of the resamples, so that the same samples always print the same interval."""


class Figure(Spec):
    """One number with its 95 % confidence interval, or the reason why there is none.

    Attributes:
        value: The number in the unit that its name says; None where it cannot be given.
        low: Lower end of the interval; None where none can be given.
        high: Upper end of the interval; None where none can be given.
        reason: Why ``value`` is None; None where it is not.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    @model_validator(mode="after")
    def _value_or_a_reason(self) -> Self:
        if (self.value is None) == (self.reason is None):
            raise ValueError("exactly one of value and reason must be given")
        return self


class LatencyFigures(Spec):
    """Time of one engine at one batch size, over all trials.

    Attributes:
        num_samples: Inferences timed.
        mean_ms: Mean latency of an inference; interval from the spread between trials.
        p50_ms: Median latency; interval from order statistics.
        p90_ms: 90th percentile, as p50_ms.
        p99_ms: 99th percentile, as p50_ms.
        images_per_s: Images over the time of the windows, loop included; interval from the spread between trials.
        host_overhead_us: Time of the measuring loop between two calls, in microseconds, which no latency contains.
        waiting_ms: Mean time that a request waited for its call, where requests come when they will; the latencies
            above contain it.
    """

    num_samples: int
    mean_ms: Figure
    p50_ms: Figure
    p90_ms: Figure
    p99_ms: Figure
    images_per_s: Figure
    host_overhead_us: Figure
    waiting_ms: Figure


class RatioFigures(Spec):
    """One engine against the dense one at the same batch size; bootstrap intervals over paired rounds.

    Attributes:
        latency: Mean latency over the dense engine's; below 1 is faster.
        throughput: Images a second over the dense engine's; above 1 is faster.
    """

    latency: Figure
    throughput: Figure


def latency_figures(row: EntryMeasurement) -> LatencyFigures:
    """Return percentiles, mean and throughput of one engine at one batch size."""
    samples = np.concatenate([calls_of(trial) for trial in row.trials])
    images = [row.batch_size * len(trial.latency_ms) for trial in row.trials]
    windows_s = [trial.end_s - trial.start_s for trial in row.trials]
    return LatencyFigures(
        num_samples=samples.size,
        mean_ms=around(float(samples.mean()), [float(calls_of(trial).mean()) for trial in row.trials]),
        p50_ms=_percentile(samples, 0.5),
        p90_ms=_percentile(samples, 0.9),
        p99_ms=_percentile(samples, 0.99),
        images_per_s=around(
            sum(images) / sum(windows_s), [count / window for count, window in zip(images, windows_s, strict=True)]
        ),
        host_overhead_us=_host_overhead_us(row),
        waiting_ms=_waiting_ms(row),
    )


def ratio_figures(measurement: Measurement, row: EntryMeasurement) -> RatioFigures:
    """Return latency and throughput of one row as ratios to the dense engine's row at the same batch size."""
    dense = [r for r in measurement.rows if r.entry == DENSE and r.batch_size == row.batch_size]
    if not dense:
        missing = Figure(value=None, reason=f"the dense engine was not measured at batch size {row.batch_size}")
        return RatioFigures(latency=missing, throughput=missing)
    if dense[0] == row:
        return RatioFigures(latency=Figure(value=1.0), throughput=Figure(value=1.0))
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    latency = ratio_of_means(
        [calls_of(trial) for trial in row.trials], [calls_of(trial) for trial in dense[0].trials], generator
    )
    throughput = ratio_of_means(
        [_call_ms(trial) for trial in dense[0].trials], [_call_ms(trial) for trial in row.trials], generator
    )
    return RatioFigures(
        latency=Figure(value=latency[0], low=latency[1], high=latency[2]),
        throughput=Figure(value=throughput[0], low=throughput[1], high=throughput[2]),
    )


def calls_of(trial: Trial) -> NDArray[np.float64]:
    """Return the time of each request in ms, from when it came to when it was answered, shape (N,)."""
    latency = np.asarray(trial.latency_ms, dtype=np.float64)
    return latency + np.asarray(trial.waiting_ms, dtype=np.float64) if trial.waiting_ms else latency


def _call_ms(trial: Trial) -> NDArray[np.float64]:
    """Return the latency of each call plus its share of the window's time between calls."""
    latency = calls_of(trial)
    calls: NDArray[np.float64] = latency + (1000 * (trial.end_s - trial.start_s) - latency.sum()) / latency.size
    return calls


def _host_overhead_us(row: EntryMeasurement) -> Figure:
    if row.trials[0].waiting_ms:
        return Figure(value=None, reason="between two calls the loop waits for a request to come")
    between = [1000 * float((_call_ms(trial) - calls_of(trial)).mean()) for trial in row.trials]
    return around(sum(between) / len(between), between)


def _waiting_ms(row: EntryMeasurement) -> Figure:
    if not row.trials[0].waiting_ms:
        return Figure(value=None, reason="each call began as the one before ended")
    means = [float(np.mean(trial.waiting_ms)) for trial in row.trials]
    return around(sum(means) / len(means), means)


def _percentile(samples: NDArray[np.float64], share: float) -> Figure:
    if samples.size < MIN_SAMPLES[share]:
        least = MIN_SAMPLES[share]
        longer = math.ceil(10 * least / samples.size) / 10
        reason = f"p{100 * share:g} needs at least {least} samples, found {samples.size}"
        return Figure(value=None, reason=f"{reason}: trials {longer:g} times as long have them")
    value, low, high = percentile(samples, share)
    return Figure(value=value, low=low, high=high)


def around(value: float, samples: tuple[float, ...] | list[float]) -> Figure:
    """Return a pooled mean with the Student interval that the spread of the samples gives; none of ours is negative."""
    half = half_width(samples)
    if half is None:
        return Figure(value=value)
    return Figure(value=value, low=max(0.0, value - half), high=value + half)
