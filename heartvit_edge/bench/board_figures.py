"""Whether an engine ran at the clocks that its figures stand for, from the board's state in its windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.spec.board import BoardTrace
from heartvit_edge.spec.measurement import EntryMeasurement, Measurement

BELOW = 0.98
"""Share of its locked value below which a clock counts as lowered."""

WANDERS = 0.95
"""Share of its largest value in the windows below which a clock that is not locked counts as wandering."""


QUIET = 0.1
"""Share of the processor that other processes may use before a reader is told."""


def throttle_causes(measurement: Measurement, row: EntryMeasurement) -> tuple[str, ...]:
    """Return what slowed the machine down in the windows of a row; none where nothing did, or nothing is known."""
    board = measurement.board
    if board is None:
        return ()
    ticks = _ticks(board, row)
    causes = [name for name, values in board.throttle_states.items() if any(_kept(values, ticks))]
    for name, counts in board.throttle_counts.items():
        seen = _kept(counts, ticks)
        if seen and max(seen) > min(seen):
            causes.append(f"{name}: {max(seen) - min(seen):g} times")
    for name, locked in board.locked_mhz.items():
        seen = _kept(board.clocks_mhz.get(name, ()), ticks)
        if seen and min(seen) < BELOW * locked:
            causes.append(f"{name} clock down to {min(seen):.0f} of {locked:.0f} MHz")
    first, modes = next(iter(board.power_mode), None), [board.power_mode[tick] for tick in ticks if board.power_mode]
    others = dict.fromkeys(mode for mode in modes if mode not in (None, first))
    if first is not None and others:
        causes.append(f"power mode changed from {first} to {', '.join(map(str, others))}")
    return tuple(causes)


def wandering_clocks(measurement: Measurement, row: EntryMeasurement) -> tuple[str, ...]:
    """Return the clocks that are not locked and moved in the windows of a row, as ``GPU clock 612 to 1300 MHz``."""
    board = measurement.board
    if board is None:
        return ()
    ticks = _ticks(board, row)
    found = []
    for name, values in board.clocks_mhz.items():
        seen = _kept(values, ticks)
        if name not in board.locked_mhz and seen and min(seen) < WANDERS * max(seen):
            found.append(f"{name} clock {min(seen):.0f} to {max(seen):.0f} MHz")
    return tuple(found)


def throttled(measurement: Measurement) -> dict[tuple[str, ...], list[EntryMeasurement]]:
    """Return the rows that were slowed down, by what slowed them down."""
    found: dict[tuple[str, ...], list[EntryMeasurement]] = {}
    for row in measurement.rows:
        if causes := throttle_causes(measurement, row):
            found.setdefault(causes, []).append(row)
    return found


def wandering_mhz(measurement: Measurement) -> dict[str, tuple[float, float]]:
    """Map each clock that is not locked and moved in the windows of some row to its smallest and largest value there.

    The clocks of all processor cores are one, ``CPU``.
    """
    found: dict[str, tuple[float, float]] = {}
    for row in measurement.rows:
        for name, ends in clocks_mhz(measurement, row).items():
            assert measurement.board is not None
            if name in measurement.board.locked_mhz or ends is None or ends[0] >= WANDERS * ends[1]:
                continue
            kind = "CPU" if name.startswith("CPU") else name
            low, high = found.get(kind, ends)
            found[kind] = (min(low, ends[0]), max(high, ends[1]))
    return found


def others_cpu_share(measurement: Measurement, row: EntryMeasurement) -> float | None:
    """Return the mean share of the processor that other processes used in the windows of a row; None if not known."""
    board = measurement.board
    if board is None:
        return None
    seen = _kept(board.others_cpu_share, _ticks(board, row))
    return sum(seen) / len(seen) if seen else None


def busiest_share(measurement: Measurement) -> float | None:
    """Return the largest of these shares over all rows; None where it is no more than ``QUIET``, or not known."""
    shares = [share for row in measurement.rows if (share := others_cpu_share(measurement, row)) is not None]
    return max(shares) if shares and max(shares) > QUIET else None


def clocks_mhz(measurement: Measurement, row: EntryMeasurement) -> dict[str, tuple[float, float] | None]:
    """Map each clock to its smallest and largest value in the windows of a row, in MHz; None where it was not read."""
    board = measurement.board
    if board is None:
        return {}
    ticks = _ticks(board, row)
    found = {name: _kept(values, ticks) for name, values in board.clocks_mhz.items()}
    return {name: (min(seen), max(seen)) if seen else None for name, seen in found.items()}


def hottest_c(measurement: Measurement, row: EntryMeasurement) -> float | None:
    """Return the highest temperature of any sensor in the windows of a row, in degrees Celsius; None without one."""
    board = measurement.board
    if board is None:
        return None
    ticks = _ticks(board, row)
    return max((max(seen) for values in board.temperatures_c.values() if (seen := _kept(values, ticks))), default=None)


def _ticks(board: BoardTrace, row: EntryMeasurement) -> NDArray[np.intp]:
    """Return the ticks in the row's windows, and the nearest on either side of each, in time order."""
    times_s = np.asarray(board.times_s)
    found: set[int] = set()
    for trial in row.trials:
        first = max(int(np.searchsorted(times_s, trial.start_s, side="right")) - 1, 0)
        last = min(int(np.searchsorted(times_s, trial.end_s, side="left")), len(times_s) - 1)
        found |= set(range(first, last + 1))
    return np.array(sorted(found), dtype=np.intp)


def _kept(values: Sequence[float | None], ticks: NDArray[np.intp]) -> list[float]:
    return [value for tick in ticks if tick < len(values) and (value := values[tick]) is not None]
