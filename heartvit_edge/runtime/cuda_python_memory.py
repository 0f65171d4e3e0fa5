"""Device memory through cuda-python, every return code checked."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from heartvit_edge.errors import MachineError


class CudaPythonMemory:
    """The CUDA runtime of cuda-python; see :class:`heartvit_edge.runtime.cuda_memory.CudaMemory`."""

    def __init__(self, cudart: ModuleType) -> None:
        """Make the stream on the current device's primary context.

        Args:
            cudart: ``cuda.bindings.runtime``, or ``cuda.cudart`` of older releases.

        Raises:
            MachineError: If there is no driver or no device.
        """
        self._cudart = cudart
        self._buffers: list[int] = []
        (self._stream,) = self._call("cudaStreamCreate")

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream)

    def allocate(self, num_bytes: int) -> int:
        """Return the address of a new buffer."""
        error, address = self._cudart.cudaMalloc(num_bytes)
        if error == self._cudart.cudaError_t.cudaErrorMemoryAllocation:
            free, total = self._call("cudaMemGetInfo")
            raise MachineError(
                f"the GPU is out of memory: asked for {num_bytes / 2**20:.1f} MiB, "
                f"{free / 2**20:.1f} of {total / 2**20:.1f} MiB are free",
                hint="build for a smaller batch: heartvit-edge build-engine PACK --batch-size 1 --force",
            )
        self._check("cudaMalloc", error)
        self._buffers.append(int(address))
        return int(address)

    def to_device(self, address: int, source: NDArray[Any]) -> None:
        """Enqueue a copy to the device."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, self._stream)

    def to_host(self, target: NDArray[Any], address: int) -> None:
        """Enqueue a copy to the host."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, self._stream)

    def synchronize(self) -> None:
        """Return when all enqueued work is done."""
        self._call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        """Free every buffer and the stream."""
        while self._buffers:
            self._call("cudaFree", self._buffers.pop())
        if self._stream is not None:
            stream, self._stream = self._stream, None
            self._call("cudaStreamDestroy", stream)

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
