"""Device memory and one stream, behind one small protocol, through cuda-python or pycuda.

Both work in the device's primary context, which TensorRT and ONNX Runtime share; no context of our own is made.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from heartvit_edge.errors import MachineError

CudaBinding = Literal["cuda-python", "pycuda"]


class CudaMemory(Protocol):
    """Buffers on the device and one stream that orders all work on them."""

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        ...

    def allocate(self, num_bytes: int) -> int:
        """Return the address of a new buffer, freed by :meth:`close` at the latest.

        Raises:
            MachineError: If the device has not that much memory; the message says what was asked and what was free.
        """
        ...

    def to_device(self, address: int, source: NDArray[Any]) -> None:
        """Enqueue a copy of a contiguous array, which must live until :meth:`synchronize`."""
        ...

    def to_host(self, target: NDArray[Any], address: int) -> None:
        """Enqueue a copy into a contiguous array, which must live until :meth:`synchronize`."""
        ...

    def synchronize(self) -> None:
        """Return when all enqueued work is done.

        Raises:
            MachineError: If any of it failed.
        """
        ...

    def close(self) -> None:
        """Free every buffer and the stream."""
        ...


def open_cuda_memory(binding: CudaBinding) -> CudaMemory:
    """Return memory on the first device.

    Raises:
        MachineError: If the binding cannot be imported, or there is no device.
    """
    if binding == "pycuda":
        from heartvit_edge.runtime.pycuda_memory import PycudaMemory

        return PycudaMemory(_import_first("pycuda.driver", hint="pip install 'heartvit-edge[pycuda]'"))
    from heartvit_edge.runtime.cuda_python_memory import CudaPythonMemory

    # The second name is that of cuda-python before 12.8.
    return CudaPythonMemory(_import_first("cuda.bindings.runtime", "cuda.cudart", hint="pip install cuda-python"))


def _import_first(*names: str, hint: str) -> ModuleType:
    reasons = []
    for name in names:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as err:  # OSError: the driver's library is missing
            reasons.append(f"{name}: {err}")
    raise MachineError(f"no CUDA binding: {'; '.join(reasons)}", hint=hint)
