"""Energy and power of a row, computed from the stored trace when they are asked for.

gross   the whole power in the window over the inferences in it: the figure to quote (MLPerf Power subtracts no idle)
net     what is left of it when the power of the idle machine is taken off

An interval adds two things up: the spread between trials (Student), and half a step of the sensor, by which every
reading of a steady power may be off in the same direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.bench.figures import DENSE, Figure, around, calls_of
from heartvit_edge.bench.statistics import half_width
from heartvit_edge.power.energy import Coverage, NoEnergyError, check_coverage, integrate_mj, part_means_mw
from heartvit_edge.spec.base import Spec
from heartvit_edge.spec.measurement import EntryMeasurement, Measurement, PowerTrace

IDLE_PARTS = 5
"""Equal parts of the idle window, whose spread says how well the idle power is known."""


class EnergyFigures(Spec):
    """Energy of one engine at one batch size, over all trials; every figure says why where it cannot be given.

    Attributes:
        mj_per_inference: Gross millijoule an inference of ``batch_size`` images.
        mj_per_image: The same over the batch size.
        net_mj_per_inference: The same without what the idle machine would have used in that time.
        inferences_per_j: One over mj_per_inference, an inference a joule.
        energy_delay_mj_ms: mj_per_inference times the mean latency in ms: small where an engine is fast and thrifty.
        mean_mw: Mean power in the windows, in milliwatt.
        peak_mw: Largest reading in the windows, in milliwatt.
        idle_mw: Mean power in the idle window, in milliwatt.
        rails_mj_per_inference: As mj_per_inference for each rail, under the board's own label; empty without a trace.
        total_rails: The rails that mj_per_inference adds up; empty without a trace.
        num_readings: Power readings in all windows; 0 without figures.
        rate_hz: Readings a second that were achieved; None without figures.
        largest_gap_s: Longest time between two readings in a window; None without figures.
    """

    mj_per_inference: Figure
    mj_per_image: Figure
    net_mj_per_inference: Figure
    inferences_per_j: Figure
    energy_delay_mj_ms: Figure
    mean_mw: Figure
    peak_mw: Figure
    idle_mw: Figure
    rails_mj_per_inference: dict[str, Figure]
    total_rails: tuple[str, ...]
    num_readings: int
    rate_hz: float | None
    largest_gap_s: float | None


def energy_figures(measurement: Measurement, row: EntryMeasurement) -> EnergyFigures:
    """Return energy and power of one row."""
    trace = measurement.power
    if trace is None:
        return _no_energy(measurement.no_power_reason or "", ())
    times_s = np.asarray(trace.times_s, dtype=np.float64)
    total_mw = np.asarray(trace.total_mw(), dtype=np.float64)
    try:
        coverage = [check_coverage(times_s, trial.start_s, trial.end_s) for trial in row.trials]
    except NoEnergyError as err:
        return _no_energy(str(err), trace.total_rails)
    step_mw = sum(trace.resolution_mw.get(rail, 0.0) for rail in trace.total_rails)
    window_s, energy_mj = _windows(row, times_s, total_mw)
    counts = [len(trial.latency_ms) for trial in row.trials]
    per_inference = _per_inference(energy_mj, window_s, counts, step_mw)
    idle_mw = _idle_mw(measurement, trace, times_s, total_mw)
    return EnergyFigures(
        mj_per_inference=per_inference,
        mj_per_image=scaled(per_inference, 1 / row.batch_size),
        net_mj_per_inference=_net(energy_mj, window_s, counts, idle_mw, step_mw),
        inferences_per_j=inverse(per_inference, 1000),
        energy_delay_mj_ms=_energy_delay(row, energy_mj, step_mw),
        mean_mw=_widened(
            around(sum(energy_mj) / sum(window_s), [mj / s for mj, s in zip(energy_mj, window_s, strict=True)]),
            step_mw / 2,
        ),
        peak_mw=Figure(value=_peak_mw(row, times_s, total_mw)),
        idle_mw=idle_mw,
        rails_mj_per_inference={
            label: _per_inference(
                _windows(row, times_s, np.asarray(readings, dtype=np.float64))[1],
                window_s,
                counts,
                trace.resolution_mw.get(label, 0.0),
            )
            for label, readings in trace.rails_mw.items()
        },
        total_rails=trace.total_rails,
        **_coverage_fields(coverage, sum(window_s)),
    )


def energy_ratio(measurement: Measurement, row: EntryMeasurement) -> Figure:
    """Return gross energy of an inference over the dense engine's at the same batch size; below 1 is thriftier.

    Rounds are paired, so that drift cancels: the interval is Student's over the logarithms of the rounds' ratios.
    """
    dense = next((r for r in measurement.rows if r.entry == DENSE and r.batch_size == row.batch_size), None)
    if dense is None:
        return Figure(value=None, reason=f"the dense engine was not measured at batch size {row.batch_size}")
    figures = [energy_figures(measurement, one).mj_per_inference for one in (row, dense)]
    for figure in figures:
        if figure.value is None:
            return figure
    if row == dense:
        return Figure(value=1.0)
    return paired_ratio(per_trial_mj(measurement, row), per_trial_mj(measurement, dense))


def per_trial_mj(measurement: Measurement, row: EntryMeasurement) -> list[float]:
    """Return gross energy of an inference in each trial, in millijoule; the trace must cover them."""
    assert measurement.power is not None
    times_s = np.asarray(measurement.power.times_s, dtype=np.float64)
    _, energy_mj = _windows(row, times_s, np.asarray(measurement.power.total_mw(), dtype=np.float64))
    return [mj / len(trial.latency_ms) for mj, trial in zip(energy_mj, row.trials, strict=True)]


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Figure:
    """Return the geometric mean of paired ratios of positive numbers, with Student's interval over their logarithms."""
    if min(*numerator, *denominator) <= 0:
        return Figure(value=None, reason="an energy is not above zero")
    logs = [math.log(above / below) for above, below in zip(numerator, denominator, strict=True)]
    mean, half = sum(logs) / len(logs), half_width(logs)
    if half is None:
        return Figure(value=math.exp(mean))
    return Figure(value=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half))


