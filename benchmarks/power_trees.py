"""Trees of sysfs files as power sensors have them, written below a folder, and power played into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

AGX_SENSORS = {
    "1-0040": ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    "1-0041": ("NC", "VDDQ_VDD2_1V8AO", "NC"),
}
NX_SENSORS = {"1-0040": ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")}

VOLT_MV = 5000
"""Bus voltage of every rail: power in milliwatt is then five times the current in milliampere."""


def write_ina3221(
    sysfs: Path, sensors: Mapping[str, Sequence[str]], update_interval_ms: int = 0, shunt_uohm: int = 5000
) -> dict[str, Path]:
    """Write the sensors at 1 A a rail, and return the file of each rail's current by its label."""
    found = {}
    for address, labels in sensors.items():
        hwmon = sysfs / "bus/i2c/drivers/ina3221" / address / "hwmon/hwmon3"
        hwmon.mkdir(parents=True)
        (hwmon / "update_interval").write_text(f"{update_interval_ms}\n")
        (hwmon / "in7_label").write_text("sum of shunt voltages\n")
        (hwmon / "in7_input").write_text("4\n")
        (hwmon / "curr7_input").write_text("9999\n")
        for number, label in enumerate(labels, 1):
            (hwmon / f"in{number}_label").write_text(f"{label}\n")
            (hwmon / f"in{number}_input").write_text(f"{VOLT_MV}\n")
            (hwmon / f"shunt{number}_resistor").write_text(f"{shunt_uohm}\n")
            current = hwmon / f"curr{number}_input"
            write_in_place(current, 1000)
            if label != "NC":
                found[label] = current
    return found


def write_in_place(file: Path, number: int) -> None:
    """Write a number in a fixed width over the former: whoever reads sees the one or the other, never half of both."""
    with file.open("r+b" if file.exists() else "xb", buffering=0) as opened:
        opened.write(b"%-11d\n" % number)


def write_rapl(sysfs: Path, microjoule: int = 1000, wraps_at: int = 10_000_000) -> dict[str, Path]:
    """Write one package with cores and memory, and return the counter of each by its label."""
    found = {}
    for folder, name, label in (
        ("intel-rapl:0", "package-0", "package-0"),
        ("intel-rapl:0:0", "core", "package-0/core"),
        ("intel-rapl:0:1", "dram", "package-0/dram"),
    ):
        zone = sysfs / "class/powercap" / folder
        zone.mkdir(parents=True)
        (zone / "name").write_text(f"{name}\n")
        (zone / "max_energy_range_uj").write_text(f"{wraps_at}\n")
        (zone / "energy_uj").write_text(f"{microjoule}\n")
        found[label] = zone / "energy_uj"
    return found
