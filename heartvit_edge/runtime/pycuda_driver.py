"""CUDA through pycuda, which raises where CUDA fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.errors import MachineError
from heartvit_edge.runtime.cuda import Event, Graph, HostBuffer, out_of_memory


class Pycuda:
    """The CUDA driver through pycuda; see :class:`heartvit_edge.runtime.cuda.Cuda`. It has no graphs."""

    has_graphs = False

    def __init__(self, driver: ModuleType) -> None:
        """Enter the first device's primary context.

        Args:
            driver: ``pycuda.driver``.

        Raises:
            MachineError: If there is no driver or no device.
        """
        self._driver = driver
        self._buffers: dict[int, Any] = {}
        self._host: list[NDArray[np.uint8]] = []
        self._streams: dict[int, Any] = {}
        with self._told("initialisation"):
            driver.init()
            device = driver.Device(0)
            self._integrated = bool(device.get_attribute(driver.device_attribute.INTEGRATED))
            self._context: Any = device.retain_primary_context()
            self._context.push()

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes of the device's memory."""
        with self._told("memory information"):
            free, total = self._driver.mem_get_info()
        return int(free), int(total)

    def allocate(self, num_bytes: int) -> int:
        """Return the address of a new buffer on the device."""
        with self._told("allocation"):
            try:
                buffer = self._driver.mem_alloc(num_bytes)
            except self._driver.MemoryError as err:
                raise out_of_memory("the GPU", num_bytes, self.memory()) from err
        self._buffers[int(buffer)] = buffer  # freed when its object goes
        return int(buffer)

    def free(self, address: int) -> None:
        """Give one buffer back."""
        with self._told("release"):
            self._buffers.pop(address).free()

    def allocate_host(self, num_bytes: int) -> HostBuffer:
        """Return page-locked memory."""
        flags = self._driver.host_alloc_flags.DEVICEMAP if self._integrated else 0
        with self._told("allocation on the host"):
            try:
                content = self._driver.pagelocked_empty((num_bytes,), np.uint8, "C", flags)
            except self._driver.MemoryError as err:
                raise out_of_memory("the host's page-locked memory", num_bytes, self.memory()) from err
            self._host.append(content)
            address = int(content.base.get_device_pointer()) if self._integrated else None
        return HostBuffer(content, address)

    def stream(self) -> int:
        """Return the handle of a new stream."""
        with self._told("a new stream"):
            stream = self._driver.Stream()
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def to_device(self, address: int, source: NDArray[np.uint8], stream: int) -> None:
        """Enqueue a copy to the device."""
        with self._told("copy to the device"):
            self._driver.memcpy_htod_async(address, source, self._streams[stream])

    def to_host(self, target: NDArray[np.uint8], address: int, stream: int) -> None:
        """Enqueue a copy to the host."""
        with self._told("copy to the host"):
            self._driver.memcpy_dtoh_async(target, address, self._streams[stream])

    def event(self, *, timed: bool) -> Event:
        """Return a new event."""
        flags = self._driver.event_flags
        with self._told("a new event"):
            return self._driver.Event(flags.DEFAULT if timed else flags.DISABLE_TIMING)

    def record(self, event: Event, stream: int) -> None:
        """Enqueue the event."""
        with self._told("an event"):
            event.record(self._streams[stream])

    def wait(self, stream: int, event: Event) -> None:
        """Let the stream wait for the event."""
        with self._told("a stream's waiting"):
            self._streams[stream].wait_for_event(event)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Return the time between two events."""
        with self._told("the time between events"):
            return float(end.time_since(start))

    def capture(self, _stream: int, _work: Callable[[], None]) -> Graph:
        """Refuse: pycuda has no graphs."""
        raise MachineError("pycuda has no CUDA graphs", hint="add --cuda-binding cuda-python, or --no-cuda-graph")

    def launch(self, graph: Graph, _stream: int) -> None:
        """Refuse: there is no graph that could have come from here."""
        raise RuntimeError(f"pycuda has no CUDA graphs, found {graph!r}")

    def synchronize(self, stream: int) -> None:
        """Return when all that is on the stream is done."""
        with self._told("work on the stream"):
            self._streams[stream].synchronize()

    def close(self) -> None:
        """Give everything back, then leave the primary context."""
        if self._context is None:
            return
        with self._told("release"):
            self._streams.clear()
            self._host.clear()
            for buffer in self._buffers.values():
                buffer.free()
            self._buffers.clear()
            context, self._context = self._context, None
            context.pop()
            context.detach()

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn pycuda's errors into ours.

        Raises:
            MachineError: If pycuda raised.
        """
        try:
            yield
        except self._driver.Error as err:
            raise MachineError(f"CUDA {what} failed: {err}", hint="heartvit-edge doctor") from err
