"""From counters of energy to power: what was used between two looks, over the time between them."""

from __future__ import annotations

from collections.abc import Mapping

from heartvit_edge.power.polling import Reading


class EnergyCounter:
    """Remembers the former look at counters that only grow.

    The mean power between two looks stands at the middle of the time between them, so that the trapezoid rule over such
    readings adds up to what the counter says, but for the two edges of a window.
    """

    def __init__(self, wraps_mj: Mapping[str, float] | None = None) -> None:
        """Begin without a look.

        Args:
            wraps_mj: Where each counter begins again at zero, in millijoule; one that is left out never does.
        """
        self._wraps_mj = wraps_mj or {}
        self._former: tuple[float, dict[str, float]] | None = None

    def look(self, time_s: float, energy_mj: dict[str, float]) -> Reading | None:
        """Return the mean power since the former look; None at the first, and where no counter has moved.

        Raises:
            ValueError: If a counter that never wraps ran backwards.
        """
        former, now = self._former, (time_s, energy_mj)
        if former is None:
            self._former = now
            return None
        passed_s = time_s - former[0]
        used_mj = {label: energy - former[1][label] for label, energy in energy_mj.items()}
        for label, used in used_mj.items():
            if used < 0:
                if label not in self._wraps_mj:
                    raise ValueError(f"the energy counter {label} ran backwards by {-used:g} mJ")
                used_mj[label] = used + self._wraps_mj[label]
        if passed_s <= 0 or not any(used_mj.values()):
            return None
        self._former = now
        return Reading(former[0] + passed_s / 2, {label: used / passed_s for label, used in used_mj.items()})
