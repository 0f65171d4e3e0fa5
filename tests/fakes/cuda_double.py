"""A device without a GPU: buffers in host memory, and a stream whose work waits until it is synchronised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

STREAM = 7


class FakeDevice:
    """Buffers by address, and enqueued work that has not run.

    Work that nobody waits for never runs, so a runner that reads too early reads what was there before.
    """

    def __init__(self) -> None:
        self.buffers: dict[int, bytearray] = {}
        self.queue: list[Callable[[], None]] = []
        self._next = 0x1000

    def allocate(self, num_bytes: int) -> int:
        """Return the address of a buffer filled with 0xff, which is NaN as float32."""
        address, self._next = self._next, self._next + num_bytes + 256
        self.buffers[address] = bytearray(b"\xff" * num_bytes)
        return address

    def read(self, address: int, num_bytes: int) -> bytes:
        """Return the first bytes of a buffer; reading past its end is an error."""
        assert num_bytes <= len(self.buffers[address]), "read past the end of a device buffer"
        return bytes(self.buffers[address][:num_bytes])

    def write(self, address: int, content: bytes) -> None:
        """Fill the start of a buffer; writing past its end is an error."""
        assert len(content) <= len(self.buffers[address]), "write past the end of a device buffer"
        self.buffers[address][: len(content)] = content

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Put work on the stream."""
        assert stream == STREAM, f"work on stream {stream}, which does not exist"
        self.queue.append(work)


class FakeCudaMemory:
    """Implements ``heartvit_edge.runtime.cuda_memory.CudaMemory`` on a FakeDevice."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self._own: list[int] = []
        self.closed = False

    @property
    def stream(self) -> int:
        return STREAM

    def allocate(self, num_bytes: int) -> int:
        self._own.append(self._device.allocate(num_bytes))
        return self._own[-1]

    def to_device(self, address: int, source: NDArray[Any]) -> None:
        assert source.flags.c_contiguous
        self._device.enqueue(STREAM, lambda: self._device.write(address, source.tobytes()))

    def to_host(self, target: NDArray[Any], address: int) -> None:
        assert target.flags.c_contiguous

        def copy() -> None:
            content = self._device.read(address, target.nbytes)
            target[...] = np.frombuffer(content, dtype=target.dtype).reshape(target.shape)

        self._device.enqueue(STREAM, copy)

    def synchronize(self) -> None:
        while self._device.queue:
            self._device.queue.pop(0)()

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True
        for address in self._own:
            del self._device.buffers[address]
