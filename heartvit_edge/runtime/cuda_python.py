"""CUDA through cuda-python, every return code checked."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.errors import MachineError
from heartvit_edge.runtime.cuda import Event, Graph, HostBuffer, out_of_memory


class CudaPython:
    """The CUDA runtime of cuda-python; see :class:`heartvit_edge.runtime.cuda.Cuda`."""

    has_graphs = True

    def __init__(self, cudart: ModuleType) -> None:
        """Take the current device's primary context.

        Args:
            cudart: ``cuda.bindings.runtime``, or ``cuda.cudart`` of older releases.

        Raises:
            MachineError: If there is no driver or no device.
        """
        self._cudart = cudart
        self._buffers: list[int] = []
        self._host: list[int] = []
        self._streams: dict[int, Any] = {}
        self._events: list[Event] = []
        self._graphs: list[Graph] = []
        (device,) = self._call("cudaGetDevice")
        (integrated,) = self._call("cudaDeviceGetAttribute", cudart.cudaDeviceAttr.cudaDevAttrIntegrated, device)
        self._integrated = bool(integrated)

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes of the device's memory."""
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def allocate(self, num_bytes: int) -> int:
        """Return the address of a new buffer on the device."""
        address = self._allocate("the GPU", "cudaMalloc", num_bytes)
        self._buffers.append(address)
        return address

    def free(self, address: int) -> None:
        """Give one buffer back."""
        self._buffers.remove(address)
        self._call("cudaFree", address)

    def allocate_host(self, num_bytes: int) -> HostBuffer:
        """Return page-locked memory."""
        flags = self._cudart.cudaHostAllocMapped if self._integrated else self._cudart.cudaHostAllocDefault
        address = self._allocate("the host's page-locked memory", "cudaHostAlloc", num_bytes, flags)
        self._host.append(address)
        content = np.ctypeslib.as_array((ctypes.c_ubyte * num_bytes).from_address(address))
        if not self._integrated:
            return HostBuffer(content, None)
        (device_address,) = self._call("cudaHostGetDevicePointer", address, 0)
        return HostBuffer(content, int(device_address))

    def stream(self) -> int:
        """Return the handle of a new stream, which does not wait for the default stream."""
        (stream,) = self._call("cudaStreamCreateWithFlags", self._cudart.cudaStreamNonBlocking)
        self._streams[int(stream)] = stream
        return int(stream)

    def to_device(self, address: int, source: NDArray[np.uint8], stream: int) -> None:
        """Enqueue a copy to the device."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, self._streams[stream])

    def to_host(self, target: NDArray[np.uint8], address: int, stream: int) -> None:
        """Enqueue a copy to the host."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, self._streams[stream])

    def event(self, *, timed: bool) -> Event:
        """Return a new event."""
        flags = self._cudart.cudaEventDefault if timed else self._cudart.cudaEventDisableTiming
        (event,) = self._call("cudaEventCreateWithFlags", flags)
        self._events.append(event)
        return event

    def record(self, event: Event, stream: int) -> None:
        """Enqueue the event."""
        self._call("cudaEventRecord", event, self._streams[stream])

    def wait(self, stream: int, event: Event) -> None:
        """Let the stream wait for the event."""
        self._call("cudaStreamWaitEvent", self._streams[stream], event, 0)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Return the time between two events."""
        (elapsed,) = self._call("cudaEventElapsedTime", start, end)
        return float(elapsed)

    def capture(self, stream: int, work: Callable[[], None]) -> Graph:
        """Return what ``work`` enqueues, as a graph."""
        on = self._streams[stream]
        self._call("cudaStreamBeginCapture", on, self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            work()
        except BaseException:
            self._cudart.cudaStreamEndCapture(on)  # its code would hide the first error
            raise
        (captured,) = self._call("cudaStreamEndCapture", on)
        (graph,) = self._call("cudaGraphInstantiate", captured, 0)
        self._graphs.append(graph)
        self._call("cudaGraphDestroy", captured)
        return graph

    def launch(self, graph: Graph, stream: int) -> None:
        """Enqueue a graph."""
        self._call("cudaGraphLaunch", graph, self._streams[stream])

    def synchronize(self, stream: int) -> None:
        """Return when all that is on the stream is done."""
        self._call("cudaStreamSynchronize", self._streams[stream])

    def close(self) -> None:
        """Give everything back."""
        while self._graphs:
            self._call("cudaGraphExecDestroy", self._graphs.pop())
        while self._events:
            self._call("cudaEventDestroy", self._events.pop())
        while self._streams:
            self._call("cudaStreamDestroy", self._streams.popitem()[1])
        while self._host:
            self._call("cudaFreeHost", self._host.pop())
        while self._buffers:
            self._call("cudaFree", self._buffers.pop())

    def _allocate(self, what: str, name: str, num_bytes: int, *flags: int) -> int:
        error, address = getattr(self._cudart, name)(num_bytes, *flags)
        if error == self._cudart.cudaError_t.cudaErrorMemoryAllocation:
            raise out_of_memory(what, num_bytes, self.memory())
        self._check(name, error)
        return int(address)

    def _call(self, name: str, *arguments: object) -> tuple[Any, ...]:
        """Return what a CUDA call gives beside its error code.

        Raises:
            MachineError: If the code is not success; the message is CUDA's.
        """
        error, *values = getattr(self._cudart, name)(*arguments)
        self._check(name, error)
        return tuple(values)

    def _check(self, name: str, error: Any) -> None:  # noqa: ANN401 - a cudaError_t
        if error != self._cudart.cudaError_t.cudaSuccess:
            text = self._cudart.cudaGetErrorString(error)[1].decode()
            raise MachineError(f"{name} failed with CUDA error {int(error)}: {text}", hint="heartvit-edge doctor")
