"""Building a TensorRT engine from an ONNX graph, for TensorRT 8.6 and 10 to 11.

Precision lives in the graph from TensorRT 10 on: the network is strongly typed and FP16 is written into the ONNX file
before it is parsed. TensorRT 8.6 has no such network: there the graph stays FP32, FP16 is allowed by a flag, and the
layers that must not use it are held by constraints. INT8 is in the graph everywhere, as Q/DQ pairs; 8.6 wants a flag
beside. What is not quantised is built as an FP16 engine's: in FP32 it would cost more than INT8 saves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from heartvit_edge.engines import timing_cache
from heartvit_edge.engines.build_progress import Progress, progress_monitor
from heartvit_edge.engines.profiles import Profile, add_profiles
from heartvit_edge.engines.signals import held_back
from heartvit_edge.engines.tensorrt_layers import inspect_engine
from heartvit_edge.engines.tensorrt_module import Log, collecting_logger, import_tensorrt, version
from heartvit_edge.engines.tensorrt_parse import ELSEWHERE, parse
from heartvit_edge.errors import CheckError, MachineError
from heartvit_edge.graph.half import float32_nodes, name_nodes, write_half
from heartvit_edge.spec.engine import BuildSettings, EngineManifest, Precision
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.layers import EngineLayers
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.pack import PackEntry


class Job(NamedTuple):
    """One engine to build.

    Attributes:
        onnx: The pack's graph.
        entry: The graph's entry, which names its inputs and outputs.
        shape: Dimensions of the dense model.
        precision: Element type of the matrix products.
        profiles: None where every shape is a constant.
        settings: How hard to try.
        written: Precision that the graph is in; FP32 where FP16 is yet to be written into it.
        wanted: The engine's manifest as far as it is known, which says whose layers are told; None for the only ones.
    """

    onnx: Path
    entry: PackEntry
    shape: ModelShape
    precision: Precision
    profiles: Sequence[Profile]
    settings: BuildSettings
    written: Precision = "fp32"
    wanted: EngineManifest | None = None


class Means(NamedTuple):
    """What a build may use.

    Attributes:
        timings: Where kernel timings are kept; see :mod:`heartvit_edge.engines.timing_cache`.
        workspace_bytes: Most memory of a kernel's own.
        free: Free and total bytes of the GPU's memory before the build, for the message where it runs out.
        progress: Told how far the build is.
    """

    timings: Path
    workspace_bytes: int
    free: tuple[int, int]
    progress: Progress


class Built(NamedTuple):
    """What is known of an engine that was built.

    Attributes:
        layers: Its layers; None where the inspector gives no table that can be read.
        no_layers_reason: Why there are none; None where there are.
        timings: Where the kernel timings came from.
    """

    layers: EngineLayers | None
    no_layers_reason: str | None
    timings: timing_cache.State


def strongly_typed() -> bool:
    """Return whether precision is what the graph says, and no builder's choice.

    Raises:
        MachineError: If TensorRT cannot be used.
    """
    return version(import_tensorrt()) >= (10, 0)


def plan_options(precision: Precision, settings: BuildSettings) -> tuple[tuple[str, str], ...]:
    """Return what the builder will be told, as it is stored in the manifest.

    Raises:
        MachineError: If TensorRT cannot be used.
    """
    strong = strongly_typed()
    return (
        ("typing", "strong" if strong else "weak"),
        ("precision_constraints", "none" if strong or precision == "fp32" else "obey"),
        ("tf32", "off"),
        ("optimization_level", str(settings.optimization_level)),
        ("sparse_weights", "on" if settings.sparse else "off"),
    )


def build_plan(job: Job, plan: Path, means: Means) -> Built:
    """Write the engine of one graph, and return what is known of it.

    Args:
        job: What to build.
        plan: Where the engine goes.
        means: What the build may use.

    Raises:
        MachineError: If TensorRT, or what FP16 needs, is missing, there is no GPU, or memory runs out.
        CheckError: If the graph cannot be parsed or built; the message is TensorRT's own.
    """
    trt = import_tensorrt()
    logger, log = collecting_logger(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError as err:  # the binding's answer to a null pointer
        raise MachineError(
            f"TensorRT {trt.__version__} cannot make a builder: {log.said()}", hint="heartvit-edge doctor"
        ) from err
    strong = version(trt) >= (10, 0)
    flags = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED if strong else flags.EXPLICIT_BATCH))
    config = _configure(trt, builder, job.settings, means)
    timings = timing_cache.begin(config, means.timings)
    # Beside the engine, in what the next build clears if this one is killed.
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=plan.parent) as scratch, held_back() as stop:
        graph = job.onnx
        if strong and job.precision != "fp32" and job.written != "fp16":
            graph = Path(scratch) / "half.onnx"
            write_half(job.onnx, graph, job.shape)
        parser = trt.OnnxParser(network, logger)  # owns the weights: alive until the engine is built
        parse(trt, parser, network, graph, job.onnx, job.entry)
        if job.precision != "fp32" and not strong:
            _hold_float32(trt, network, config, job.onnx, job.shape)
        if job.precision == "int8" and not strong:
            config.set_flag(trt.BuilderFlag.INT8)
        add_profiles(builder, config, job.profiles, log)
        monitor = progress_monitor(trt, means.progress, stop)
        if monitor is not None:
            config.progress_monitor = monitor
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            if stop():
                raise KeyboardInterrupt
            raise _failure(f"TensorRT {trt.__version__} cannot build {job.onnx}", log, means)
        with plan.open("wb") as file:
            file.write(serialized)
        timing_cache.keep(config, means.timings)
        del parser, network, config, builder  # room for the engine, which is loaded to be inspected
        return Built(*_inspect(trt, serialized, logger, log, plan, job.wanted), timings.state)


def inspect_plan(plan: Path, wanted: EngineManifest) -> tuple[EngineLayers | None, str | None]:
    """Return the layers that run a budget in an engine file, or None and the reason why there are none.

    Args:
        plan: The file.
        wanted: Its manifest as far as it is known, which says what optimization profile runs the budget.

    Raises:
        MachineError: If TensorRT is missing.
    """
    trt = import_tensorrt()
    return _inspect(trt, plan.read_bytes(), *collecting_logger(trt), plan, wanted)


def _inspect(
    trt: Any,  # noqa: ANN401
    content: Any,  # noqa: ANN401
    logger: Any,  # noqa: ANN401
    log: Log,
    plan: Path,
    wanted: EngineManifest | None,
) -> tuple[EngineLayers | None, str | None]:
    profile = wanted.profile if wanted and wanted.budgets else None
    try:
        layers = inspect_engine(trt, content, logger, log, sha256_file(plan), profile)
    except CheckError as err:  # the engine is not worse for it
        return None, str(err)
    return (layers.model_copy(update={"budget": wanted.entry}) if wanted and profile is not None else layers), None


def _configure(trt: Any, builder: Any, settings: BuildSettings, means: Means) -> Any:  # noqa: ANN401
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, means.workspace_bytes)
    config.clear_flag(trt.BuilderFlag.TF32)  # ten bits of mantissa, where FP32 is promised and for gate scores
    config.builder_optimization_level = settings.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the layer table needs it; kernels are the same
    if settings.sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if version(trt) < (10, 0):  # later ones always let contexts share a profile, of which there is one a shape and slot
        config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
    return config


def _failure(what: str, log: Log, means: Means) -> MachineError | CheckError:
    if not log.ran_out():
        return CheckError(f"{what}: {log.said()}", hint=ELSEWHERE)
    asked, (free, total) = log.asked_bytes(), (size / 2**20 for size in means.free)
    wanted = "more than there is" if asked is None else f"{asked / 2**20:.1f} MiB"
    return MachineError(
        f"{what}: the GPU is out of memory: asked for {wanted}, {free:.1f} of {total:.1f} MiB were free",
        hint="close what else uses it, or build for a smaller batch: --batch-size 1",
    )


def _hold_float32(trt: Any, network: Any, config: Any, graph: Path, shape: ModelShape) -> None:  # noqa: ANN401
    """Allow FP16 on TensorRT 8.6 everywhere but in LayerNorm, softmax, TopK, scores and the position embedding."""
    try:
        import onnx
    except ImportError as err:
        raise MachineError("FP16 needs onnx", hint="pip install 'heartvit-edge[onnxruntime]'") from err
    model = onnx.load(str(graph), load_external_data=False)
    name_nodes(model.graph)
    names = float32_nodes(model.graph, shape)
    kinds = (trt.LayerType.NORMALIZATION, trt.LayerType.SOFTMAX, trt.LayerType.TOPK, trt.LayerType.REDUCE)
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type not in kinds and layer.name not in names:
            continue
        outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
        if all(output.dtype != trt.DataType.FLOAT for output in outputs):
            continue  # integers and shapes
        layer.precision = trt.DataType.FLOAT
        for number, output in enumerate(outputs):
            if output.dtype == trt.DataType.FLOAT:
                layer.set_output_type(number, trt.DataType.FLOAT)
