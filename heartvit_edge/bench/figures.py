"""Figures computed from raw samples when they are asked for: what ``bench`` and ``report`` print.

latency_figures(row)                 percentiles, mean, throughput
ratio_figures(measurement, row)      against the dense engine of the same run and batch size
energy_figures(measurement, row)     gross energy, mean and peak power, per rail
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator
from typing_extensions import Self

from heartvit_edge.bench.statistics import half_width, percentile, ratio_of_means
from heartvit_edge.power.energy import NoEnergyError, check_coverage, integrate_mj
from heartvit_edge.spec.base import Spec
from heartvit_edge.spec.measurement import EntryMeasurement, Measurement, PowerTrace, Trial

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
    """

    num_samples: int
    mean_ms: Figure
    p50_ms: Figure
    p90_ms: Figure
    p99_ms: Figure
    images_per_s: Figure


class RatioFigures(Spec):
    """One engine against the dense one at the same batch size; bootstrap intervals over paired rounds.

    Attributes:
        latency: Mean latency over the dense engine's; below 1 is faster.
        throughput: Images a second over the dense engine's; above 1 is faster.
    """

    latency: Figure
    throughput: Figure


class EnergyFigures(Spec):
    """Gross energy of one engine at one batch size, over all trials: nothing is subtracted for an idle board.

    Attributes:
        mj_per_inference: Millijoule an inference of ``batch_size`` images; interval from the spread between trials.
        mj_per_image: The same over the batch size.
        mean_mw: Mean power in the windows, in milliwatt.
        peak_mw: Largest reading in the windows, in milliwatt.
        rails_mj_per_inference: As mj_per_inference for each rail, under the board's own label; empty without a trace.
        total_rails: The rails that mj_per_inference adds up; empty without a trace.
        num_readings: Power readings in all windows; 0 without figures.
        rate_hz: Readings a second that were achieved; None without figures.
        largest_gap_s: Longest time between two readings in a window; None without figures.
    """

    mj_per_inference: Figure
    mj_per_image: Figure
    mean_mw: Figure
    peak_mw: Figure
    rails_mj_per_inference: dict[str, Figure]
    total_rails: tuple[str, ...]
    num_readings: int
    rate_hz: float | None
    largest_gap_s: float | None


def latency_figures(row: EntryMeasurement) -> LatencyFigures:
    """Return percentiles, mean and throughput of one engine at one batch size."""
    samples = np.concatenate([_latency_ms(trial) for trial in row.trials])
    images = [row.batch_size * len(trial.latency_ms) for trial in row.trials]
    windows_s = [trial.end_s - trial.start_s for trial in row.trials]
    return LatencyFigures(
        num_samples=samples.size,
        mean_ms=around(float(samples.mean()), [float(_latency_ms(trial).mean()) for trial in row.trials]),
        p50_ms=_percentile(samples, 0.5),
        p90_ms=_percentile(samples, 0.9),
        p99_ms=_percentile(samples, 0.99),
        images_per_s=around(
            sum(images) / sum(windows_s), [count / window for count, window in zip(images, windows_s, strict=True)]
        ),
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
        [_latency_ms(trial) for trial in row.trials], [_latency_ms(trial) for trial in dense[0].trials], generator
    )
    throughput = ratio_of_means(
        [_call_ms(trial) for trial in dense[0].trials], [_call_ms(trial) for trial in row.trials], generator
    )
    return RatioFigures(
        latency=Figure(value=latency[0], low=latency[1], high=latency[2]),
        throughput=Figure(value=throughput[0], low=throughput[1], high=throughput[2]),
    )


