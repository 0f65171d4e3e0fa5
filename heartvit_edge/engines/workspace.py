"""How much memory a build may use: what the board has free, shared between the builder and all else."""

from __future__ import annotations

import re
from pathlib import Path

from heartvit_edge.engines.cuda_device import gpu_memory
from heartvit_edge.engines.jetson import read_text
from heartvit_edge.errors import MachineError
from heartvit_edge.spec.machine import Machine

SHARE = 0.5  # the rest holds the weights twice and, on a Jetson, everything that the host needs
LEAST_BYTES = 64 << 20  # with less, TensorRT finds no kernels for the matrix products of a ViT


def free_memory(machine: Machine, root: Path = Path("/")) -> tuple[int, int]:
    """Return free and total bytes of the memory that the GPU uses.

    A Jetson's GPU uses the host's memory, of which CUDA reports the file cache as taken though the kernel gives it up.

    Args:
        machine: This machine.
        root: Where system files are read from.

    Raises:
        MachineError: If it cannot be told.
    """
    if machine.board is None:
        return gpu_memory()
    text = read_text(root / "proc" / "meminfo") or ""
    sizes = {found[1]: int(found[2]) << 10 for found in re.finditer(r"^(\w+):\s+(\d+) kB", text, flags=re.MULTILINE)}
    try:
        return sizes["MemAvailable"], sizes["MemTotal"]
    except KeyError as err:
        raise MachineError(f"{root / 'proc' / 'meminfo'} has no {err.args[0]}: free memory is unknown") from err


def workspace_bytes(free: int, total: int) -> int:
    """Return the builder's workspace limit, whole MiB.

    Args:
        free: Bytes that are free.
        total: Bytes that there are.

    Raises:
        MachineError: If that would be too little to build with.
    """
    limit = int(free * SHARE) >> 20 << 20
    if limit < LEAST_BYTES:
        raise MachineError(
            f"too little memory to build: {LEAST_BYTES >> 20} MiB of workspace are needed, which is half of what is "
            f"free, and {free >> 20} of {total >> 20} MiB are free",
            hint="close what else uses memory; on a Jetson stop the desktop: sudo systemctl isolate multi-user.target",
        )
    return limit
