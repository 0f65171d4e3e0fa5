"""One engine in two runs: ratios of what was measured at different times, or on different machines.

Runs do not share their drift, so nothing is paired: the interval is Welch's over the logarithms of the trials' means,
and wide where trials are few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from heartvit_edge.bench.energy_figures import energy_figures, per_trial_mj
from heartvit_edge.bench.figures import Figure, calls_of
from heartvit_edge.bench.statistics import difference
from heartvit_edge.spec.measurement import EntryMeasurement, Measurement


@dataclass(frozen=True)
class Comparison:
    """One entry at one batch size in another run, over the same in the first; below 1 is faster or thriftier.

    Attributes:
        entry: Name of the pack's entry.
        batch_size: Images an inference.
        latency: Ratio of mean latencies.
        energy: Ratio of gross energies an inference.
    """

    entry: str
    batch_size: int
    latency: Figure
    energy: Figure


def compare(first: Measurement, other: Measurement) -> list[Comparison]:
    """Return what both runs measured, in the first's order."""
    found = []
    for row in first.rows:
        for again in other.rows:
            if (again.entry, again.batch_size) == (row.entry, row.batch_size):
                latency = _ratio([_means_ms(again), _means_ms(row)])
                found.append(Comparison(row.entry, row.batch_size, latency, _energy(first, row, other, again)))
    return found


def _means_ms(row: EntryMeasurement) -> list[float]:
    return [float(calls_of(trial).mean()) for trial in row.trials]


def _energy(first: Measurement, row: EntryMeasurement, other: Measurement, again: EntryMeasurement) -> Figure:
    for measurement, one in ((first, row), (other, again)):
        figure = energy_figures(measurement, one).mj_per_inference
        if figure.value is None:
            return figure
    return _ratio([per_trial_mj(other, again), per_trial_mj(first, row)])


def _ratio(sides: Sequence[Sequence[float]]) -> Figure:
    """Return the ratio of the geometric means of two sides of positive numbers, with its interval."""
    if min(map(min, sides)) <= 0:
        return Figure(value=None, reason="an energy is not above zero")
    value, half = difference(*([math.log(number) for number in side] for side in sides))
    if half is None:
        return Figure(value=math.exp(value))
    return Figure(value=math.exp(value), low=math.exp(value - half), high=math.exp(value + half))
