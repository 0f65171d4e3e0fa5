"""From an engine's manifest to what runs it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from heartvit_edge.runtime.cuda_memory import CudaBinding, open_cuda_memory
from heartvit_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from heartvit_edge.runtime.runner import Runner
from heartvit_edge.runtime.tensorrt_runner import TensorRTRunner
from heartvit_edge.spec.engine import EngineManifest


def open_runner(manifest: EngineManifest, folder: Path, cuda_binding: CudaBinding = "cuda-python") -> Runner:
    """Return a runner for the engine, to be used in a ``with`` statement, which loads it.

    Args:
        manifest: From :func:`heartvit_edge.engines.store.load_engine`.
        folder: Where manifest and engine lie.
        cuda_binding: What gives a TensorRT engine its device memory.
    """
    if manifest.backend == "tensorrt":
        return TensorRTRunner(manifest, folder, partial(open_cuda_memory, cuda_binding))
    return OnnxRuntimeRunner(manifest, folder)
