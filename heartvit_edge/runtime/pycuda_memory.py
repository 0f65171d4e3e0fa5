"""Device memory through pycuda, which raises where CUDA fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from heartvit_edge.errors import MachineError


class PycudaMemory:
    """The CUDA driver through pycuda; see :class:`heartvit_edge.runtime.cuda_memory.CudaMemory`."""

    def __init__(self, driver: ModuleType) -> None:
        """Enter the first device's primary context and make the stream.

        Args:
            driver: ``pycuda.driver``.

        Raises:
            MachineError: If there is no driver or no device.
        """
        self._driver = driver
        self._buffers: dict[int, Any] = {}
        with self._told("initialisation"):
            driver.init()
            self._context: Any = driver.Device(0).retain_primary_context()
            self._context.push()
            self._stream: Any = driver.Stream()

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream.handle)

    def allocate(self, num_bytes: int) -> int:
        """Return the address of a new buffer."""
        with self._told("allocation"):
            try:
                buffer = self._driver.mem_alloc(num_bytes)
            except self._driver.MemoryError as err:
                free, total = self._driver.mem_get_info()
                raise MachineError(
                    f"the GPU is out of memory: asked for {num_bytes / 2**20:.1f} MiB, "
                    f"{free / 2**20:.1f} of {total / 2**20:.1f} MiB are free",
                    hint="build for a smaller batch: heartvit-edge build-engine PACK --batch-size 1 --force",
                ) from err
        self._buffers[int(buffer)] = buffer  # freed when its object goes
        return int(buffer)

    def to_device(self, address: int, source: NDArray[Any]) -> None:
        """Enqueue a copy to the device."""
        with self._told("copy to the device"):
            self._driver.memcpy_htod_async(address, source, self._stream)

    def to_host(self, target: NDArray[Any], address: int) -> None:
        """Enqueue a copy to the host."""
        with self._told("copy to the host"):
            self._driver.memcpy_dtoh_async(target, address, self._stream)

    def synchronize(self) -> None:
        """Return when all enqueued work is done."""
        with self._told("work on the stream"):
            self._stream.synchronize()

    def close(self) -> None:
        """Free every buffer and the stream, then leave the primary context."""
        if self._context is None:
            return
        with self._told("release"):
            for buffer in self._buffers.values():
                buffer.free()
            self._buffers.clear()
            self._stream = None
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
