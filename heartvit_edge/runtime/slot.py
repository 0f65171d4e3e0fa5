"""The buffers, the stream and the events of one inference in flight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.runtime.cuda import Cuda, Event
from heartvit_edge.spec.pack import TensorInfo


class StepTimes(NamedTuple):
    """What one inference spent its time on, in trtexec's words.

    Attributes:
        h2d_ms: Copy to the device, between CUDA events; 0 where the device reads the host's memory in place.
        compute_ms: The network, between CUDA events.
        d2h_ms: Copies to the host, between CUDA events; 0 as above.
        enqueue_ms: Host time to hand the network to the device.
        latency_ms: Host time from the array to the arrays, copies into and out of page-locked memory included.
    """

    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    enqueue_ms: float
    latency_ms: float


class Tensor(NamedTuple):
    """One input or output for the largest batch.

    Attributes:
        host: Page-locked bytes.
        address: Where the device reads or writes.
        in_place: Whether both are the same memory, so that nothing is copied between them.
    """

    host: NDArray[np.uint8]
    address: int
    in_place: bool


class Slot:
    """What must not be touched while an inference is in flight; with two slots, one is filled while the other runs."""

    def __init__(self, cuda: Cuda, tensors: Sequence[TensorInfo], max_batch: int) -> None:
        """Allocate everything for the largest batch.

        Args:
            cuda: Where; it gives everything back.
            tensors: Inputs and outputs.
            max_batch: Images of the largest batch.

        Raises:
            MachineError: If memory is missing.
        """
        self._cuda = cuda
        self.stream = cuda.stream()
        self.computed: Event = cuda.event(timed=False)
        self.tensors = {info.name: self._tensor(sizes(info, max_batch), info.dtype) for info in tensors}
        self.timed = False
        self.batch = 0
        self.began = self.enqueue_s = 0.0
        self._marks: tuple[Event, ...] = ()

    def view(self, info: TensorInfo) -> NDArray[Any]:
        """Return the page-locked memory of a tensor as an array of the present batch."""
        shape = sizes(info, self.batch)
        count = int(np.prod(shape)) * np.dtype(info.dtype).itemsize
        return self.tensors[info.name].host[:count].view(info.dtype).reshape(shape)

    def to_device(self, info: TensorInfo) -> None:
        """Enqueue the copy of an input, where there is one to make."""
        tensor, used = self.tensors[info.name], self.view(info).nbytes
        if not tensor.in_place:
            self._cuda.to_device(tensor.address, tensor.host[:used], self.stream)

    def to_host(self, info: TensorInfo) -> None:
        """Enqueue the copy of an output, where there is one to make."""
        tensor, used = self.tensors[info.name], self.view(info).nbytes
        if not tensor.in_place:
            self._cuda.to_host(tensor.host[:used], tensor.address, self.stream)

    def mark(self, number: int) -> None:
        """Record the timed event of that number, 0 to 3, where this inference is timed."""
        if not self.timed:
            return
        self._marks = self._marks or tuple(self._cuda.event(timed=True) for _ in range(4))
        self._cuda.record(self._marks[number], self.stream)

    def step_ms(self) -> tuple[float, float, float]:
        """Return the times between the four marks of a timed inference that is done."""
        first, second, third, last = self._marks
        elapsed = self._cuda.elapsed_ms
        return elapsed(first, second), elapsed(second, third), elapsed(third, last)

    def _tensor(self, shape: Sequence[int], dtype: str) -> Tensor:
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        host, device_address = self._cuda.allocate_host(num_bytes)
        if device_address is None:
            return Tensor(host, self._cuda.allocate(num_bytes), in_place=False)
        return Tensor(host, device_address, in_place=True)


def sizes(info: TensorInfo, batch: int) -> tuple[int, ...]:
    """Return a tensor's shape for a batch."""
    return tuple(batch if size is None else size for size in info.shape)
