"""Energy of a discrete NVIDIA GPU through NVML. A Jetson's NVML loads and supports none of this."""

from __future__ import annotations

import os
from typing import Any

from heartvit_edge.errors import MachineError
from heartvit_edge.power.counter import EnergyCounter
from heartvit_edge.power.polling import Reading
from heartvit_edge.power.sampler import Clock

MIN_INTERVAL_S = 0.05
"""Drivers bring the counter up to date every 20 to 100 ms."""

INSTALL_HINT = "pip install 'heartvit-edge[nvml]'"


def why_no_gpu_power() -> MachineError | None:
    """Return what stands against reading a GPU's power on this machine; None if nothing does."""
    try:
        Nvml().close()
    except MachineError as err:
        return err
    return None


class Nvml:
    """One GPU, by its energy counter, or by its power where it has none.

    It is the first that CUDA_VISIBLE_DEVICES names by number or UUID, else the first of all.
    See :class:`heartvit_edge.power.polling.Source`.
    """

    name = "nvml"
    min_interval_s = MIN_INTERVAL_S
    hint = "see whether the driver answers: nvidia-smi"

    def __init__(self) -> None:
        """Find the GPU and what it can tell.

        Raises:
            MachineError: If NVML, a GPU, or any reading of its power is missing.
        """
        try:
            import pynvml
        except ImportError as err:
            raise MachineError(f"NVML's Python package cannot be imported: {err}", hint=INSTALL_HINT) from err
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as err:
            raise MachineError(f"NVML does not start: {err}", hint=self.hint) from err
        try:
            self._open()
        except pynvml.NVMLError as err:
            self.close()
            raise MachineError(f"NVML tells no power on this machine: {err}", hint=self.hint) from err

    def read(self, clock: Clock) -> Reading | None:
        """Return the GPU's mean power since the last read, or its power now where it counts no energy.

        Raises:
            OSError: If the driver fails.
        """
        try:
            if self._counter is None:
                return Reading(clock(), {self._label: float(self._nvml.nvmlDeviceGetPowerUsage(self._gpu))})
            energy_mj = float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu))
        except self._nvml.NVMLError as err:
            raise OSError(str(err)) from err
        return self._counter.look(clock(), {self._label: energy_mj})

    def close(self) -> None:
        """Let NVML go."""
        self._nvml.nvmlShutdown()

    def _open(self) -> None:
        nvml = self._nvml
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
        if first.startswith("GPU-"):
            self._gpu = nvml.nvmlDeviceGetHandleByUUID(first)
        else:
            self._gpu = nvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0)
        name = nvml.nvmlDeviceGetName(self._gpu)
        self._label = f"{name} {nvml.nvmlDeviceGetIndex(self._gpu)}"
        self.labels: tuple[str, ...] = (self._label,)
        rule = "its whole card counts; processor and memory of the machine are not seen"
        self.total: tuple[tuple[str, ...], str] = (self.labels, rule)
        self.resolution_mw: dict[str, float] = {}  # what one reading lacks of a step, the next one has
        self.notes: tuple[str, ...] = ()
        try:
            nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)
            self._counter: EnergyCounter | None = EnergyCounter()
        except nvml.NVMLError:
            nvml.nvmlDeviceGetPowerUsage(self._gpu)
            self._counter = None
            self.resolution_mw = {self._label: 1.0}
            self.notes = ("the GPU counts no energy, so its power readings are integrated",)
