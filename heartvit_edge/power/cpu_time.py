"""How much of the processor other processes use: what a measurement of an idle machine must not share it with."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from heartvit_edge.engines.jetson import read_text

IDLE = (3, 4)
"""Places of idle time and of waiting for a disk in the first line of ``/proc/stat``."""

GUEST = 8
"""From here on time is counted a second time, as that of guests."""


def own_s() -> float:
    """Return the processor time of this process so far, in seconds."""
    used = os.times()
    return used.user + used.system


class OthersCpuTime:
    """Remembers the former look at the processor's time and at our own."""

    def __init__(self, proc: Path, ours_s: Callable[[], float] = own_s) -> None:
        """Begin without a look.

        Args:
            proc: Where ``stat`` is looked for.
            ours_s: Gives the processor time that does not count, in seconds.
        """
        self._stat = proc / "stat"
        self._ours_s = ours_s
        self._former: tuple[float, float] | None = None

    def look(self) -> float | None:
        """Return the share of all cores' time since the former look that was neither ours nor idle, in [0, 1].

        None at the first look, where no time has passed, and where the machine does not tell.
        """
        now = self._now()
        former, self._former = self._former, now
        if now is None or former is None or now[0] <= former[0]:
            return None
        return min(max((now[1] - former[1]) / (now[0] - former[0]), 0.0), 1.0)

    def _now(self) -> tuple[float, float] | None:
        """Return all time, and that of others, in seconds of one core."""
        words = (read_text(self._stat) or "").split("\n")[0].split()
        if len(words) <= GUEST or words[0] != "cpu":
            return None
        ticks = [int(word) for word in words[1 : GUEST + 1]]
        hertz = os.sysconf("SC_CLK_TCK")
        busy = sum(ticks) - sum(ticks[place] for place in IDLE)
        return sum(ticks) / hertz, busy / hertz - self._ours_s()
