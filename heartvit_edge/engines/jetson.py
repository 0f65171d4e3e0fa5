"""What a Jetson says of itself in files: module, GPU, L4T release, power mode, CUDA.

Every function takes the root of the file system, so a recorded tree answers as the board would; none runs a program.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from heartvit_edge.errors import MachineError

# Module part numbers of NVIDIA's device trees (linux/arch/arm64/boot/dts/nvidia/tegra234-*).
MODULES = {
    "p3701-0000": "Jetson AGX Orin",
    "p3701-0004": "Jetson AGX Orin 32GB",
    "p3701-0005": "Jetson AGX Orin 64GB",
    "p3701-0008": "Jetson AGX Orin Industrial",
    "p3767-0000": "Jetson Orin NX 16GB",
    "p3767-0001": "Jetson Orin NX 8GB",
    "p3767-0003": "Jetson Orin Nano 8GB",
    "p3767-0004": "Jetson Orin Nano 4GB",
    "p3767-0005": "Jetson Orin Nano 8GB Developer Kit",
}

# The last entry of the device tree's ``compatible``, to the GPU's CUDA name and compute capability.
GPUS = {"tegra194": ("Xavier", "7.2"), "tegra234": ("Orin", "8.7"), "tegra264": ("Thor", "11.0")}

# NVIDIA's Jetson Linux archive: the JetPack of each L4T release that runs on Orin.
JETPACKS = {
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
    "39.2.2": "7.2.2",
}


class Jetson(NamedTuple):
    """One board.

    Attributes:
        board: Module name and part number; the carrier board under it is left out, since engines do not depend on it.
        gpu: GPU name as CUDA gives it; None where the chip is unknown here.
        compute_capability: Such as ``8.7``; None where the chip is unknown here.
        l4t: Release such as ``36.4.3``; None where the file is missing, as in a container that does not mount it.
        power_mode: Name of nvpmodel's mode; None where nvpmodel has stored none.
        cuda: Version of the CUDA toolkit; None where none is installed.
    """

    board: str
    gpu: str | None
    compute_capability: str | None
    l4t: str | None
    power_mode: str | None
    cuda: str | None


def read_jetson(root: Path = Path("/")) -> Jetson | None:
    """Return the board under ``root``, or None where the device tree names no NVIDIA Tegra chip.

    Raises:
        MachineError: If the kernel or L4T is a Jetson's but the device tree is hidden, as in most containers: boards
            could not be told apart.
    """
    tree = root / "proc" / "device-tree"
    compatible = [name for name in (read_text(tree / "compatible") or "").split("\0") if name]
    l4t = read_l4t(root)
    kernel = read_text(root / "proc" / "sys" / "kernel" / "osrelease") or ""
    if not compatible and (l4t or kernel.endswith("-tegra")):
        raise MachineError(
            f"this is a Jetson (L4T {l4t or 'unknown'}), but {tree / 'compatible'}, which names its module, is hidden",
            hint="docker run --security-opt systempaths=unconfined ...",
        )
    chips = [name.removeprefix("nvidia,") for name in compatible if name.startswith("nvidia,tegra")]
    if not chips:
        return None
    gpu, capability = GPUS.get(chips[-1], (None, None))
    return Jetson(
        board=_board(tree, compatible),
        gpu=gpu,
        compute_capability=capability,
        l4t=l4t,
        power_mode=read_power_mode(root),
        cuda=read_cuda_toolkit(root),
    )


def read_text(path: Path) -> str | None:
    """Return a small system file's text without trailing NUL and blanks; None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0 \n\t")
    except OSError:
        return None


def read_l4t(root: Path) -> str | None:
    """Return the L4T release, such as 36.4.3 from ``# R36 (release), REVISION: 4.3``; None where there is none."""
    text = read_text(root / "etc" / "nv_tegra_release") or ""
    found = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else None


def read_power_mode(root: Path) -> str | None:
    """Return the name of the mode that nvpmodel stored last, or ``mode N`` where its table does not name it.

    Names are compared, never numbers: one number stands for different modes on different boards and JetPacks.
    """
    stored = re.search(r"pmode:\s*(\d+)", read_text(root / "var" / "lib" / "nvpmodel" / "status") or "")
    if not stored:
        return None
    number = int(stored[1])
    table = read_text(root / "etc" / "nvpmodel.conf") or ""
    modes = re.finditer(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", table, flags=re.MULTILINE)
    return next((mode[2] for mode in modes if int(mode[1]) == number), f"mode {number}")


def read_cuda_toolkit(root: Path) -> str | None:
    """Return the version in ``usr/local/cuda/version.json``; None where there is no toolkit."""
    text = read_text(root / "usr" / "local" / "cuda" / "version.json")
    if text is None:
        return None
    try:
        version = json.loads(text)["cuda"]["version"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(version)


def read_driver(root: Path) -> str | None:
    """Return the driver's version, such as 540.4.0; None where it tells none."""
    text = read_text(root / "proc" / "driver" / "nvidia" / "version") or ""
    found = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)", text, flags=re.MULTILINE)
    return found[1] if found else None


def l4t_to_jetpack(l4t: str) -> str | None:
    """Return the JetPack that an L4T release such as ``36.4.3`` belongs to; None where the table has it not."""
    return JETPACKS.get(l4t)


def _board(tree: Path, compatible: list[str]) -> str:
    sources = [*compatible, read_text(tree / "nvidia,dtsfilename") or ""]
    part = next((found[0] for text in sources if (found := re.search(r"p(3701|3767)-\d{4}", text))), None)
    model = read_text(tree / "model") or "NVIDIA Tegra board"
    return model if part is None else f"{MODULES.get(part, model)} ({part})"
