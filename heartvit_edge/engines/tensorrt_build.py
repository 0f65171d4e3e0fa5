"""Building a TensorRT plan file from an ONNX graph, for TensorRT 8.6 and 10 to 11.

Precision lives in the graph from TensorRT 10 on: the network is strongly typed and FP16 is written into the ONNX file
before it is parsed. TensorRT 8.6 has no such network: there the graph stays FP32, FP16 is allowed by a flag, and the
layers that must not use it are held by constraints.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from heartvit_edge.engines.precision import float32_nodes, name_nodes, write_half
from heartvit_edge.engines.tensorrt_module import collecting_logger, import_tensorrt, said, version
from heartvit_edge.errors import CheckError, MachineError
from heartvit_edge.spec.engine import BatchRange, Precision
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.pack import PackEntry

WORKSPACE_MIB = 1024  # more than a ViT's tactics ask for, and still free on a board with 4 GB
ELSEWHERE = "build for ONNX Runtime, which reads every graph of the pack: --backend onnxruntime"


def plan_options(precision: Precision) -> tuple[tuple[str, str], ...]:
    """Return what the builder will be told, as it is stored in the manifest.

    Raises:
        MachineError: If TensorRT cannot be used.
    """
    strong = version(import_tensorrt()) >= (10, 0)
    weak_fp16 = precision == "fp16" and not strong
    return (
        ("typing", "strong" if strong else "weak"),
        ("precision_constraints", "obey" if weak_fp16 else "none"),
        ("tf32", "off"),
        ("workspace_mib", str(WORKSPACE_MIB)),
    )


def build_plan(
    onnx: Path, plan: Path, entry: PackEntry, shape: ModelShape, precision: Precision, batch: BatchRange
) -> None:
    """Write the plan file of one graph.

    Args:
        onnx: The pack's graph.
        plan: Where the plan goes.
        entry: The graph's entry, which names its inputs and outputs.
        shape: Dimensions of the dense model.
        precision: Element type of the matrix products.
        batch: Range of the one optimization profile.

    Raises:
        MachineError: If TensorRT, or what FP16 needs, is missing, or there is no GPU.
        CheckError: If the graph cannot be parsed or built; the message is TensorRT's own.
    """
    trt = import_tensorrt()
    logger, messages = collecting_logger(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError as err:  # the binding's answer to a null pointer
        raise MachineError(
            f"TensorRT {trt.__version__} cannot make a builder: {said(messages)}", hint="heartvit-edge doctor"
        ) from err
    strong = version(trt) >= (10, 0)
    flags = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED if strong else flags.EXPLICIT_BATCH))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_MIB << 20)
    config.clear_flag(trt.BuilderFlag.TF32)  # ten bits of mantissa, where FP32 is promised and for gate scores
    with tempfile.TemporaryDirectory(prefix="heartvit-edge-") as scratch:
        graph = onnx
        if precision == "fp16" and strong:
            graph = Path(scratch) / "half.onnx"
            write_half(onnx, graph, shape)
        parser = trt.OnnxParser(network, logger)  # owns the weights: alive until the plan is built
        if not parser.parse_from_file(str(graph)):
            raise CheckError(
                f"TensorRT {trt.__version__} cannot parse {onnx}: {parser_errors(parser, graph)}", hint=ELSEWHERE
            )
        _check_names(network, entry)
        if precision == "fp16" and not strong:
            _hold_float32(trt, network, config, onnx, shape)
        _add_profile(builder, config, entry, batch, messages)
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            raise CheckError(f"TensorRT {trt.__version__} cannot build {onnx}: {said(messages)}", hint=ELSEWHERE)
        with plan.open("wb") as file:
            file.write(serialized)


def parser_errors(parser: Any, graph: Path) -> str:  # noqa: ANN401 - a tensorrt.OnnxParser
    """Return every error of the parser with the node's name and operator.

    TensorRT 8.6 gives the node's position alone; the name is then read from the graph.
    """
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        if hasattr(error, "node_name"):
            name, operator = error.node_name(), error.node_operator()
        else:
            name, operator = _node_at(graph, error.node())
        found.append(f"node {name!r} ({operator}): {error.desc()}")
    return "; ".join(found) or "the parser gave no reason"


def _node_at(graph: Path, position: int) -> tuple[str, str]:
    try:
        import onnx
    except ImportError:
        return str(position), "install onnx to see its name"
    nodes = onnx.load(str(graph), load_external_data=False).graph.node
    if not 0 <= position < len(nodes):
        return str(position), "not one node"
    return nodes[position].name, nodes[position].op_type


def _check_names(network: Any, entry: PackEntry) -> None:  # noqa: ANN401 - a tensorrt.INetworkDefinition
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    outputs = [network.get_output(index).name for index in range(network.num_outputs)]
    wanted = ([info.name for info in entry.inputs], [info.name for info in entry.outputs])
    if (inputs, sorted(outputs)) != (wanted[0], sorted(wanted[1])):
        raise CheckError(
            f"the graph of {entry.name} has inputs {inputs} and outputs {outputs}, "
            f"the pack says {wanted[0]} and {wanted[1]}",
            hint="export the pack again",
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


def _add_profile(builder: Any, config: Any, entry: PackEntry, batch: BatchRange, messages: list[str]) -> None:  # noqa: ANN401
    profile = builder.create_optimization_profile()
    for info in entry.inputs:
        smallest, best, largest = (
            tuple(size if known is None else known for known in info.shape)
            for size in (batch.min, batch.opt, batch.max)
        )
        try:
            profile.set_shape(info.name, smallest, best, largest)
        except RuntimeError as err:  # the binding raises where the C++ call answers false
            raise CheckError(
                f"TensorRT refuses the shapes {smallest}, {best}, {largest} for input {info.name!r}: {err}"
            ) from err
    if config.add_optimization_profile(profile) < 0:
        raise CheckError(f"TensorRT refuses the optimization profile of {entry.name}: {said(messages)}")
