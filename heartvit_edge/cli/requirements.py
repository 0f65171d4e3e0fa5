"""What each command needs of a machine, and what stands against it here."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

from heartvit_edge.engines.cuda_device import why_no_cuda_device
from heartvit_edge.engines.fingerprint import installed_version
from heartvit_edge.engines.jetson import read_jetson
from heartvit_edge.engines.onnxruntime_session import CUDA, import_onnxruntime
from heartvit_edge.engines.tensorrt_module import import_tensorrt
from heartvit_edge.errors import MachineError
from heartvit_edge.power.choose import SOURCES, lacks

HOST_PACKAGES = ("torch", "torchvision", "timm", "safetensors", "scipy")
INSTALL_ONNX = "pip install 'heartvit-edge[onnxruntime]'"
INSTALL_HOST = "pip install 'heartvit-edge[host]'"
FINETUNE_PACKAGES = ("accelerate", "tensorboard")
INSTALL_FINETUNE = "pip install 'heartvit-edge[finetune]'"

Lacks = Callable[[], MachineError | None]


def commands(root: Path = Path("/")) -> dict[str, Lacks]:
    """Map each command, as it is typed, to a function that returns what stands against it here.

    Args:
        root: Where system files are read from.
    """
    return {
        "quickstart": lambda: lacks_digits() or lacks_export(),
        "score": lacks_host,
        "plan": lacks_solver,
        "export": lacks_export,
        "lint": lacks_onnx,
        "finetune": lacks_finetune,
        "build-engine --backend onnxruntime": lambda: lacks_module_name(root) or lacks_onnxruntime(),
        "build-engine --backend tensorrt": lambda: lacks_module_name(root) or lacks_tensorrt(),
        "engines": lambda: lacks_module_name(root),
        "engines time": lambda: lacks_module_name(root) or lacks_tensorrt(),
        "bench": lambda: lacks_module_name(root) or lacks_engine_runtime(),
        **{f"bench --power {source}": partial(lacks_power, source, root) for source in SOURCES},
        "evaluate": lambda: lacks_module_name(root) or lacks_engine_runtime(),
        "report": lacks_nothing,
        "schema": lacks_nothing,
        "doctor": lacks_nothing,
    }


def importable(module: str) -> bool:
    """Return whether a module can be found, without importing it (a parent package is imported)."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def lacks_nothing() -> MachineError | None:
    """Return None: the base installation does."""
    return None


def lacks_module_name(root: Path) -> MachineError | None:
    """Return why this board cannot be told from another; None if it can, or is no Jetson."""
    try:
        read_jetson(root)
    except MachineError as err:
        return err
    return None


def lacks_power(source: str, root: Path) -> MachineError | None:
    """Return why engines cannot be measured while a power source is read; None if they can."""
    return lacks_module_name(root) or lacks_engine_runtime() or lacks(source, root)


def lacks_host() -> MachineError | None:
    """Return why models cannot be loaded and scored; None if they can."""
    missing = [name for name in HOST_PACKAGES if not importable(name)]
    if missing:
        return MachineError(f"not installed: {', '.join(missing)}", hint=INSTALL_HOST)
    torch, torchvision = installed_version("torch") or "", installed_version("torchvision") or ""
    if torch.endswith("+cpu") and not torchvision.endswith("+cpu"):
        return MachineError(
            f"torch {torch} is built for CPUs, torchvision {torchvision} for CUDA: torchvision fails to import",
            hint="pip install --force-reinstall torch torchvision",
        )
    return None


def lacks_finetune() -> MachineError | None:
    """Return why models cannot be fine-tuned; None if they can."""
    missing = [name for name in FINETUNE_PACKAGES if not importable(name)]
    if missing:
        return MachineError(f"not installed: {', '.join(missing)}", hint=INSTALL_FINETUNE)
    return lacks_host()


def lacks_solver() -> MachineError | None:
    """Return why plans cannot be searched; None if they can."""
    return None if importable("scipy") else MachineError("not installed: scipy", hint=INSTALL_HOST)


def lacks_digits() -> MachineError | None:
    """Return why the bundled digits cannot be read; None if they can."""
    if importable("sklearn"):
        return None
    return MachineError("not installed: scikit-learn, which carries the digits", hint=INSTALL_HOST)


def lacks_export() -> MachineError | None:
    """Return why graphs cannot be exported and compared with PyTorch; None if they can."""
    if not importable("onnx"):
        return MachineError("not installed: onnx", hint=INSTALL_HOST)
    return lacks_host() or lacks_onnxruntime()


def lacks_dynamo() -> MachineError | None:
    """Return why torch's newer exporter cannot be used; None if it can."""
    return None if importable("onnxscript") else MachineError("not installed: onnxscript", hint=INSTALL_HOST)


def lacks_onnx() -> MachineError | None:
    """Return why graphs cannot be read; None if they can."""
    return None if importable("onnx") else MachineError("not installed: onnx", hint=INSTALL_ONNX)


def lacks_onnxruntime() -> MachineError | None:
    """Return why ONNX Runtime cannot be used; None if it can."""
    try:
        import_onnxruntime()
    except MachineError as err:
        return err
    return None


def lacks_cuda_provider() -> MachineError | None:
    """Return why ONNX Runtime cannot use a GPU; None if it can.

    That its build lists the provider does not mean that the provider's libraries load, so they are loaded here.
    """
    try:
        onnxruntime = import_onnxruntime()
    except MachineError as err:
        return err
    if CUDA not in onnxruntime.get_available_providers():
        return MachineError(f"ONNX Runtime was built without {CUDA}", hint="pip install onnxruntime-gpu")
    if reason := why_no_cuda_device():
        return MachineError(reason)
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        for name in ("shared", "cuda"):  # the second needs the first's symbols
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"), mode=ctypes.RTLD_GLOBAL)
    except OSError as err:
        return MachineError(f"{CUDA} cannot be loaded: {err}", hint="pip install 'onnxruntime-gpu[cuda,cudnn]'")
    return None


def lacks_tensorrt() -> MachineError | None:
    """Return why TensorRT cannot be used; None if it can."""
    try:
        import_tensorrt()
    except MachineError as err:
        return err
    if reason := why_no_cuda_device():
        return MachineError(reason)
    if not any(importable(name) for name in ("cuda.bindings.runtime", "cuda.cudart", "pycuda")):
        return MachineError("not installed: cuda-python, or pycuda in its place", hint="pip install cuda-python")
    return None


def lacks_engine_runtime() -> MachineError | None:
    """Return why engines of neither backend can run; None if those of one can."""
    return lacks_onnxruntime() if lacks_tensorrt() else None
