"""The fingerprint of a machine, and which of its differences make an engine unfit for another."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from heartvit_edge.engines.cuda_device import count_sms
from heartvit_edge.engines.jetson import read_cuda_toolkit, read_driver, read_jetson, read_text
from heartvit_edge.errors import MachineError
from heartvit_edge.spec.engine import Backend
from heartvit_edge.spec.machine import Machine

# One package may come under several distribution names; the first that is installed counts.
DISTRIBUTIONS = {
    "numpy": ("numpy",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
}

# What an engine of each backend depends on. TensorRT chooses kernels by timing them, so what it built in one power mode
# is not what it would build in another. Python, numpy and the processor count do not change an engine.
FIELDS: dict[Backend, tuple[str, ...]] = {
    "onnxruntime": ("system", "cpu", "board", "gpu", "compute_capability"),
    "tensorrt": ("system", "board", "l4t", "gpu", "compute_capability", "num_sms", "driver", "cuda", "power_mode"),
}

ARM_CORES = {("0x41", "0xd42"): "Arm Cortex-A78AE"}  # (implementer, part) of Orin


class Gpu(NamedTuple):
    """A GPU outside a Jetson: its name, compute capability and driver version."""

    name: str
    compute_capability: str
    driver: str


def detect_machine(root: Path = Path("/"), sms: Callable[[], int | None] = count_sms) -> Machine:
    """Return this machine's fingerprint; no package is imported for it.

    Args:
        root: Where ``proc``, ``etc``, ``var`` and ``usr`` are read from. Operating system, processor count and package
            versions are always those of the running process.
        sms: Counts the multiprocessors of the GPU.

    Raises:
        MachineError: If this is a Jetson whose module cannot be told, as in most containers, or the driver of a GPU
            reports an error.
    """
    common = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _read_cpu(root),
        "num_cpus": len(os.sched_getaffinity(0)),
        "versions": package_versions(),
    }
    if jetson := read_jetson(root):
        return Machine.model_validate(common | jetson._asdict() | {"driver": read_driver(root), "num_sms": sms()})
    try:
        gpu = ask_nvidia_smi()
    except MachineError:
        return Machine.model_validate(common)
    return Machine.model_validate(
        common
        | {
            "gpu": gpu.name,
            "compute_capability": gpu.compute_capability,
            "num_sms": sms(),
            "driver": gpu.driver,
            "cuda": read_cuda_toolkit(root) or f"driver {gpu.driver}",
        }
    )


def engine_facts(machine: Machine, backend: Backend) -> dict[str, str | None]:
    """Return what an engine of a backend depends on, by name, its version included."""
    facts = {field: getattr(machine, field) for field in FIELDS[backend]}
    return facts | {backend: dict(machine.versions).get(backend)}


def explain_difference(
    built: Machine, here: Machine, backend: Backend | None = None, *, any_power_mode: bool = False
) -> list[str]:
    """Return one line for each difference that makes an engine built on ``built`` unfit for ``here``; empty if it fits.

    A board's lower power modes switch multiprocessors off, so that another mode excuses another number of them too.

    Args:
        built: Where the engine was built.
        here: Where it would run.
        backend: What runs the engine; None compares what any backend depends on.
        any_power_mode: Let the engine run in another power mode than it was built in, as a sweep over modes does.
    """
    backends = (backend,) if backend else tuple(FIELDS)
    was = {name: value for one in backends for name, value in engine_facts(built, one).items()}
    now = {name: value for one in backends for name, value in engine_facts(here, one).items()}
    left_out = {"power_mode"} if any_power_mode else set()
    if any_power_mode and built.power_mode != here.power_mode:
        left_out.add("num_sms")
    return [
        f"{name}: built with {was[name] or 'none'}, here {now[name] or 'none'}"
        for name in was
        if was[name] != now[name] and name not in left_out
    ]


def package_versions() -> tuple[tuple[str, str], ...]:
    """Return (name, version) of Python and of each installed package that bears on engines, without importing any."""
    found = [("python", platform.python_version())]
    found += [(name, version) for name in DISTRIBUTIONS if (version := installed_version(*DISTRIBUTIONS[name]))]
    return tuple(found)


def installed_version(*distributions: str) -> str | None:
    """Return the version of the first of these distributions that is installed; None if none is."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def ask_nvidia_smi(timeout_s: float = 20.0) -> Gpu:
    """Return the first GPU that ``nvidia-smi`` lists.

    Raises:
        MachineError: If the program is missing, fails, takes longer than ``timeout_s`` seconds or lists nothing usable.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        raise MachineError("nvidia-smi is not on PATH: there is no NVIDIA driver")
    query = [program, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise MachineError(f"nvidia-smi did not answer: {err}") from err
    if answer.returncode != 0:
        said = " ".join((answer.stderr or answer.stdout).split())
        raise MachineError(f"nvidia-smi exited with {answer.returncode}: {said}")
    first = answer.stdout.strip().partition("\n")[0]
    parts = [part.strip() for part in first.split(",")]
    if len(parts) != 3 or not re.fullmatch(r"\d+\.\d+", parts[1]):
        raise MachineError(f"nvidia-smi answered {first!r}, expected a name, a compute capability and a driver version")
    return Gpu(*parts)


def _read_cpu(root: Path) -> str:
    fields: dict[str, str] = {}
    for line in (read_text(root / "proc" / "cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    if name := fields.get("model name"):
        return name
    core = (fields.get("CPU implementer", "unknown"), fields.get("CPU part", "unknown"))
    return ARM_CORES.get(core, f"implementer {core[0]}, part {core[1]}")
