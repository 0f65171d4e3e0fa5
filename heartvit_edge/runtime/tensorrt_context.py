"""Execution contexts: whose scratch is given to them, bound to one shape and one slot, launched as one graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.engines.tensorrt_module import Log, version
from heartvit_edge.errors import CheckError, HeartViTError, MachineError
from heartvit_edge.runtime.cuda import Cuda, Graph, out_of_memory
from heartvit_edge.runtime.runner import count_feeds
from heartvit_edge.runtime.scratch import Block
from heartvit_edge.runtime.slot import Slot
from heartvit_edge.spec.engine import EngineManifest

REBUILD = "build it again: heartvit-edge build-engine PACK --backend tensorrt --force"


class BoundContext:
    """One context for one shape in one slot: a graph holds all three, and NVIDIA advises one context a graph."""

    def __init__(
        self,
        trt: Any,  # noqa: ANN401 - the module carries no types
        engine: Any,  # noqa: ANN401 - a tensorrt.ICudaEngine
        manifest: EngineManifest,
        cuda: Cuda,
        log: Log,
        slot: Slot,
    ) -> None:
        """Make the context and tell it shape and addresses.

        Args:
            trt: The tensorrt module.
            engine: The loaded engine.
            manifest: The engine's.
            cuda: The device.
            log: What TensorRT says.
            slot: Where inputs and outputs lie; its batch is the shape.

        Raises:
            MachineError: If TensorRT makes no context.
            CheckError: If it refuses the shape or a buffer.
        """
        self._entry = f"{manifest.entry} at batch {slot.batch}"
        self._cuda = cuda
        self._stream = slot.stream
        self._log = log
        self._context = make_context(trt, engine)
        self._scratch_number = -1
        self._has_run = False
        self._graph: Graph | None = None
        if self._context is None:
            raise failure(f"TensorRT cannot make an execution context for {self._entry}", log, cuda)
        # TensorRT 8.6 gives a profile to an engine's first context alone; on the stream that the network will run on.
        if not self._context.set_optimization_profile_async(manifest.profile, slot.stream):
            what = f"TensorRT refuses optimization profile {manifest.profile} for {self._entry}"
            raise failure(what, log, cuda, hint=REBUILD)
        for info in manifest.inputs:
            if info.dtype == "int64":
                continue  # a count, of no dimensions
            shape = slot.view(info).shape
            if not self._context.set_input_shape(info.name, shape):
                raise CheckError(f"TensorRT refuses {info.name} of {shape}: {log.said()}", hint=REBUILD)
        addresses = {name: tensor.address for name, tensor in slot.tensors.items()}
        self._counts = counts_of(trt, engine, manifest)  # read by the host whenever the network is enqueued
        for name, address in (addresses | {name: count.ctypes.data for name, count in self._counts.items()}).items():
            if not self._context.set_tensor_address(name, address):
                raise CheckError(f"TensorRT refuses a buffer for {name}: {log.said()}", hint=REBUILD)
        if missing := self._context.infer_shapes():
            raise CheckError(f"TensorRT misses the shapes of {', '.join(missing)}", hint=REBUILD)

    def launch(self, block: Block, *, use_graph: bool) -> None:
        """Enqueue the network once: plainly the first time, then as a graph.

        Args:
            block: The scratch; where it has moved, the graph is captured anew after one plain enqueue.
            use_graph: Whether graphs are wanted.

        Raises:
            MachineError: If TensorRT refuses to run, or the work cannot be captured.
        """
        if block.number != self._scratch_number:
            give_scratch(self._context, block)
            self._scratch_number, self._has_run, self._graph = block.number, False, None
        if use_graph and self._has_run and self._graph is None:
            self._graph = self._capture()
        if use_graph and self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._enqueue()
        self._has_run = True

    def _capture(self) -> Graph:
        try:
            return self._cuda.capture(self._stream, self._enqueue)
        except HeartViTError as err:
            raise MachineError(
                f"{self._entry} cannot be captured as a CUDA graph: {err}", hint="add --no-cuda-graph"
            ) from err

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise failure(f"TensorRT cannot run {self._entry}", self._log, self._cuda)


def failure(what: str, log: Log, cuda: Cuda, hint: str | None = None) -> MachineError:
    """Return the error for a call that TensorRT refused; where memory ran out, with what was asked and what is free."""
    if log.ran_out():
        return out_of_memory(f"{what}: the GPU", log.asked_bytes(), cuda.memory())
    return MachineError(f"{what}: {log.said()}", hint=hint)


def make_context(trt: Any, engine: Any) -> Any:  # noqa: ANN401
    """Return a context without scratch of its own, or None where TensorRT makes none.

    Args:
        trt: The tensorrt module.
        engine: A tensorrt.ICudaEngine.
    """
    if version(trt) >= (10, 0):
        return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    return engine.create_execution_context_without_device_memory()


def scratch_bytes(trt: Any, engine: Any) -> int:  # noqa: ANN401
    """Return the scratch that a context of the engine needs, the most over its optimization profiles."""
    return int(engine.device_memory_size_v2 if version(trt) >= (10, 0) else engine.device_memory_size)


def give_scratch(context: Any, block: Block) -> None:  # noqa: ANN401
    """Tell a context of :func:`make_context` where its scratch lies.

    Args:
        context: A tensorrt.IExecutionContext.
        block: At least as large as the engine asked for.
    """
    if hasattr(context, "set_device_memory"):  # TensorRT 10
        context.set_device_memory(block.address, block.num_bytes)
    else:
        context.device_memory = block.address


def counts_of(trt: Any, engine: Any, manifest: EngineManifest) -> dict[str, NDArray[Any]]:  # noqa: ANN401
    """Return the values of an engine's inputs that are counts, by name, of the type that the release has for them.

    TensorRT 8.6 has no 64-bit integers: its parser makes such inputs of 32 bits.
    """
    return {
        name: count.astype(np.int32 if engine.get_tensor_dtype(name) == trt.DataType.INT32 else np.int64)
        for name, count in count_feeds(manifest).items()
    }


def check_tensors(trt: Any, engine: Any, manifest: EngineManifest, hint: str) -> None:  # noqa: ANN401
    """Return only if an engine's names, directions and element types are those of the manifest.

    Args:
        trt: The tensorrt module.
        engine: A tensorrt.ICudaEngine.
        manifest: What the engine was built for.
        hint: What puts a difference right.

    Raises:
        CheckError: If they differ: a buffer of the wrong size or type would be read as numbers.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {
        name: (engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT, engine.get_tensor_dtype(name)) for name in names
    }
    element = {"float32": trt.DataType.FLOAT, "float16": trt.DataType.HALF, "int32": trt.DataType.INT32}
    element["int64"] = trt.DataType.INT64 if version(trt) >= (10, 0) else trt.DataType.INT32
    wanted = {info.name: (True, element.get(info.dtype)) for info in manifest.inputs}
    wanted |= {info.name: (False, element.get(info.dtype)) for info in manifest.outputs}
    if found != wanted:
        raise CheckError(f"the engine has the tensors {found}, its manifest says {wanted}", hint=hint)
