"""A device without a GPU: buffers in host memory, streams whose work waits until it is synchronised, and a clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.errors import MachineError
from heartvit_edge.runtime.cuda import HostBuffer

FIRST_STREAM = 7
COPY_MS, COMPUTE_MS = 1.0, 8.0
"""What the fake device takes for each copy and each network, on its own clock."""


@dataclass
class FakeEvent:
    """An event: how often it was recorded and has happened, and when it happened last."""

    timed: bool
    recorded: int = 0
    happened: int = 0
    at_ms: float = 0.0
    stream: int | None = None


@dataclass
class Step:
    """One thing on a stream: work that takes time, or a wait for the n-th recording of an event."""

    work: Callable[[], None] = lambda: None
    ms: float = 0.0
    event: FakeEvent | None = None
    number: int = 0


@dataclass
class FakeDevice:
    """Buffers by address, and enqueued work that has not run.

    Work that nobody waits for never runs, so a runner that reads too early reads what was there before.

    Attributes:
        integrated: Whether the device reads page-locked memory of the host in place.
        has_graphs: Whether work can be captured.
        free_bytes: What may still be allocated.
        buffers: Content by address.
        streams: Work that waits.
        capturing: What is being captured, by stream.
        ran: Labels of all work in the order in which it ran.
    """

    integrated: bool = False
    has_graphs: bool = True
    free_bytes: int = 1 << 30
    buffers: dict[int, bytearray] = field(default_factory=dict)
    streams: dict[int, deque[Step]] = field(default_factory=dict)
    capturing: dict[int, list[Step]] = field(default_factory=dict)
    launches: int = 0
    clock_ms: float = 0.0
    _next: int = 0x1000

    def allocate(self, num_bytes: int) -> int:
        """Return the address of a buffer filled with 0xff, which is NaN as float32."""
        if num_bytes > self.free_bytes:
            raise MachineError(f"the GPU is out of memory: asked for {num_bytes}, {self.free_bytes} are free")
        self.free_bytes -= num_bytes
        address, self._next = self._next, self._next + num_bytes + 256
        self.buffers[address] = bytearray(b"\xff" * num_bytes)
        return address

    def free(self, address: int) -> None:
        """Forget a buffer."""
        self.free_bytes += len(self.buffers.pop(address))

    def read(self, address: int, num_bytes: int) -> bytes:
        """Return the first bytes of a buffer; reading past its end is an error."""
        assert num_bytes <= len(self.buffers[address]), "read past the end of a device buffer"
        return bytes(self.buffers[address][:num_bytes])

    def write(self, address: int, content: bytes) -> None:
        """Fill the start of a buffer; writing past its end is an error."""
        assert len(content) <= len(self.buffers[address]), "write past the end of a device buffer"
        np.frombuffer(self.buffers[address], dtype=np.uint8)[: len(content)] = np.frombuffer(content, dtype=np.uint8)

    def enqueue(self, stream: int, work: Callable[[], None], ms: float = COMPUTE_MS) -> None:
        """Put work on a stream, or into the graph that is being captured there."""
        assert stream in self.streams, f"work on stream {stream}, which does not exist"
        self.capturing.get(stream, self.streams[stream]).append(Step(work, ms))

    def run(self, stream: int, until: Callable[[], bool] = lambda: False) -> None:
        """Do what is on a stream, and on others what it waits for."""
        steps = self.streams[stream]
        while steps and not until():
            step = steps.popleft()
            event = step.event
            if event is not None and event.happened < step.number:
                assert event.stream is not None, "a stream waits for an event that nothing brings about"
                self.run(event.stream, lambda event=event, step=step: event.happened >= step.number)
                assert event.happened >= step.number, "a stream waits for an event that nothing brings about"
            step.work()
            self.clock_ms += step.ms


class FakeCuda:
    """Implements ``heartvit_edge.runtime.cuda.Cuda`` on a FakeDevice."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self._own: list[int] = []
        self._streams: list[int] = []
        self.closed = False

    @property
    def has_graphs(self) -> bool:
        return self._device.has_graphs

    def memory(self) -> tuple[int, int]:
        return self._device.free_bytes, 1 << 30

    def allocate(self, num_bytes: int) -> int:
        self._own.append(self._device.allocate(num_bytes))
        return self._own[-1]

    def free(self, address: int) -> None:
        self._own.remove(address)
        self._device.free(address)

    def allocate_host(self, num_bytes: int) -> HostBuffer:
        if not self._device.integrated:
            return HostBuffer(np.full(num_bytes, 0xFF, dtype=np.uint8), None)
        address = self.allocate(num_bytes)
        return HostBuffer(np.frombuffer(self._device.buffers[address], dtype=np.uint8), address)

    def stream(self) -> int:
        stream = FIRST_STREAM + len(self._device.streams)
        self._device.streams[stream] = deque()
        self._streams.append(stream)
        return stream

    def to_device(self, address: int, source: NDArray[np.uint8], stream: int) -> None:
        assert source.flags.c_contiguous
        self._device.enqueue(stream, lambda: self._device.write(address, source.tobytes()), COPY_MS)

    def to_host(self, target: NDArray[np.uint8], address: int, stream: int) -> None:
        assert target.flags.c_contiguous

        def copy() -> None:
            target[...] = np.frombuffer(self._device.read(address, target.nbytes), dtype=np.uint8)

        self._device.enqueue(stream, copy, COPY_MS)

    def event(self, *, timed: bool) -> FakeEvent:
        return FakeEvent(timed)

    def record(self, event: FakeEvent, stream: int) -> None:
        event.recorded += 1
        event.stream = stream

        def happen() -> None:
            event.happened += 1
            event.at_ms = self._device.clock_ms

        self._device.enqueue(stream, happen, 0.0)

    def wait(self, stream: int, event: FakeEvent) -> None:
        self._device.streams[stream].append(Step(event=event, number=event.recorded))

    def elapsed_ms(self, start: FakeEvent, end: FakeEvent) -> float:
        assert start.timed, "an event without timing is asked for its time"
        assert end.timed, "an event without timing is asked for its time"
        assert start.happened == start.recorded, "an event that has not happened is asked for its time"
        assert end.happened == end.recorded, "an event that has not happened is asked for its time"
        return end.at_ms - start.at_ms

    def capture(self, stream: int, work: Callable[[], None]) -> list[Step]:
        assert self._device.has_graphs
        self._device.capturing[stream] = []
        try:
            work()
            return self._device.capturing[stream]
        finally:
            del self._device.capturing[stream]

    def launch(self, graph: list[Step], stream: int) -> None:
        self._device.launches += 1
        self._device.streams[stream].extend(graph)

    def synchronize(self, stream: int) -> None:
        self._device.run(stream)

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True
        for address in self._own:
            self._device.free(address)
        for stream in self._streams:
            assert not self._device.streams.pop(stream), "a stream is destroyed while work waits on it"
