"""Importing TensorRT, and keeping what it logs."""

from __future__ import annotations

import importlib
import platform
import re
from pathlib import Path
from typing import Any

from heartvit_edge.errors import MachineError

SUPPORTED = "8.6, or 10.1 and later"
"""10.0 lacks the members by which scratch is given from 10.1 to 11, and no JetPack has it."""
OUT_OF_MEMORY = re.compile(r"out ?of ?memory|memory .*could not be allocated", re.IGNORECASE)
ASKED = re.compile(r"[Rr]equested amount of (?:GPU )?memory \((\d+) bytes\)")


def install_hint(root: Path = Path("/")) -> str:
    """Return the command that installs TensorRT on this kind of machine.

    Args:
        root: Where the system's files lie.
    """
    if (root / "etc/nv_tegra_release").is_file():
        return (
            "sudo apt-get install python3-libnvinfer, then use an environment that sees the system's packages: "
            "python3 -m venv --system-site-packages .venv"
        )
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        return "pip install 'heartvit-edge[tensorrt]'"
    return "TensorRT runs on a Jetson or on x86-64 Linux; here use: --backend onnxruntime"


def import_tensorrt() -> Any:  # noqa: ANN401 - the module carries no types
    """Return the tensorrt module.

    Raises:
        MachineError: If it cannot be imported, or is a version that this package does not know.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except (ImportError, OSError) as err:  # OSError: a shared library is missing
        raise MachineError(f"TensorRT cannot be imported: {err}", hint=install_hint()) from err
    if version(trt) != (8, 6) and version(trt) < (10, 1):
        raise MachineError(f"found TensorRT {trt.__version__}, expected {SUPPORTED}", hint=install_hint())
    return trt


def version(trt: Any) -> tuple[int, int]:  # noqa: ANN401
    """Return TensorRT's major and minor version."""
    major, minor, *_ = trt.__version__.split(".")
    return int(major), int(minor)


class Log(list[str]):
    """What TensorRT logged, errors and warnings in order."""

    def said(self) -> str:
        """Return errors, or warnings where there are none, for the end of a message."""
        errors = [text for text in self if "error: " in text]
        return "; ".join(errors or self) or "TensorRT logged nothing"

    def ran_out(self) -> bool:
        """Return whether memory was asked for and not given."""
        return any(OUT_OF_MEMORY.search(text) for text in self)

    def asked_bytes(self) -> int | None:
        """Return the most that was asked for in vain; None where TensorRT does not say."""
        return max((int(found[1]) for text in self for found in ASKED.finditer(text)), default=None)


def collecting_logger(trt: Any) -> tuple[Any, Log]:  # noqa: ANN401
    """Return a logger for TensorRT, and the log into which it puts errors and warnings."""
    levels = {
        trt.ILogger.INTERNAL_ERROR: "internal error",
        trt.ILogger.ERROR: "error",
        trt.ILogger.WARNING: "warning",
    }
    log = Log()

    class CollectingLogger(trt.ILogger):  # type: ignore[misc]  # the base has no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, msg: str) -> None:
            if severity in levels:
                log.append(f"{levels[severity]}: {msg}")

    return CollectingLogger(), log
