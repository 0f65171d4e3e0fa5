"""Plays a known course of power into sysfs files, and knows its integral from when each value was really written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from benchmarks.power_trees import VOLT_MV, write_in_place


class Player:
    """Writes a current every few milliseconds, in a thread of its own, from the time it is entered until it is left."""

    def __init__(self, file: Path, power_mw: Callable[[float], float], every_s: float = 0.004) -> None:
        """Prepare.

        Args:
            file: Of a rail's current in mA, at ``VOLT_MV``.
            power_mw: Power at a time on the monotonic clock.
            every_s: Time between writes.
        """
        self._file, self._power_mw, self._every_s = file, power_mw, every_s
        self._written: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._play)

    def __enter__(self) -> Player:
        """Begin to play."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def energy_mj(self, start_s: float, end_s: float) -> float:
        """Return the exact integral between two times: each value holds from when it was written until the next."""
        written = [*self._written, (end_s, 0.0)]
        total = 0.0
        for (at, power), (until, _) in pairwise(written):
            total += power * max(0.0, min(until, end_s) - max(at, start_s))
        return total

    def _play(self) -> None:
        while not self._ended.wait(self._every_s):
            now = time.perf_counter()
            current_ma = round(1000 * self._power_mw(now) / VOLT_MV)
            write_in_place(self._file, current_ma)
            self._written.append((now, current_ma * VOLT_MV / 1000))
