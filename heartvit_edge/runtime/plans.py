"""TensorRT engines that are loaded, each once, however many budgets run from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from heartvit_edge.engines.tensorrt_module import Log, collecting_logger, import_tensorrt
from heartvit_edge.runtime.cuda import Cuda
from heartvit_edge.runtime.runner import read_engine
from heartvit_edge.runtime.tensorrt_context import REBUILD, failure
from heartvit_edge.spec.engine import EngineManifest


class Plan(NamedTuple):
    """A loaded engine.

    Attributes:
        trt: The tensorrt module.
        log: What it says.
        engine: A tensorrt.ICudaEngine.
        runtime: The tensorrt.Runtime that loaded it, let go after it.
    """

    trt: Any
    log: Log
    engine: Any
    runtime: Any


class Plans:
    """Loads the engine of the first runner that asks for it; the others get the same one, whose weights are shared."""

    def __init__(self) -> None:
        """Begin without engines."""
        self._loaded: dict[str, Plan] = {}

    def load(self, manifest: EngineManifest, folder: Path, cuda: Cuda) -> Plan:
        """Return the engine of a manifest.

        Args:
            manifest: Whose hash says which engine it is.
            folder: Where the file lies.
            cuda: The device, whose memory an error tells.

        Raises:
            InputError: If its file cannot be read.
            MachineError: If TensorRT or memory is missing, or this TensorRT refuses the engine.
            CheckError: If it was altered.
        """
        if manifest.sha256 not in self._loaded:
            content = read_engine(manifest, folder)
            trt = import_tensorrt()
            logger, log = collecting_logger(trt)
            runtime = trt.Runtime(logger)
            engine = runtime.deserialize_cuda_engine(content)
            if engine is None:
                what = f"TensorRT {trt.__version__} cannot load {folder / manifest.file}"
                raise failure(what, log, cuda, hint=REBUILD)
            self._loaded[manifest.sha256] = Plan(trt, log, engine, runtime)
        return self._loaded[manifest.sha256]

    def close(self) -> None:
        """Let the engines go, after the contexts of every runner."""
        self._loaded.clear()