def energy_figures(measurement: Measurement, row: EntryMeasurement) -> EnergyFigures:
    """Return gross energy and power of one row; every figure says why where it cannot be given."""
    trace = measurement.power
    if trace is None:
        return _no_energy(measurement.no_power_reason or "", ())
    times_s = np.asarray(trace.times_s, dtype=np.float64)
    total_mw = np.asarray(trace.total_mw(), dtype=np.float64)
    try:
        coverage = [check_coverage(times_s, trial.start_s, trial.end_s) for trial in row.trials]
    except NoEnergyError as err:
        return _no_energy(str(err), trace.total_rails)
    window_s = sum(trial.end_s - trial.start_s for trial in row.trials)
    per_inference = _per_inference(row, times_s, total_mw)
    energy_mj = [integrate_mj(times_s, total_mw, trial.start_s, trial.end_s) for trial in row.trials]
    mean_mw = [mj / (trial.end_s - trial.start_s) for mj, trial in zip(energy_mj, row.trials, strict=True)]
    return EnergyFigures(
        mj_per_inference=per_inference,
        mj_per_image=_over(per_inference, row.batch_size),
        mean_mw=around(sum(energy_mj) / window_s, mean_mw),
        peak_mw=Figure(value=_peak_mw(row, times_s, total_mw)),
        rails_mj_per_inference={
            label: _per_inference(row, times_s, np.asarray(readings, dtype=np.float64))
            for label, readings in trace.rails_mw.items()
        },
        total_rails=trace.total_rails,
        num_readings=sum(found.num_readings for found in coverage),
        rate_hz=sum(found.num_readings for found in coverage) / window_s,
        largest_gap_s=max(found.largest_gap_s for found in coverage),
    )


def achieved_rate_hz(trace: PowerTrace) -> float | None:
    """Return readings a second over the whole trace; None with fewer than two readings."""
    if len(trace.times_s) < 2:
        return None
    return (len(trace.times_s) - 1) / (trace.times_s[-1] - trace.times_s[0])


def _latency_ms(trial: Trial) -> NDArray[np.float64]:
    return np.asarray(trial.latency_ms, dtype=np.float64)


def _call_ms(trial: Trial) -> NDArray[np.float64]:
    """Return the latency of each call plus its share of the window's time between calls."""
    latency = _latency_ms(trial)
    calls: NDArray[np.float64] = latency + (1000 * (trial.end_s - trial.start_s) - latency.sum()) / latency.size
    return calls


def _percentile(samples: NDArray[np.float64], share: float) -> Figure:
    if samples.size < MIN_SAMPLES[share]:
        reason = f"p{100 * share:g} needs at least {MIN_SAMPLES[share]} samples, found {samples.size}"
        return Figure(value=None, reason=reason)
    value, low, high = percentile(samples, share)
    return Figure(value=value, low=low, high=high)


def around(value: float, samples: tuple[float, ...] | list[float]) -> Figure:
    """Return a pooled mean with the Student interval that the spread of the samples gives; none of ours is negative."""
    half = half_width(samples)
    if half is None:
        return Figure(value=value)
    return Figure(value=value, low=max(0.0, value - half), high=value + half)


def _over(figure: Figure, divisor: int) -> Figure:
    low, high = (None if end is None else end / divisor for end in (figure.low, figure.high))
    return Figure(value=None if figure.value is None else figure.value / divisor, low=low, high=high)


def _per_inference(row: EntryMeasurement, times_s: NDArray[np.float64], power_mw: NDArray[np.float64]) -> Figure:
    energy_mj = [integrate_mj(times_s, power_mw, trial.start_s, trial.end_s) for trial in row.trials]
    counts = [len(trial.latency_ms) for trial in row.trials]
    return around(sum(energy_mj) / sum(counts), [mj / count for mj, count in zip(energy_mj, counts, strict=True)])


def _peak_mw(row: EntryMeasurement, times_s: NDArray[np.float64], power_mw: NDArray[np.float64]) -> float:
    inside = [(times_s >= trial.start_s) & (times_s <= trial.end_s) for trial in row.trials]
    return float(power_mw[np.any(inside, axis=0)].max())


def _no_energy(reason: str, total_rails: tuple[str, ...]) -> EnergyFigures:
    missing = Figure(value=None, reason=reason)
    return EnergyFigures(
        mj_per_inference=missing,
        mj_per_image=missing,
        mean_mw=missing,
        peak_mw=missing,
        rails_mj_per_inference={},
        total_rails=total_rails,
        num_readings=0,
        rate_hz=None,
        largest_gap_s=None,
    )