def achieved_rate_hz(trace: PowerTrace) -> float | None:
    """Return readings a second over the whole trace; None with fewer than two readings."""
    if len(trace.times_s) < 2:
        return None
    return (len(trace.times_s) - 1) / (trace.times_s[-1] - trace.times_s[0])


def largest_gap_s(trace: PowerTrace) -> float | None:
    """Return the longest time between neighbouring readings; None with fewer than two."""
    return max(np.diff(trace.times_s).tolist()) if len(trace.times_s) > 1 else None


def scaled(figure: Figure, factor: float) -> Figure:
    """Return the figure times a positive factor; unchanged where there is no value."""
    if figure.value is None:
        return figure
    low, high = (None if end is None else end * factor for end in (figure.low, figure.high))
    return Figure(value=figure.value * factor, low=low, high=high)


def inverse(figure: Figure, factor: float = 1.0) -> Figure:
    """Return a factor over the figure; the interval's ends change places, and one at zero has no upper end."""
    if figure.value is None:
        return figure
    if figure.value <= 0:
        return Figure(value=None, reason="it is one over a figure that is not above zero")
    low, high = (None if not end or end < 0 else factor / end for end in (figure.high, figure.low))
    return Figure(value=factor / figure.value, low=low if high else None, high=high if low else None)


def _windows(
    row: EntryMeasurement, times_s: NDArray[np.float64], power_mw: NDArray[np.float64]
) -> tuple[list[float], list[float]]:
    """Return the length of each trial in seconds, and its energy in millijoule."""
    window_s = [trial.end_s - trial.start_s for trial in row.trials]
    return window_s, [integrate_mj(times_s, power_mw, trial.start_s, trial.end_s) for trial in row.trials]


