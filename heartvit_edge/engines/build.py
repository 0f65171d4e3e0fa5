"""From an entry of a pack to an engine in the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

from heartvit_edge import __version__
from heartvit_edge.engines import onnxruntime_build
from heartvit_edge.engines.build_progress import Progress
from heartvit_edge.engines.cuda_device import why_no_cuda_device
from heartvit_edge.engines.engine_name import Kind, engine_folder, variant_name
from heartvit_edge.engines.onnxruntime_session import CPU, import_onnxruntime, pick_provider
from heartvit_edge.engines.pick_batch import pick_batch
from heartvit_edge.engines.pick_graph import pick_graphs
from heartvit_edge.engines.profiles import make_profiles
from heartvit_edge.engines.shared_plan import budgets_of_graph, find_twin, share_plan
from heartvit_edge.engines.signals import termination_as_exit
from heartvit_edge.engines.store import LAYERS, MANIFEST, build_command, option, reusable_engine
from heartvit_edge.engines.store_lock import clear, left_overs, lock_store
from heartvit_edge.engines.tensorrt_build import Job, Means, build_plan, inspect_plan, plan_options, strongly_typed
from heartvit_edge.engines.tensorrt_module import import_tensorrt
from heartvit_edge.engines.timing_cache import cache_path
from heartvit_edge.engines.workspace import free_memory, workspace_bytes
from heartvit_edge.errors import InputError, MachineError
from heartvit_edge.spec.engine import Backend, BatchRange, BuildSettings, EngineManifest, EnginePart, Precision
from heartvit_edge.spec.files import check_sha256, new_folder, sha256_file
from heartvit_edge.spec.layers import EngineLayers
from heartvit_edge.spec.machine import Machine
from heartvit_edge.spec.pack import AGAIN, WEIGHTS, BudgetPack, Graph, PackEntry, num_keep_name

ENDINGS: dict[Backend, str] = {"onnxruntime": ".onnx", "tensorrt": ".plan"}
OF_THE_BUILD = ("free_mib", "workspace_mib", "timing_cache")
"""Facts that are the same for all budgets of an engine."""

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
    batch: BatchRange | None,
    engines: Path,
    machine: Machine,
    *,
    force: bool,
    settings: BuildSettings | None = None,
    verify: Verify | None = None,
    tell: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
    memory: Callable[[Machine], tuple[int, int]] = free_memory,
    clock: Callable[[], float] = time.monotonic,
    fresh: Collection[Path] = (),
) -> Path:
    """Return the folder of an engine that was built, or that was there already and is the one wanted.

    Args:
        pack_folder: Where the pack lies.
        pack: Its manifest.
        entry_name: The pack's entry.
        backend: What will run the engine.
        precision: Element type of the matrix products.
        batch: Batch sizes that it serves; None for those of the graph, or the default range where it takes any.
        engines: The store.
        machine: This machine.
        force: Replace an engine that exists.
        settings: How a TensorRT engine is built; ONNX Runtime takes none but the defaults.
        verify: Called with the manifest, the engine's folder and the pack's graph before the engine takes its place in
            the store, such as :func:`heartvit_edge.runtime.verify.verify_engine`; it raises where the engine is wrong.
        tell: Called with each thing that the user should know.
        progress: Told how far a TensorRT build is.
        memory: Gives free and total bytes of the GPU's memory.
        clock: Seconds, never backwards.
        fresh: Folders of engines that were built just now. One of them that serves this budget too is shared even where
            ``force`` is set, which else builds anew.

    Raises:
        InputError: If the pack has no such entry, or no INT8 graph of it where that is asked for, its graph has another
            batch, the backend takes no such settings, or the store has another engine in its place and ``force`` is not
            set; the hint says what to do.
        MachineError: If the backend or what it needs is missing.
        CheckError: If a file was altered, the graph cannot be built, or ``verify`` finds the engine wrong.
    """
    settings = settings or BuildSettings()
    if backend == "onnxruntime" and settings != BuildSettings():
        raise InputError(
            "an optimization level and sparse kernels are TensorRT's, found backend onnxruntime",
            hint="leave --optimization-level and --sparse out, or add --backend tensorrt",
        )
    entry = pack.entry(entry_name)
    batch = pick_batch(entry, batch)
    picked = pick_graphs(entry, precision, weakly_typed=backend == "tensorrt" and not strongly_typed())
    onnx = pack_folder / picked.graphs[0].onnx
    for name, sha256 in pack.files(entry):
        check_sha256(pack_folder / name, sha256, hint=AGAIN)
    sharing = budgets_of_graph(pack, entry) if backend == "tensorrt" else (entry,)
    wanted = EngineManifest(
        entry=entry.name,
        backend=backend,
        precision=precision,
        file=f"{entry.graphs[0].name}{ENDINGS[backend]}",
        sha256=NOT_BUILT,
        onnx_sha256=picked.graphs[0].onnx_sha256,
        inputs=entry.inputs,
        outputs=entry.outputs,
        batch=batch,
        machine=machine,
        options=_options(onnx, backend, precision, settings, machine, tell),
        build_s=0.0,
        tool_version=__version__,
        num_keep=entry.num_keep,
        buckets=entry.routing.buckets if entry.routing else (),
        budgets=tuple(one.name for one in sharing) if len(sharing) > 1 else (),
    )
    kind = Kind(backend, precision, variant_name(batch, settings))
    folder = engine_folder(engines, pack, entry.name, kind)
    others = [engine_folder(engines, pack, one.name, kind) for one in sharing if one is not entry]
    with termination_as_exit(), lock_store(engines, tell):
        for left in left_overs(engines):
            clear(left)
        if folder.exists() and not force:
            again = build_command(
                str(pack_folder),
                entry.name,
                backend,
                precision,
                batch=batch,
                engines=engines,
                force=True,
                settings=settings,
            )
            reusable_engine(folder, wanted, again)
            tell(f"{entry.name}: the engine in {folder} is current, nothing to build")
            return folder
        with new_folder(folder, force=force) as temporary:
            started = clock()
            facts: list[tuple[str, str]] = []
            parts = []
            graphs = picked.graphs
            for graph in graphs:
                target = temporary / f"{graph.name}{ENDINGS[backend]}"
                alone = entry.model_copy(update={"inputs": graph.inputs, "outputs": graph.outputs})
                served = batch if graph is graphs[0] else batch.from_one()
                source = pack_folder / graph.onnx
                if backend == "onnxruntime":
                    provider, num_threads = option(wanted, "provider"), int(option(wanted, "intra_op_num_threads"))
                    convert = precision == "fp16" and picked.precision == "fp32"
                    onnxruntime_build.build_graph(source, target, pack.shape, convert, provider, num_threads)
                elif twin := find_twin(wanted, [one for one in others if not force or one in fresh]):
                    share_plan(twin, target)
                    tell(f"{entry.name}: shares the engine of {twin.manifest.entry}, which has a profile for it")
                    facts += [fact for fact in twin.manifest.facts if fact[0] in OF_THE_BUILD]
                    facts += _tell_layers(*inspect_plan(target, wanted), target, entry, pack.shape.depth, tell)
                else:
                    counts = [{num_keep_name(site): num for site, num in one.num_keep.items()} for one in sharing]
                    profiles = make_profiles(graph.inputs, served, counts)
                    job = Job(source, alone, pack.shape, precision, profiles, settings, picked.precision, wanted)
                    found = _build_plan(job, target, cache_path(engines, machine), memory(machine), tell, progress)
                    facts += found if len(graphs) == 1 else [(f"{graph.name} {name}", text) for name, text in found]
                parts.append(_part(graph, target, served))
            build_s = clock() - started
            found_out = {"build_s": build_s, "facts": tuple(facts), "sha256": parts[0].sha256}
            if len(parts) == 1:
                found_out |= {"weights": parts[0].weights, "weights_sha256": parts[0].weights_sha256}
            else:
                found_out |= {"parts": tuple(parts)}
            built = wanted.model_copy(update=found_out)
            built.write(temporary / MANIFEST)
            if verify is not None:
                verify(built, temporary, onnx)
    return folder


def _part(graph: Graph, target: Path, batch: BatchRange) -> EnginePart:
    """Return what is known of the engine of one graph."""
    weights = target.with_name(f"{target.stem}.{WEIGHTS}")
    return EnginePart(
        name=graph.name,
        file=target.name,
        sha256=sha256_file(target),
        onnx=graph.onnx,
        onnx_sha256=graph.onnx_sha256,
        inputs=graph.inputs,
        outputs=graph.outputs,
        batch=batch,
        weights=weights.name if weights.exists() else None,
        weights_sha256=sha256_file(weights) if weights.exists() else None,
    )


def _build_plan(
    job: Job, target: Path, timings: Path, memory: tuple[int, int], tell: Callable[[str], None], progress: Progress
) -> tuple[tuple[str, str], ...]:
    """Build for TensorRT, write the layer table beside the engine, and return what was found."""
    limit = workspace_bytes(*memory)
    layers, reason, state = build_plan(job, target, Means(timings, limit, memory, progress))
    facts = tuple(zip(OF_THE_BUILD, (str(memory[0] >> 20), str(limit >> 20), state), strict=True))
    return (*facts, *_tell_layers(layers, reason, target, job.entry, job.shape.depth, tell))


def _tell_layers(
    layers: EngineLayers | None,
    reason: str | None,
    target: Path,
    entry: PackEntry,
    depth: int,
    tell: Callable[[str], None],
) -> tuple[tuple[str, str], ...]:
    """Write the layer table beside the engine, and return and tell what it says; or the reason why there is none."""
    if layers is None:
        tell(f"{entry.name}: no layer table: {reason}")
        return (("layers", f"unknown: {reason}"),)
    layers.write(target.with_name(LAYERS if target.stem == "engine" else f"{target.stem}.{LAYERS}"))
    precisions = ", ".join(f"{count} {name}" for name, count in layers.by_precision().items())
    if layers.num_fused_attention is None:
        fused = "unknown: this TensorRT shows whole regions as one layer"
    else:
        fused = f"{layers.num_fused_attention} of {depth} blocks"
    tell(f"{entry.name}: {len(layers.layers)} layers ({precisions}); attention fused: {fused}")
    return (("layers", precisions), ("fused_attention", fused))


def _options(
    onnx: Path,
    backend: Backend,
    precision: Precision,
    settings: BuildSettings,
    machine: Machine,
    tell: Callable[[str], None],
) -> tuple[tuple[str, str], ...]:
    if backend == "tensorrt":
        return plan_options(precision, settings)
    provider, reason = pick_provider(onnx)
    tell(f"ONNX Runtime runs on {provider}: {reason}")
    if provider == CPU and precision == "fp16":
        tell("ONNX Runtime's CPU provider computes FP16 in FP32: the engine has FP16's weights, not its speed or size")
    return onnxruntime_build.graph_options(provider, machine.num_cpus)
