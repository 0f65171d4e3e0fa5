"""What a runner needs of CUDA, behind one protocol, through cuda-python or pycuda; torch is never needed.

Both work in the device's primary context, which TensorRT and ONNX Runtime share; no context of our own is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.errors import MachineError

CudaBinding = Literal["cuda-python", "pycuda"]

Event = Any
Graph = Any


class HostBuffer(NamedTuple):
    """Page-locked memory of the host.

    Attributes:
        bytes: The memory itself, shape (num_bytes,).
        device_address: Where the device sees the same memory; None where it has memory of its own, to which it is
            copied.
    """

    bytes: NDArray[np.uint8]
    device_address: int | None


class Cuda(Protocol):
    """Buffers, streams, events and graphs of the first device. All of them are given back by :meth:`close`.

    Every call raises :class:`heartvit_edge.errors.MachineError` with CUDA's own words where CUDA reports an error.
    """

    @property
    def has_graphs(self) -> bool:
        """Whether work can be captured once and launched again as one."""
        ...

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes of the device's memory."""
        ...

    def allocate(self, num_bytes: int) -> int:
        """Return the address of a new buffer on the device.

        Raises:
            MachineError: If the device has not that much memory; the message says what was asked and what was free.
        """
        ...

    def free(self, address: int) -> None:
        """Give one buffer of :meth:`allocate` back before the others."""
        ...

    def allocate_host(self, num_bytes: int) -> HostBuffer:
        """Return page-locked memory, which an integrated GPU such as Orin's reads and writes in place.

        Raises:
            MachineError: If the host has not that much memory; the message says what was asked and what was free.
        """
        ...

    def stream(self) -> int:
        """Return the handle of a new stream, as TensorRT takes it."""
        ...

    def to_device(self, address: int, source: NDArray[np.uint8], stream: int) -> None:
        """Enqueue a copy of page-locked memory to the device."""
        ...

    def to_host(self, target: NDArray[np.uint8], address: int, stream: int) -> None:
        """Enqueue a copy from the device into page-locked memory."""
        ...

    def event(self, *, timed: bool) -> Event:
        """Return a new event; only a timed one can be used for :meth:`elapsed_ms`."""
        ...

    def record(self, event: Event, stream: int) -> None:
        """Let the event happen once all that is on the stream by now is done."""
        ...

    def wait(self, stream: int, event: Event) -> None:
        """Let what comes on the stream wait for the event as it was recorded last."""
        ...

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Return the time between two timed events that have happened."""
        ...

    def capture(self, stream: int, work: Callable[[], None]) -> Graph:
        """Return what ``work`` enqueues on the stream, as a graph; nothing of it runs.

        Raises:
            MachineError: If the work cannot be captured, or the binding has no graphs.
        """
        ...

    def launch(self, graph: Graph, stream: int) -> None:
        """Enqueue a graph."""
        ...

    def synchronize(self, stream: int) -> None:
        """Return when all that is on the stream is done.

        Raises:
            MachineError: If any of it failed.
        """
        ...

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        ...


def open_cuda(binding: CudaBinding) -> Cuda:
    """Return the first device.

    Raises:
        MachineError: If the binding cannot be imported, or there is no device.
    """
    if binding == "pycuda":
        from heartvit_edge.runtime.pycuda_driver import Pycuda

        return Pycuda(_import_first("pycuda.driver", hint="pip install 'heartvit-edge[pycuda]'"))
    from heartvit_edge.runtime.cuda_python import CudaPython

    # The second name is that of cuda-python before 12.8.
    return CudaPython(_import_first("cuda.bindings.runtime", "cuda.cudart", hint="pip install cuda-python"))


def out_of_memory(what: str, asked: int | None, memory: tuple[int, int]) -> MachineError:
    """Return the error that says what was asked of the device's memory and what was free.

    Args:
        what: What is out of memory, such as ``the GPU``.
        asked: Bytes asked for; None where the library does not say.
        memory: Free and total bytes.
    """
    wanted = "more than it has" if asked is None else f"{asked / 2**20:.1f} MiB"
    free, total = (size / 2**20 for size in memory)
    return MachineError(
        f"{what} is out of memory: asked for {wanted}, {free:.1f} of {total:.1f} MiB are free",
        hint="close what else uses it, or build for a smaller batch: "
        "heartvit-edge build-engine PACK --batch-size 1, then add --variant batch1",
    )


def _import_first(*names: str, hint: str) -> ModuleType:
    reasons = []
    for name in names:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as err:  # OSError: the driver's library is missing
            reasons.append(f"{name}: {err}")
    raise MachineError(f"no CUDA binding: {'; '.join(reasons)}", hint=hint)
