"""Running a TensorRT plan file, through the tensor names that every version from 8.6 on knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from heartvit_edge.engines.tensorrt_module import collecting_logger, import_tensorrt, said
from heartvit_edge.errors import CheckError, MachineError
from heartvit_edge.runtime.cuda_memory import CudaMemory
from heartvit_edge.runtime.runner import check_images, read_engine
from heartvit_edge.spec.engine import EngineManifest
from heartvit_edge.spec.pack import TensorInfo

REBUILD = "build it again: heartvit-edge build-engine PACK --backend tensorrt --force"


class TensorRTRunner:
    """One engine, one execution context, one stream; a buffer an input and output, for the largest batch."""

    def __init__(self, manifest: EngineManifest, folder: Path, open_memory: Callable[[], CudaMemory]) -> None:
        """Remember the engine; nothing is loaded before ``with``.

        Args:
            manifest: The engine's.
            folder: Where both lie.
            open_memory: Gives device memory, closed when the runner is.
        """
        self._manifest = manifest
        self._folder = folder
        self._open_memory = open_memory
        self._memory: CudaMemory | None = None
        self._context: Any = None
        self._engine: Any = None
        self._runtime: Any = None
        self._messages: list[str] = []
        self._address: dict[str, int] = {}

    def __enter__(self) -> Self:
        """Load the engine, make its context and allocate its buffers.

        Raises:
            InputError: If its file cannot be read.
            MachineError: If TensorRT, the CUDA binding, the device or memory is missing, or this TensorRT refuses it.
            CheckError: If it was altered, or its tensors are not those of the manifest.
        """
        plan = read_engine(self._manifest, self._folder)
        trt = import_tensorrt()
        self._memory = self._open_memory()
        try:
            self._load(trt, plan)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """Let context, engine and runtime go in this order, then free the buffers."""
        self._context = None
        self._engine = None
        self._runtime = None
        self._address.clear()
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()

    def infer(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every output by name; see :class:`heartvit_edge.runtime.runner.Runner`."""
        check_images(images, self._manifest)
        memory, batch = self._memory, images.shape[0]
        if memory is None:
            raise RuntimeError("infer is called outside of with")
        source = np.ascontiguousarray(images)
        name = self._manifest.inputs[0].name
        if not self._context.set_input_shape(name, source.shape):
            raise CheckError(f"TensorRT refuses {name} of {source.shape}: {said(self._messages)}", hint=REBUILD)
        if missing := self._context.infer_shapes():
            raise CheckError(f"TensorRT misses the shapes of {', '.join(missing)}", hint=REBUILD)
        outputs = {info.name: self._empty(info, batch) for info in self._manifest.outputs}
        memory.to_device(self._address[name], source)
        if not self._context.execute_async_v3(memory.stream):
            raise MachineError(f"TensorRT cannot run {self._manifest.entry}: {said(self._messages)}")
        for output, target in outputs.items():
            memory.to_host(target, self._address[output])
        memory.synchronize()
        return outputs

    def _load(self, trt: Any, plan: bytes) -> None:  # noqa: ANN401 - the module carries no types
        logger, self._messages = collecting_logger(trt)
        self._runtime = trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise MachineError(
                f"TensorRT {trt.__version__} cannot load {self._folder / self._manifest.file}: {said(self._messages)}",
                hint=REBUILD,
            )
        self._check_tensors(trt)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise MachineError(f"TensorRT cannot make an execution context: {said(self._messages)}")
        for info in (*self._manifest.inputs, *self._manifest.outputs):
            self._address[info.name] = self._allocate(info)
            if not self._context.set_tensor_address(info.name, self._address[info.name]):
                raise CheckError(f"TensorRT refuses a buffer for {info.name}: {said(self._messages)}", hint=REBUILD)

    def _check_tensors(self, trt: Any) -> None:  # noqa: ANN401
        """Compare names, directions and element types with the manifest's.

        Raises:
            CheckError: If they differ: a buffer of the wrong size or type would be read as numbers.
        """
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        found = {
            name: (
                self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
                self._engine.get_tensor_dtype(name),
            )
            for name in names
        }
        element = {"float32": trt.DataType.FLOAT, "float16": trt.DataType.HALF, "int32": trt.DataType.INT32}
        if hasattr(trt.DataType, "INT64"):  # TensorRT 10
            element["int64"] = trt.DataType.INT64
        wanted = {info.name: (True, element.get(info.dtype)) for info in self._manifest.inputs}
        wanted |= {info.name: (False, element.get(info.dtype)) for info in self._manifest.outputs}
        if found != wanted:
            raise CheckError(f"the engine has the tensors {found}, its manifest says {wanted}", hint=REBUILD)

    def _allocate(self, info: TensorInfo) -> int:
        if self._memory is None:
            raise RuntimeError("a buffer is asked for outside of with")
        return self._memory.allocate(self._empty(info, self._manifest.batch.max).nbytes)

    @staticmethod
    def _empty(info: TensorInfo, batch: int) -> NDArray[Any]:
        return np.empty([batch if size is None else size for size in info.shape], dtype=info.dtype)
