"""Parsing an ONNX graph into a TensorRT network, and saying which node it is that cannot be parsed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from heartvit_edge.errors import CheckError
from heartvit_edge.spec.pack import PackEntry

ELSEWHERE = "build for ONNX Runtime, which reads every graph of the pack: --backend onnxruntime"

# What helps where TensorRT refuses an operator: from NVIDIA's table of supported operators.
CURES = {
    "TopK": "K must be a constant or a shape of at most 3840, with sorted = 1",
    "LayerNormalization": "TensorRT reads it from 8.6 on; before that it must be written in pieces (opset 16)",
    "Gelu": "TensorRT reads it from 10 on: export with opset 17, which writes it with Erf",
    "NonZero": "its size depends on the data: keep a constant number of tokens",
    "ScatterElements": "reductions are not read: keep tokens by a gather",
    "ScatterND": "reductions are not read: keep tokens by a gather",
}


def parse(trt: Any, parser: Any, network: Any, graph: Path, source: Path, entry: PackEntry) -> None:  # noqa: ANN401
    """Read a graph into a network, whose inputs and outputs are then the entry's.

    Args:
        trt: The tensorrt module.
        parser: A tensorrt.OnnxParser of the network, which must outlive the build: it owns the weights.
        network: A tensorrt.INetworkDefinition.
        graph: What to parse.
        source: The pack's graph that it came from, for the messages.
        entry: Names its inputs and outputs.

    Raises:
        CheckError: If TensorRT cannot parse it, with every node and what helps, or the names are others.
    """
    if not parser.parse_from_file(str(graph)):
        raise CheckError(f"TensorRT {trt.__version__} cannot parse {source}: {_errors(parser, graph)}", hint=ELSEWHERE)
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    outputs = [network.get_output(index).name for index in range(network.num_outputs)]
    wanted = ([info.name for info in entry.inputs], [info.name for info in entry.outputs])
    if (inputs, sorted(outputs)) != (wanted[0], sorted(wanted[1])):
        raise CheckError(
            f"the graph of {entry.name} has inputs {inputs} and outputs {outputs}, "
            f"the pack says {wanted[0]} and {wanted[1]}",
            hint="export the pack again",
        )


def _errors(parser: Any, graph: Path) -> str:  # noqa: ANN401
    """Return every error of the parser with the node's name, its operator and what helps.

    TensorRT 8.6 gives the node's position alone; the name is then read from the graph.
    """
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        if hasattr(error, "node_name"):  # TensorRT 10
            name, operator = error.node_name(), error.node_operator()
        else:
            name, operator = _node_at(graph, error.node())
        cure = f" ({CURES[operator]})" if operator in CURES else ""
        found.append(f"node {name!r} ({operator}): {error.desc()}{cure}")
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