def _per_inference(
    energy_mj: Sequence[float], window_s: Sequence[float], counts: Sequence[int], step_mw: float
) -> Figure:
    pooled = around(sum(energy_mj) / sum(counts), [mj / count for mj, count in zip(energy_mj, counts, strict=True)])
    return _widened(pooled, step_mw / 2 * sum(window_s) / sum(counts))


def _net(
    energy_mj: Sequence[float], window_s: Sequence[float], counts: Sequence[int], idle_mw: Figure, step_mw: float
) -> Figure:
    if idle_mw.value is None:
        return idle_mw
    base = idle_mw.value
    net_mj = [mj - base * seconds for mj, seconds in zip(energy_mj, window_s, strict=True)]
    value = sum(net_mj) / sum(counts)
    half = half_width([mj / count for mj, count in zip(net_mj, counts, strict=True)])
    if half is None or idle_mw.high is None:
        return Figure(value=value)
    seconds_per_inference = sum(window_s) / sum(counts)
    half += (idle_mw.high - base + step_mw / 2) * seconds_per_inference
    return Figure(value=value, low=value - half, high=value + half)


def _energy_delay(row: EntryMeasurement, energy_mj: Sequence[float], step_mw: float) -> Figure:
    """Return energy times latency of an inference; its interval is that of the trials' products."""
    products, steps = [], []
    for mj, trial in zip(energy_mj, row.trials, strict=True):
        latency_ms = float(calls_of(trial).mean())
        products.append(mj / len(trial.latency_ms) * latency_ms)
        steps.append(step_mw / 2 * (trial.end_s - trial.start_s) / len(trial.latency_ms) * latency_ms)
    return _widened(around(sum(products) / len(products), products), sum(steps) / len(steps))


def _idle_mw(
    measurement: Measurement, trace: PowerTrace, times_s: NDArray[np.float64], total_mw: NDArray[np.float64]
) -> Figure:
    idle = measurement.idle
    if idle is None:
        return Figure(value=None, reason="no idle window was measured")
    try:
        parts = part_means_mw(times_s, total_mw, idle.start_s, idle.end_s, IDLE_PARTS)
    except NoEnergyError as err:
        return Figure(value=None, reason=f"idle: {err}")
    step_mw = sum(trace.resolution_mw.get(rail, 0.0) for rail in trace.total_rails)
    return _widened(around(sum(parts) / len(parts), parts), step_mw / 2)


def _widened(figure: Figure, by: float) -> Figure:
    """Return the figure with its interval wider by so much on both sides; one without an interval stays without."""
    if figure.low is None or figure.high is None:
        return figure
    return figure.model_copy(update={"low": max(0.0, figure.low - by), "high": figure.high + by})


def _peak_mw(row: EntryMeasurement, times_s: NDArray[np.float64], power_mw: NDArray[np.float64]) -> float:
    inside = [(times_s >= trial.start_s) & (times_s <= trial.end_s) for trial in row.trials]
    return float(power_mw[np.any(inside, axis=0)].max())


def _coverage_fields(coverage: Sequence[Coverage], window_s: float) -> dict[str, float | int]:
    count = sum(found.num_readings for found in coverage)
    gap_s = max(found.largest_gap_s for found in coverage)
    return {"num_readings": count, "rate_hz": count / window_s, "largest_gap_s": gap_s}


def _no_energy(reason: str, total_rails: tuple[str, ...]) -> EnergyFigures:
    missing = Figure(value=None, reason=reason)
    return EnergyFigures(
        mj_per_inference=missing,
        mj_per_image=missing,
        net_mj_per_inference=missing,
        inferences_per_j=missing,
        energy_delay_mj_ms=missing,
        mean_mw=missing,
        peak_mw=missing,
        idle_mw=missing,
        rails_mj_per_inference={},
        total_rails=total_rails,
        num_readings=0,
        rate_hz=None,
        largest_gap_s=None,
    )
