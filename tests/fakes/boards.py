"""Trees of system files as Jetson boards have them, written below a folder."""

from __future__ import annotations

from pathlib import Path

CPUINFO = """processor\t: 0
BogoMIPS\t: 62.50
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd42
CPU revision\t: 1

processor\t: 1
CPU implementer\t: 0x41
CPU part\t: 0xd42
"""

AGX_MODES = """< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online

< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_0 1

< POWER_MODEL ID=1 NAME=MODE_15W >
CPU_ONLINE CORE_0 1

< POWER_MODEL ID=2 NAME=MODE_30W >
CPU_ONLINE CORE_0 1

< POWER_MODEL ID=3 NAME=MODE_50W >
CPU_ONLINE CORE_0 1

# mandatory section to configure the default power mode
< PM_CONFIG DEFAULT=2 >
"""

NX_MODES = """< POWER_MODEL ID=0 NAME=MAXN >
< POWER_MODEL ID=1 NAME=10W >
< POWER_MODEL ID=2 NAME=15W >
< POWER_MODEL ID=3 NAME=25W >
"""


def write_agx_orin(root: Path) -> Path:
    """An AGX Orin 64GB Developer Kit with JetPack 6.2 in its 30 W mode."""
    return write_board(
        root,
        driver="540.4.0",
        model="NVIDIA Jetson AGX Orin Developer Kit",
        compatible=("nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"),
        release="# R36 (release), REVISION: 4.3, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n",
        modes=AGX_MODES,
        status="pmode:0002 fmode:quiet",
        cuda="12.6.11",
    )


def write_orin_nx(root: Path) -> Path:
    """An Orin NX 16GB on the reference carrier with JetPack 7.2 in its 25 W mode."""
    return write_board(
        root,
        driver="595.58.03",
        model="NVIDIA Jetson Orin NX Engineering Reference Developer Kit Super",
        compatible=("nvidia,p3768-0000+p3767-0000-super", "nvidia,p3767-0000", "nvidia,tegra234"),
        release="# R39 (release), REVISION: 2.0, BOARD: generic, EABI: aarch64, DATE: Tue Jun  2 2026\n",
        modes=NX_MODES,
        status="pmode:0003",
        cuda="13.2.1",
    )


def write_board(
    root: Path,
    *,
    driver: str,
    model: str,
    compatible: tuple[str, ...],
    release: str,
    modes: str,
    status: str,
    cuda: str,
) -> Path:
    """Write the files that a fingerprint reads; strings in the device tree end in NUL as the kernel's do."""
    files = {
        "proc/cpuinfo": CPUINFO,
        "proc/meminfo": "MemTotal:       64339268 kB\nMemFree:         1000000 kB\nMemAvailable:   50331648 kB\n",
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  "
        f"{driver}  Release Build  (buildbrain@mobile-u64)\nGCC version:  collect2: error: ld returned 1 exit status\n",
        "proc/device-tree/model": f"{model}\0",
        "proc/device-tree/compatible": "".join(f"{name}\0" for name in compatible),
        "etc/nv_tegra_release": release,
        "etc/nvpmodel.conf": modes,
        "var/lib/nvpmodel/status": f"{status}\n",
        "usr/local/cuda/version.json": f'{{"cuda": {{"name": "CUDA SDK", "version": "{cuda}"}}}}',
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
