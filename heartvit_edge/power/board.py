"""Clocks, temperatures, power mode and throttling over a run, from sysfs, in a thread of its own.

None of it needs root, a daemon or a package; what a machine does not have is left out.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from typing_extensions import Self

from heartvit_edge.engines.jetson import read_power_mode, read_text
from heartvit_edge.power.cpu_time import OthersCpuTime
from heartvit_edge.power.sampler import Clock
from heartvit_edge.spec.board import BoardTrace

INTERVAL_S = 0.5
"""Time between ticks: clocks and temperatures that matter last longer."""

GPU_NAMES = re.compile(r"gpu|ga10b|gv11b")
"""What the GPU's devfreq device, or its node in the device tree, is called on a Jetson."""

THROTTLES = re.compile(r"throttle|alert|hot-surface")
"""Cooling devices that stand for a limit in force; fans and the governors' own are others."""

OFFLINE_C = -256.0
"""What a sensor of a part that is switched off says."""


@dataclass(frozen=True)
class Probe:
    """One number that can be looked up at any time.

    Attributes:
        kind: Which table of the trace it belongs to.
        label: What it is called there.
        file: Where it stands.
        scale: What one of the file's units is in the trace's.
    """

    kind: Literal["clocks_mhz", "temperatures_c", "throttle_counts", "throttle_states"]
    label: str
    file: Path
    scale: float = 1.0

    def look(self) -> float | None:
        """Return the number; None where it cannot be read, or the part is switched off."""
        try:
            value = float(read_text(self.file) or "") * self.scale
        except ValueError:
            return None
        return None if self.kind == "temperatures_c" and value <= OFFLINE_C else value


def find_probes(root: Path) -> tuple[list[Probe], dict[str, float]]:
    """Return what can be looked up on this machine, and the clocks that are locked, in MHz."""
    sys = root / "sys"
    probes: list[Probe] = []
    locked: dict[str, float] = {}
    for label, current, smallest, largest, scale in _clocks(sys):
        probes.append(Probe("clocks_mhz", label, current, scale))
        ends = [read_text(file) for file in (smallest, largest)]
        if ends[0] and ends[0] == ends[1]:
            locked[label] = float(ends[0]) * scale
    for zone in sorted((sys / "class" / "thermal").glob("thermal_zone*")):
        probes.append(Probe("temperatures_c", read_text(zone / "type") or zone.name, zone / "temp", 0.001))
    for device in sorted((sys / "class" / "thermal").glob("cooling_device*")):
        name = read_text(device / "type") or ""
        if THROTTLES.search(name):
            probes.append(Probe("throttle_states", name, device / "cur_state"))
    for alarm in sorted(sys.glob("bus/i2c/drivers/ina3221*/*-*/hwmon/hwmon*/curr[123]_*_alarm")):
        number, limit = alarm.name[len("curr")], alarm.name.split("_")[1]
        rail = read_text(alarm.with_name(f"in{number}_label")) or alarm.name
        if not re.search(r"\bNC\b", rail):
            probes.append(Probe("throttle_states", f"{rail} above its {limit} current", alarm))
    for events in sorted((sys / "class" / "hwmon").glob("hwmon*/oc*_event_cnt")):
        probes.append(Probe("throttle_counts", f"over-current {events.name.split('_')[0]}", events))
    package = sys / "devices" / "system" / "cpu" / "cpu0" / "thermal_throttle" / "package_throttle_count"
    probes.append(Probe("throttle_counts", "CPU over its thermal limit", package))
    return [probe for probe in probes if probe.look() is not None or probe.kind == "temperatures_c"], locked


def _clocks(sys: Path) -> Iterable[tuple[str, Path, Path, Path, float]]:
    """Give label, current, smallest and largest file of each clock, and what one of their units is in MHz."""
    for device in sorted((sys / "class" / "devfreq").glob("*")):
        node = read_text(device / "device" / "of_node" / "name") or ""
        if GPU_NAMES.search(device.name) or GPU_NAMES.search(node):
            yield "GPU", device / "cur_freq", device / "min_freq", device / "max_freq", 1e-6
    cpus = sys / "devices" / "system" / "cpu"
    for policy in sorted((cpus / "cpufreq").glob("policy*")) or sorted(cpus.glob("cpu[0-9]*/cpufreq")):
        number = "".join(filter(str.isdigit, policy.name)) or "".join(filter(str.isdigit, policy.parent.name))
        files = [policy / f"scaling_{which}_freq" for which in ("cur", "min", "max")]
        yield f"CPU {number}", files[0], files[1], files[2], 1e-3
    memory = sys / "kernel" / "debug" / "bpmp" / "debug" / "clk" / "emc"
    yield "memory", memory / "rate", memory / "min_rate", memory / "max_rate", 1e-6


class BoardRecorder:
    """Looks at the board from the time it is entered until ``stop``."""

    def __init__(self, clock: Clock, root: Path = Path("/"), interval_s: float = INTERVAL_S) -> None:
        """Find what there is to look at.

        Args:
            clock: Gives seconds since the run began.
            root: Where ``sys``, ``proc``, ``etc`` and ``var`` are looked for.
            interval_s: Time between ticks.
        """
        self._clock = clock
        self._root = root
        self._interval_s = interval_s
        self._probes, self._locked = find_probes(root)
        self._others = OthersCpuTime(root / "proc")
        self._ticks: list[tuple[float, str | None, float | None, list[float | None]]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._collect, name="board", daemon=True)

    def __enter__(self) -> Self:
        """Begin to look."""
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join(timeout=2.0)

    def stop(self) -> BoardTrace | None:
        """Look once more and return everything; None where there is nothing to look at."""
        self._ended.set()
        self._thread.join(timeout=2.0)
        self._look()
        ticks = list(self._ticks)
        others = [share for _, _, share, _ in ticks]
        if not self._probes and not any(share is not None for share in others):
            return None
        tables: dict[str, dict[str, tuple[float | None, ...]]] = {}
        for place, probe in enumerate(self._probes):
            convert: Callable[[float], float] = int if probe.kind.startswith("throttle") else float
            values = [None if row[place] is None else convert(row[place] or 0.0) for *_, row in ticks]
            tables.setdefault(probe.kind, {})[probe.label] = tuple(values)
        fields = {"times_s": [time_s for time_s, *_ in ticks], "locked_mhz": self._locked, **tables}
        modes = [mode for _, mode, _, _ in ticks]
        known = any(share is not None for share in others)
        fields |= {"power_mode": modes if any(modes) else (), "others_cpu_share": others if known else ()}
        return BoardTrace.model_validate(fields)

    def _look(self) -> None:
        values = [probe.look() for probe in self._probes]
        self._ticks.append((self._clock(), read_power_mode(self._root), self._others.look(), values))

    def _collect(self) -> None:
        while not self._ended.wait(self._interval_s):
            self._look()
