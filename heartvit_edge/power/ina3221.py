"""Power rails of a Jetson read from the INA3221 sensors themselves, through sysfs: no daemon, and no root."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from heartvit_edge.errors import MachineError
from heartvit_edge.power.polling import Reading
from heartvit_edge.power.sampler import Clock
from heartvit_edge.power.totals import total_rule

SYSFS = Path("/sys")

CHANNELS = (1, 2, 3)
"""Channels of a sensor; what the kernel calls number 7 is the sum of their shunt voltages."""

BUS_STEP_MV = 8.0
"""Step of a bus voltage, in millivolt (TI SBOS576, table 5)."""

SHUNT_STEP_UV = 40.0
"""Step of a shunt voltage, in microvolt (TI SBOS576, table 5)."""

SHUNT_UOHM = 5000
"""Shunt of the Orin modules, in micro-ohm, where the kernel does not tell it."""


@dataclass(frozen=True)
class Channel:
    """One rail: its label and the two files that give volt and ampere."""

    label: str
    volt: str
    curr: str
    step_ma: float


def find_channels(sysfs: Path) -> tuple[list[Channel], tuple[str, ...], float]:
    """Return the channels that can be read, remarks on those that cannot, and the sensors' update interval in seconds.

    A channel is left out where the board labels it NC (not connected), or where it answers EIO from the start.
    """
    channels: list[Channel] = []
    notes: list[str] = []
    slowest_s = 0.0
    for hwmon in sorted(sysfs.glob("bus/i2c/drivers/ina3221*/*-*/hwmon/hwmon*")):
        slowest_s = max(slowest_s, (_number(hwmon / "update_interval") or 0) / 1000)
        for number in CHANNELS:
            where = f"{hwmon.parents[1].name} channel {number}"
            label = _text(hwmon / f"in{number}_label")
            if label is None or re.search(r"\bNC\b", label):
                continue
            volt, curr = str(hwmon / f"in{number}_input"), str(hwmon / f"curr{number}_input")
            try:
                _millis(volt), _millis(curr)
            except OSError as err:
                notes.append(f"{label} ({where}) is left out: {err.strerror}")
                continue
            shunt = _number(hwmon / f"shunt{number}_resistor") or SHUNT_UOHM
            channels.append(Channel(label, volt, curr, 1000 * SHUNT_STEP_UV / shunt))
    return channels, tuple(notes), slowest_s


def why_no_sensor(sysfs: Path = SYSFS) -> MachineError | None:
    """Return what stands against reading the sensors on this machine; None if nothing does."""
    if not list(sysfs.glob("bus/i2c/drivers/ina3221*/*-*/hwmon/hwmon*")):
        return MachineError(
            f"there is no INA3221 under {sysfs / 'bus' / 'i2c' / 'drivers'}",
            hint="mount it in a container: docker run -v /sys:/sys:ro ...; off Jetson: --power auto",
        )
    channels, notes, _ = find_channels(sysfs)
    if not channels:
        return MachineError(
            f"no channel of the INA3221 under {sysfs} can be read{': ' if notes else ''}{'; '.join(notes)}",
            hint="measure without energy: --power none",
        )
    return None


class Ina3221:
    """Every connected channel of every sensor of the board; see :class:`heartvit_edge.power.polling.Source`."""

    name = "ina3221"
    hint = "see what the kernel says of it: dmesg | grep ina3221"

    def __init__(self, sysfs: Path = SYSFS) -> None:
        """Find the channels.

        Raises:
            MachineError: If there is none that can be read.
        """
        if missing := why_no_sensor(sysfs):
            raise missing
        self._channels, self.notes, self.min_interval_s = find_channels(sysfs)
        self.labels = tuple(channel.label for channel in self._channels)
        self.total = total_rule(self.labels)
        self.resolution_mw = {channel.label: self._step_mw(channel) for channel in self._channels}

    def read(self, clock: Clock) -> Reading:
        """Return the power of every channel, at the middle of the time that reading them took."""
        start = clock()
        rails = {channel.label: _millis(channel.volt) * _millis(channel.curr) / 1000 for channel in self._channels}
        return Reading((start + clock()) / 2, rails)

    def close(self) -> None:
        """Nothing stays open between reads."""

    @staticmethod
    def _step_mw(channel: Channel) -> float:
        """Return the larger of one current step at the rail's voltage and one voltage step at its current."""
        return max(_millis(channel.volt) * channel.step_ma, abs(_millis(channel.curr)) * BUS_STEP_MV) / 1000


def _millis(path: str) -> int:
    """Return the whole number in a sysfs file; a kernel file is read in one call, and anew each time it is opened."""
    handle = os.open(path, os.O_RDONLY)
    try:
        text = os.read(handle, 32)
    finally:
        os.close(handle)
    try:
        return int(text)
    except ValueError as err:
        raise OSError(errno.EIO, f"{text!r} is no number", path) from err


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.isdigit() else None
