"""From an entry of a pack to an engine in the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from heartvit_edge import __version__
from heartvit_edge.engines import onnxruntime_build, tensorrt_build
from heartvit_edge.engines.cuda_device import why_no_cuda_device
from heartvit_edge.engines.onnxruntime_session import CPU, import_onnxruntime, pick_provider
from heartvit_edge.engines.store import MANIFEST, build_command, engine_folder, option, reusable_engine
from heartvit_edge.engines.tensorrt_module import import_tensorrt
from heartvit_edge.errors import MachineError
from heartvit_edge.spec.engine import Backend, BatchRange, EngineManifest, Precision
from heartvit_edge.spec.files import check_sha256, new_folder, sha256_file
from heartvit_edge.spec.machine import Machine
from heartvit_edge.spec.pack import BudgetPack

FILE_NAMES: dict[Backend, str] = {"onnxruntime": "engine.onnx", "tensorrt": "engine.plan"}
NOT_BUILT = "0" * 64  # stands for the hash of an engine that does not exist yet

Verify = Callable[[EngineManifest, Path, Path], None]


def pick_backend(asked: Backend | None) -> tuple[Backend, str]:
    """Return the backend to build for, and why it is that one.

    Args:
        asked: What the user named; None for TensorRT where it imports and finds a GPU, else ONNX Runtime.

    Raises:
        MachineError: If the backend cannot be used here; the hint installs it.
    """
    if asked == "onnxruntime":
        return asked, f"asked for; ONNX Runtime {import_onnxruntime().__version__}"
    try:
        trt = import_tensorrt()
    except MachineError as err:
        if asked == "tensorrt":
            raise
        return "onnxruntime", f"ONNX Runtime {import_onnxruntime().__version__} is the default where {err}"
    if reason := why_no_cuda_device():
        if asked == "tensorrt":
            raise MachineError(f"TensorRT {trt.__version__} needs a GPU: {reason}", hint="heartvit-edge doctor")
        return "onnxruntime", f"TensorRT {trt.__version__} is installed but needs a GPU: {reason}"
    return "tensorrt", f"{'asked for; ' if asked else ''}TensorRT {trt.__version__} and a GPU are here"


def build_engine(
    pack_folder: Path,
    pack: BudgetPack,
    entry_name: str,
    backend: Backend,
    precision: Precision,
    batch: BatchRange,
    engines: Path,
    machine: Machine,
    *,
    force: bool,
    verify: Verify | None = None,
    tell: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Path:
    """Return the folder of an engine that was built, or that was there already and is the one wanted.

    Args:
        pack_folder: Where the pack lies.
        pack: Its manifest.
        entry_name: The pack's entry.
        backend: What will run the engine.
        precision: Element type of the matrix products.
        batch: Batch sizes that it serves.
        engines: The store.
        machine: This machine.
        force: Replace an engine that exists.
        verify: Called with the manifest, the engine's folder and the pack's graph before the engine takes its place in
            the store, such as :func:`heartvit_edge.runtime.verify.verify_engine`; it raises where the engine is wrong.
        tell: Called with each thing that the user should know.
        clock: Seconds, never backwards.

    Raises:
        InputError: If the pack has no such entry, or the store has another engine in its place and ``force`` is not
            set; the hint replaces it.
        MachineError: If the backend or what it needs is missing.
        CheckError: If a file was altered, the graph cannot be built, or ``verify`` finds the engine wrong.
    """
    entry = pack.entry(entry_name)
    onnx = pack_folder / entry.onnx
    check_sha256(onnx, entry.onnx_sha256, hint="export the pack again")
    wanted = EngineManifest(
        entry=entry.name,
        backend=backend,
        precision=precision,
        file=FILE_NAMES[backend],
        sha256=NOT_BUILT,
        onnx_sha256=entry.onnx_sha256,
        inputs=entry.inputs,
        outputs=entry.outputs,
        batch=batch,
        machine=machine,
        options=_options(onnx, backend, precision, machine, tell),
        build_s=0.0,
        tool_version=__version__,
    )
    folder = engine_folder(engines, pack, entry.name, backend, precision)
    if folder.exists() and not force:
        again = build_command(
            str(pack_folder), entry.name, backend, precision, batch=batch, engines=engines, force=True
        )
        reusable_engine(folder, wanted, again)
        tell(f"{entry.name}: the engine in {folder} is current, nothing to build")
        return folder
    with new_folder(folder, force=force) as temporary:
        started = clock()
        target = temporary / wanted.file
        if backend == "onnxruntime":
            provider, num_threads = option(wanted, "provider"), int(option(wanted, "intra_op_num_threads"))
            onnxruntime_build.build_graph(onnx, target, pack.shape, precision, provider, num_threads)
        else:
            tensorrt_build.build_plan(onnx, target, entry, pack.shape, precision, batch)
        built = wanted.model_copy(update={"sha256": sha256_file(target), "build_s": clock() - started})
        built.write(temporary / MANIFEST)
        if verify is not None:
            verify(built, temporary, onnx)
    return folder


def _options(
    onnx: Path, backend: Backend, precision: Precision, machine: Machine, tell: Callable[[str], None]
) -> tuple[tuple[str, str], ...]:
    if backend == "tensorrt":
        return tensorrt_build.plan_options(precision)
    provider, reason = pick_provider(onnx)
    tell(f"ONNX Runtime runs on {provider}: {reason}")
    if provider == CPU and precision == "fp16":
        tell("ONNX Runtime's CPU provider computes FP16 in FP32: the engine has FP16's rounding, not its speed or size")
    return onnxruntime_build.graph_options(provider, machine.num_cpus)
