"""From engines' manifests to what runs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from heartvit_edge.runtime.cuda import Cuda, CudaBinding, open_cuda
from heartvit_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from heartvit_edge.runtime.plans import Plans
from heartvit_edge.runtime.routed_runner import RoutedRunner
from heartvit_edge.runtime.runner import PartRunner, Runner
from heartvit_edge.runtime.scratch import Scratch
from heartvit_edge.runtime.tensorrt_runner import TensorRTRunner
from heartvit_edge.spec.engine import EngineManifest


@dataclass(frozen=True)
class CudaChoice:
    """How TensorRT engines reach the device; ONNX Runtime reaches it by itself.

    Attributes:
        binding: What gives memory, streams and events.
        use_graphs: Launch captured graphs; False enqueues each inference anew.
    """

    binding: CudaBinding = "cuda-python"
    use_graphs: bool = True


@contextmanager
def open_runners(
    engines: Sequence[tuple[EngineManifest, Path]], choice: CudaChoice | None = None
) -> Iterator[tuple[Runner, ...]]:
    """Load engines that take turns; those of TensorRT share one device and one scratch buffer.

    Budgets that share a graph have one TensorRT engine with a profile each, which is loaded once.

    Args:
        engines: Each with the folder where it lies, from :func:`heartvit_edge.engines.store.load_engine`.
        choice: How TensorRT engines reach the device.

    Raises:
        InputError: If a file cannot be read.
        MachineError: If what runs an engine, the device or memory is missing.
        CheckError: If an engine was altered or cannot be loaded.
    """
    choice = choice or CudaChoice()
    with ExitStack() as stack:
        shared: list[tuple[Cuda, Scratch, Plans]] = []

        def open_part(manifest: EngineManifest, folder: Path) -> PartRunner:
            if manifest.backend == "onnxruntime":
                return stack.enter_context(OnnxRuntimeRunner(manifest, folder))
            if not shared:
                cuda = open_cuda(choice.binding)
                stack.callback(cuda.close)
                shared.append((cuda, Scratch(cuda), Plans()))
                stack.callback(shared[0][2].close)
            return stack.enter_context(TensorRTRunner(manifest, folder, *shared[0], use_graphs=choice.use_graphs))

        runners: list[Runner] = []
        for manifest, folder in engines:
            if manifest.parts:
                parts = [open_part(manifest.of_part(part), folder) for part in manifest.parts]
                runners.append(stack.enter_context(RoutedRunner(manifest, parts)))
            else:
                runners.append(open_part(manifest, folder))
        yield tuple(runners)


@contextmanager
def open_runner(manifest: EngineManifest, folder: Path, choice: CudaChoice | None = None) -> Iterator[Runner]:
    """Load one engine; see :func:`open_runners`."""
    with open_runners([(manifest, folder)], choice) as (runner,):
        yield runner
