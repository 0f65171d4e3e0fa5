"""FP16 in the graph: which operators stay in FP32, and the conversion."""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from heartvit_edge.errors import CheckError, MachineError
from heartvit_edge.graph.stand_ins import bring_back, empty, num_bytes, put_aside
from heartvit_edge.graph.weights import WeightFile
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.pack import LARGEST_GRAPH, WEIGHTS
from heartvit_edge.spec.routing import NUM_KEEP, SCORES

if TYPE_CHECKING:
    import onnx

# LayerNormalization and softmax, whole or in pieces, lose the answer in FP16: sums over hundreds of terms, squares and
# exponentials leave its range. TopK decides which tokens live.
FLOAT32_OPERATORS = ("LayerNormalization", "Pow", "ReduceMean", "ReduceSum", "Softmax", "Sqrt", "TopK")


OPSET_OF_HALF_SCALES = 19
"""The first in which QuantizeLinear takes FP16."""


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give each nameless node the name ``<operator>_<position>``, in place."""
    for position, node in enumerate(graph.node):
        if not node.name:
            node.name = f"{node.op_type}_{position}"


def float32_nodes(graph: onnx.GraphProto, shape: ModelShape) -> set[str]:
    """Return the names of the nodes that stay in FP32 for what they compute, whatever their operator.

    These are the addition of the position embedding, and all that computes scores for a TopK, or that leave a stem, and
    nothing else.

    Args:
        graph: Nodes have names.
        shape: Dimensions of the dense model, which tell the position embedding from other weights.
    """
    producer = {name: node for node in graph.node for name in node.output if name}
    users: dict[str, set[str]] = defaultdict(set)
    for node in graph.node:
        for name in node.input:
            users[name].add(node.name)
    for info in graph.output:
        users[info.name].add("")  # leaves the graph
    outputs = {info.name for info in graph.output}
    scored = {SCORES, NUM_KEEP} if NUM_KEEP in outputs else set()
    ends = [node for node in graph.node if node.op_type == "TopK" or not scored.isdisjoint(node.output)]
    held = {node.name for node in ends}
    waiting = [name for node in ends for name in node.input]
    while waiting:
        node = producer.get(waiting.pop())
        if node is not None and node.name not in held and all(users[name] <= held for name in node.output):
            held.add(node.name)
            waiting += node.input
    embeddings = {
        weight.name
        for weight in graph.initializer
        if len(weight.dims) == 3
        and weight.dims[0] == 1
        and weight.dims[1] in (shape.num_tokens, shape.num_patches)
        and weight.dims[2] == shape.embed_dim
    }
    held |= {node.name for node in graph.node if node.op_type == "Add" and not embeddings.isdisjoint(node.input)}
    return held


def write_half(source: Path, target: Path, shape: ModelShape, weights: WeightFile | None = None) -> None:
    """Write the graph of ``source`` with FP16 matrix products; its inputs and outputs keep their types.

    Of a quantised graph, the products that are in INT8 stay so, and their scales become FP16. Weights are converted one
    at a time.

    Args:
        source: ONNX file in FP32, or in INT8 and FP32.
        target: Where the converted graph goes.
        shape: Dimensions of the dense model.
        weights: Where the weights go, beside the target; None: into the graph, or, where they are too many for it, into
            a file of its own beside it.

    Raises:
        MachineError: If onnx or onnxruntime is missing.
        CheckError: If the graph is FP16 already, or the converted graph is not valid ONNX.
    """
    try:
        import onnx
        from onnxruntime.transformers import float16
    except ImportError as err:
        raise MachineError(f"FP16 needs {err.name}", hint="pip install 'heartvit-edge[onnxruntime]'") from err
    model = onnx.load(str(source), load_external_data=False)
    if any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in model.graph.initializer):
        raise CheckError(f"{source} has FP16 weights already, expected FP32", hint="export the pack in FP32")
    aside = put_aside(model.graph)
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node) and _opset(model) < OPSET_OF_HALF_SCALES:
        model = onnx.version_converter.convert_version(model, OPSET_OF_HALF_SCALES)
    name_nodes(model.graph)
    operators = {*float16.DEFAULT_OP_BLOCK_LIST, *FLOAT32_OPERATORS}
    names = float32_nodes(model.graph, shape)
    names |= {node.name for node in model.graph.node if node.op_type in operators}
    model = onnx.shape_inference.infer_shapes(model)
    empty(model.graph, aside)
    model = float16.convert_float_to_float16(
        model,
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=sorted(operators),
        node_block_list=sorted(names),
    )
    _tidy_casts(model.graph, names)
    own = weights is None and num_bytes(model.graph, aside) > LARGEST_GRAPH
    with WeightFile(target.parent, f"{target.stem}.{WEIGHTS}") if own else nullcontext(weights) as file:
        place = (lambda _: None) if file is None else file.take
        bring_back(model.graph, aside, source.parent, float16.convert_np_to_float16, place)
    onnx.save_model(model, str(target))
    try:
        onnx.checker.check_model(str(target), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise CheckError(f"the FP16 form of {source} is not valid ONNX: {err}") from err


def _opset(model: onnx.ModelProto) -> int:
    return max(int(opset.version) for opset in model.opset_import if opset.domain in ("", "ai.onnx"))


def _tidy_casts(graph: onnx.GraphProto, float32: set[str]) -> None:
    """Repair what the converter leaves, in place; ``float32`` are the nodes that it was told to leave in FP32.

    A tensor that two FP32 nodes read is cast twice under one name, which ONNX forbids. Between two FP32 nodes a value
    goes through FP16 and back, which rounds it: scores would tie. Nodes are out of order.
    """
    from onnx import TensorProto

    def is_cast(node: onnx.NodeProto, element: int) -> bool:
        return node.op_type == "Cast" and node.attribute[0].i == element

    nodes = list({node.output[0]: node for node in reversed(graph.node)}.values())
    floats = {info.name for info in graph.input if info.type.tensor_type.elem_type == TensorProto.FLOAT}
    # the first output alone: TopK's second is of integers
    floats |= {node.output[0] for node in nodes if node.name in float32}
    full_of: dict[str, str] = {}  # FP16 tensor to the FP32 tensor that it was rounded from
    for node in nodes:
        source = node.input[0] if node.input else ""
        if is_cast(node, TensorProto.FLOAT16) and source in floats:
            full_of[node.output[0]] = source
    unrounded = {
        node.output[0]: full_of[node.input[0]]
        for node in nodes
        if is_cast(node, TensorProto.FLOAT) and node.input[0] in full_of
    }
    for node in nodes:
        for position, name in enumerate(node.input):
            if name in unrounded:
                node.input[position] = unrounded[name]
    outputs = {info.name for info in graph.output}
    nodes = [node for node in nodes if node.output[0] not in unrounded or node.output[0] in outputs]
    used = outputs | {name for node in nodes for name in node.input}
    nodes = [node for node in nodes if node.op_type != "Cast" or node.output[0] in used]
    del graph.value_info[:]  # follows from the nodes, and the converter leaves FP16 where a node stayed FP32
    del graph.node[:]
    graph.node.extend(in_order(nodes))


def in_order(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the nodes so that each comes after those it reads from."""
    producer = {name: node for node in nodes for name in node.output if name}
    done: dict[str, onnx.NodeProto] = {}
    for start in nodes:
        stack = [start]
        while stack:
            needed = [producer[name] for name in stack[-1].input if name in producer]
            missing = [node for node in needed if node.output[0] not in done]
            if missing:
                stack += missing
            else:
                node = stack.pop()
                done[node.output[0]] = node
    return list(done.values())
