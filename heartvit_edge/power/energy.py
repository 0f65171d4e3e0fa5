"""Energy of a window from power readings: the trapezoid rule over exactly that window."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_READINGS = 10
"""Fewest readings inside a window that give a figure."""

GAP_RATIO = 3.0
"""Multiple of the trace's median gap above which the time between two readings is a gap: power is guessed there."""

MAX_GAP_SHARE = 0.02
"""Largest share of a window that gaps may take together. Were power off by its own mean all through them, energy would
be off by that share."""


class NoEnergyError(ValueError):
    """The readings do not carry an energy figure for this window; the message says why."""


@dataclass(frozen=True)
class Coverage:
    """How well the readings cover a window.

    Attributes:
        num_readings: Readings inside the window.
        rate_hz: Readings a second inside it.
        largest_gap_s: Longest time between neighbours, the readings on either side of the window included.
    """

    num_readings: int
    rate_hz: float
    largest_gap_s: float


def check_coverage(times_s: NDArray[np.float64], start_s: float, end_s: float) -> Coverage:
    """Return how well the readings cover the window, if that is well enough.

    Args:
        times_s: Shape (N,), ascending.
        start_s: Start of the window on the same clock.
        end_s: Its end.

    Raises:
        NoEnergyError: If the window is empty, a reading before or after it is missing, fewer than ``MIN_READINGS`` lie
            in it, or gaps, longer than ``GAP_RATIO`` times the median one of the whole trace, take more than
            ``MAX_GAP_SHARE`` of it.
    """
    if not start_s < end_s:
        raise NoEnergyError(f"the window is empty: it runs from {start_s:.3f} s to {end_s:.3f} s")
    inside = (times_s >= start_s) & (times_s <= end_s)
    count = int(inside.sum())
    if count < MIN_READINGS:
        raise NoEnergyError(
            f"{count} power readings lie in a window of {end_s - start_s:.2f} s, expected at least {MIN_READINGS}"
            + (f": {MIN_READINGS * (end_s - start_s) / count:.2g} s have as many" if count else "")
        )
    if times_s[0] > start_s or times_s[-1] < end_s:
        raise NoEnergyError(
            f"power readings run from {times_s[0]:.3f} s to {times_s[-1]:.3f} s and do not cover the window "
            f"from {start_s:.3f} s to {end_s:.3f} s"
        )
    first = int(np.searchsorted(times_s, start_s, side="right")) - 1
    last = int(np.searchsorted(times_s, end_s, side="left"))
    between = np.diff(times_s[first : last + 1])
    typical, largest = float(np.median(np.diff(times_s))), float(between.max())
    missing = float(between[between > GAP_RATIO * typical].sum())
    if missing > MAX_GAP_SHARE * (end_s - start_s):
        raise NoEnergyError(
            f"power readings have gaps of up to {1000 * largest:.0f} ms, {1000 * missing:.0f} ms together, in a window "
            f"of {end_s - start_s:.2f} s; expected no more than {100 * MAX_GAP_SHARE:g} % of it above "
            f"{GAP_RATIO:g} times the median gap of {1000 * typical:.0f} ms"
        )
    return Coverage(num_readings=count, rate_hz=count / (end_s - start_s), largest_gap_s=largest)


def integrate_mj(times_s: NDArray[np.float64], power_mw: NDArray[np.float64], start_s: float, end_s: float) -> float:
    """Return the energy between two times in millijoule: the trapezoid rule, power at the edges interpolated.

    Args:
        times_s: Shape (N,), ascending, from ``start_s`` or before to ``end_s`` or after.
        power_mw: Shape (N,), power at those times in milliwatt.
        start_s: Start of the window.
        end_s: Its end.

    Raises:
        NoEnergyError: As ``check_coverage`` says.
    """
    check_coverage(times_s, start_s, end_s)
    return _trapezoid_mj(times_s, power_mw, start_s, end_s)


def part_means_mw(
    times_s: NDArray[np.float64], power_mw: NDArray[np.float64], start_s: float, end_s: float, num_parts: int
) -> list[float]:
    """Return the mean power in each of the equal parts of a window, in milliwatt.

    Neighbouring readings are alike, so their spread says little of how well a mean is known; that of parts does.

    Raises:
        NoEnergyError: As ``check_coverage`` says of the whole window.
    """
    check_coverage(times_s, start_s, end_s)
    edges = np.linspace(start_s, end_s, num_parts + 1).tolist()
    return [_trapezoid_mj(times_s, power_mw, start, end) / (end - start) for start, end in itertools.pairwise(edges)]


def _trapezoid_mj(times_s: NDArray[np.float64], power_mw: NDArray[np.float64], start_s: float, end_s: float) -> float:
    inside = (times_s > start_s) & (times_s < end_s)
    times = np.concatenate([[start_s], times_s[inside], [end_s]])
    power = np.interp(times, times_s, power_mw)
    return float(np.sum(np.diff(times) * (power[1:] + power[:-1]) / 2))
