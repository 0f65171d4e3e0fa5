"""Attention in the form that ONNX Runtime's fusion looks for: query, key and value each by a product of its own.

timm projects all three at once and takes them apart, which costs five copies a block that the runtime keeps. Apart,
with the scale after the product of queries and keys, the graph computes the same and the fusion recognises it. Where a
gate reads the attention weights too it must not: ONNX Runtime 1.31's fusion takes them away and leaves a broken graph.

Source:
    onnxruntime.transformers.fusion_attention: the paths that it matches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from heartvit_edge.lint.graph import Scope, attributes, scopes
from heartvit_edge.lint.partial import known_entries

PARTS = ("query", "key", "value")
LONGEST = 8
"""Nodes between a query and the softmax: norm, scale, product, bias, and casts."""


@dataclass(frozen=True)
class Packed:
    """One attention whose projections are packed.

    Attributes:
        nodes: From the product to the node that takes query, key and value apart.
        parts: The nodes that give query, key and value, in this order.
        source: What is projected.
        weight: Shape (C, 3 * heads * head_dim).
        bias: Shape (3 * heads * head_dim,), or None.
        heads: Number of heads.
    """

    nodes: tuple[NodeProto, ...]
    parts: tuple[NodeProto, ...]
    source: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    heads: int


def separate_projections(model: ModelProto) -> int:
    """Write every packed projection of the model's graph as three; return how many there were.

    Args:
        model: Changed in place; its weights are in it.
    """
    scope = scopes(model)[0]
    found = list(_packed(scope))
    for number, packed in enumerate(found):
        _replace(model, scope, packed, f"projections_{number}")
    drop_unused(model)
    return len(found)


def _packed(scope: Scope) -> Iterator[Packed]:
    """Yield every packed projection: MatMul, Add, Reshape to (B, N, 3, heads, head_dim), Transpose, Split or Gather."""
    for transpose in scope.graph.node:
        if transpose.op_type != "Transpose" or list(attributes(transpose).get("perm", ())) != [2, 0, 3, 1, 4]:
            continue
        reshape = scope.producer(transpose.input[0])
        sizes = None if reshape is None or reshape.op_type != "Reshape" else known_entries(scope, reshape.input[1])
        if reshape is None or sizes is None or len(sizes) != 5 or sizes[2] != 3 or sizes[3] is None:
            continue
        last = scope.producer(reshape.input[0])
        bias = None
        product = last
        if last is not None and last.op_type == "Add":
            bias = next((value for name in last.input if (value := scope.constant(name)) is not None), None)
            product = next(
                (node for name in last.input if (node := scope.producer(name)) and node.op_type == "MatMul"), None
            )
        weight = None if product is None or product.op_type != "MatMul" else scope.constant(product.input[1])
        parts, between = _parts(scope, transpose)
        if not parts or not _weights_serve_values_alone(scope, parts[0].output[0]):
            continue
        if product is None or weight is None or (last is not product and bias is None):
            continue
        joined = (product,) if last is None or last is product else (product, last)
        nodes = (*joined, reshape, transpose, *between)
        yield Packed(nodes, parts, product.input[0], weight, bias, sizes[3])


def _parts(scope: Scope, transpose: NodeProto) -> tuple[tuple[NodeProto, ...], tuple[NodeProto, ...]]:
    """Return the nodes that give query, key and value, and what stands before them: a Split, or nothing."""
    readers = scope.consumers.get(transpose.output[0], [])
    if len(readers) == 1 and readers[0].op_type == "Split" and len(readers[0].output) == 3:
        taken = [scope.consumers.get(name, []) for name in readers[0].output]
        if all(len(nodes) == 1 and nodes[0].op_type == "Squeeze" for nodes in taken):
            return tuple(nodes[0] for nodes in taken), (readers[0],)
    places = [scope.constant(node.input[1]) if node.op_type == "Gather" else None for node in readers]
    if len(readers) == 3 and all(place is not None and place.ndim == 0 for place in places):
        ordered = sorted(zip(places, readers, strict=True), key=lambda pair: int(pair[0]))  # type: ignore[arg-type]
        return tuple(node for _, node in ordered), ()
    return (), ()


def _weights_serve_values_alone(scope: Scope, query: str) -> bool:
    """Return whether the softmax that follows from a query is read once, and is no output of the graph."""
    outputs = {value.name for value in scope.graph.output}
    tensor = query
    for _ in range(LONGEST):
        readers = scope.consumers.get(tensor, [])
        if len(readers) != 1 or tensor in outputs:
            return False
        if readers[0].op_type == "Softmax":
            weights = readers[0].output[0]
            return len(scope.consumers.get(weights, [])) == 1 and weights not in outputs
        tensor = readers[0].output[0]
    return False


def _replace(model: ModelProto, scope: Scope, packed: Packed, name: str) -> None:
    """Put three projections where the packed one is, and the scale of the queries after their product with the keys."""
    graph, width = model.graph, packed.weight.shape[1] // 3
    sizes = np.array([0, 0, packed.heads, width // packed.heads], np.int64)
    graph.initializer.append(numpy_helper.from_array(sizes, f"{name}.sizes"))
    made: list[NodeProto] = []
    for place, part in enumerate(PARTS):
        columns = slice(place * width, (place + 1) * width)
        stem, tensor = f"{name}.{part}", f"{name}.{part}.product"
        weight = np.ascontiguousarray(packed.weight[:, columns])
        graph.initializer.append(numpy_helper.from_array(weight, f"{stem}.weight"))
        made.append(helper.make_node("MatMul", [packed.source, f"{stem}.weight"], [tensor], f"{stem}/MatMul"))
        if packed.bias is not None:
            graph.initializer.append(numpy_helper.from_array(packed.bias[columns].copy(), f"{stem}.bias"))
            made.append(helper.make_node("Add", [f"{stem}.bias", tensor], [f"{stem}.shifted"], f"{stem}/Add"))
            tensor = f"{stem}.shifted"
        made.append(helper.make_node("Reshape", [tensor, f"{name}.sizes"], [f"{stem}.heads"], f"{stem}/Reshape"))
        output = packed.parts[place].output[0]
        made.append(helper.make_node("Transpose", [f"{stem}.heads"], [output], f"{stem}/Transpose", perm=[0, 2, 1, 3]))
    gone = [*packed.nodes, *packed.parts]
    at = list(graph.node).index(packed.nodes[0])
    for node in reversed(made):
        graph.node.insert(at, node)
    for node in gone:
        graph.node.remove(node)
    _scale_after(model, scope, packed.parts[0].output[0], name)


def _scale_after(model: ModelProto, scope: Scope, query: str, name: str) -> None:
    """Divide the product of queries and keys where the queries were multiplied before it."""
    scales = [node for node in scope.consumers.get(query, []) if node.op_type == "Mul"]
    if len(scales) != 1 or len(scope.consumers[query]) != 1:
        return
    factor = next((value for tensor in scales[0].input if (value := scope.constant(tensor)) is not None), None)
    products = scope.consumers.get(scales[0].output[0], [])
    if factor is None or factor.size != 1 or len(products) != 1 or products[0].op_type != "MatMul":
        return
    graph, logits = model.graph, products[0].output[0]
    divisor = np.array(1 / factor.reshape(()), np.float32)
    graph.initializer.append(numpy_helper.from_array(divisor, f"{name}.divisor"))
    products[0].input[0] = query
    products[0].output[0] = f"{name}.logits"
    divide = helper.make_node("Div", [f"{name}.logits", f"{name}.divisor"], [logits], f"{name}/Div")
    graph.node.insert(list(graph.node).index(products[0]) + 1, divide)
    graph.node.remove(scales[0])


def drop_unused(model: ModelProto) -> None:
    """Remove nodes and stored values that nothing reads."""
    graph = model.graph
    outputs = {value.name for value in graph.output}
    while True:
        read = outputs.union(*(node.input for node in graph.node))
        unread = [node for node in graph.node if not any(name in read for name in node.output)]
        if not unread:
            break
        for node in unread:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
