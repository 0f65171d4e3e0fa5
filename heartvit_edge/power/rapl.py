"""Energy of x86 processors from their RAPL counters, through sysfs; root reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from heartvit_edge.errors import MachineError
from heartvit_edge.power.counter import EnergyCounter
from heartvit_edge.power.polling import Reading
from heartvit_edge.power.sampler import Clock

SYSFS = Path("/sys")

MIN_INTERVAL_S = 0.01
"""The counters move about once a millisecond: over ten, that is a tenth."""


@dataclass(frozen=True)
class Zone:
    """One counter: a package, or a part of one such as its memory."""

    label: str
    file: Path
    wraps_mj: float
    is_part: bool


def find_zones(sysfs: Path) -> list[Zone]:
    """Return every counter, packages before their parts."""
    zones = []
    for folder in sorted((sysfs / "class" / "powercap").glob("intel-rapl:*")):
        numbers = folder.name.split(":")[1:]
        name = (folder / "name").read_text().strip()
        package = folder.with_name(f"intel-rapl:{numbers[0]}")
        label = name if len(numbers) == 1 else f"{(package / 'name').read_text().strip()}/{name}"
        wraps_mj = int((folder / "max_energy_range_uj").read_text()) / 1000
        zones.append(Zone(label, folder / "energy_uj", wraps_mj, len(numbers) > 1))
    return zones


def why_no_counter(sysfs: Path = SYSFS) -> MachineError | None:
    """Return what stands against reading the counters on this machine; None if nothing does."""
    files = sorted((sysfs / "class" / "powercap").glob("intel-rapl:*/energy_uj"))
    if not files:
        return MachineError(
            f"there is no RAPL counter under {sysfs / 'class' / 'powercap'}: most virtual machines hide them",
            hint="measure without energy: --power none",
        )
    try:
        for file in files:
            int(file.read_text())
    except (OSError, ValueError) as err:
        reason = err.strerror if isinstance(err, OSError) else str(err)
        return MachineError(f"{file} cannot be read: {reason}", hint=f"sudo chmod a+r {file.parent.parent}/*/energy_uj")
    return None


class Rapl:
    """Every counter of every package; see :class:`heartvit_edge.power.polling.Source`."""

    name = "rapl"
    min_interval_s = MIN_INTERVAL_S
    hint = "sudo chmod a+r /sys/class/powercap/*/energy_uj"
    notes: tuple[str, ...] = ("RAPL counts the processor, and its memory where it has that counter, not the machine",)

    def __init__(self, sysfs: Path = SYSFS) -> None:
        """Find the counters.

        Raises:
            MachineError: If there is none, or they cannot be read.
        """
        if missing := why_no_counter(sysfs):
            raise missing
        zones = find_zones(sysfs)
        self.labels: tuple[str, ...] = tuple(zone.label for zone in zones)
        self._files = {zone.label: zone.file for zone in zones}
        self._counter = EnergyCounter({zone.label: zone.wraps_mj for zone in zones})
        self.resolution_mw: dict[str, float] = {}  # what one reading lacks of a step, the next one has
        self.total = _total(zones)

    def read(self, clock: Clock) -> Reading | None:
        """Return the mean power of each counter since the last read."""
        energy_mj = {label: int(file.read_text()) / 1000 for label, file in self._files.items()}
        return self._counter.look(clock(), energy_mj)

    def close(self) -> None:
        """Nothing stays open between reads."""


def _total(zones: list[Zone]) -> tuple[tuple[str, ...], str]:
    platform = tuple(zone.label for zone in zones if zone.label == "psys")
    if platform:
        return platform, "psys counts the whole platform, so it alone is the total"
    packages = [zone.label for zone in zones if not zone.is_part]
    memory = [zone.label for zone in zones if zone.is_part and zone.label.endswith("/dram")]
    rails = (*packages, *memory)
    return rails, f"packages hold their cores, and memory counts apart, so the total is {' + '.join(rails)}"
