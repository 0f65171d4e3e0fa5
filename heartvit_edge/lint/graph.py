"""A model's graphs as the rules read them: who makes a tensor, of which type and shape, and from what it follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

Dims = tuple[int | None, ...]

ON_HOST = frozenset(
    "Abs Add And Cast CastLike Ceil Concat ConstantOfShape Div Equal Expand Flatten Floor Gather GatherElements "
    "GatherND Greater GreaterOrEqual Identity Less LessOrEqual Max Min Mod Mul Neg Not Or Pow Range ReduceMax "
    "ReduceMean ReduceMin ReduceProd ReduceSum Reshape Round ScatterElements ScatterND Sign Slice Split Sqrt "
    "Squeeze Sub Sum Tile Transpose Trilu Unsqueeze Where Xor".split()
)
"""Operators that become layers which may calculate a shape: concatenation, element-wise, gather, reduce, shuffle,
slice, select, fill, cast, unary.

Source: NVIDIA TensorRT documentation, "Dynamic Shapes: Advanced Topics".
"""


@dataclass(frozen=True)
class Scope:
    """One graph, or the subgraph of a node.

    Attributes:
        graph: The graph.
        opset: Version of ONNX's own operators.
        parent: The graph around it, or None.
        producers: Tensor to the node that makes it.
        consumers: Tensor to the nodes of this graph that read it.
        initializers: Tensor to its values.
        infos: Tensor to what is known of its type.
    """

    graph: GraphProto
    opset: int
    parent: Scope | None
    producers: Mapping[str, NodeProto] = field(repr=False)
    consumers: Mapping[str, list[NodeProto]] = field(repr=False)
    initializers: Mapping[str, TensorProto] = field(repr=False)
    infos: Mapping[str, ValueInfoProto] = field(repr=False)

    def around(self) -> Iterator[Scope]:
        """Yield this scope and those around it, innermost first."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def producer(self, tensor: str) -> NodeProto | None:
        """Return the node that makes a tensor, here or around; None for inputs and initializers."""
        return next((scope.producers[tensor] for scope in self.around() if tensor in scope.producers), None)

    def initializer(self, tensor: str) -> TensorProto | None:
        """Return the values of a tensor that is stored in the model, or None."""
        return next((scope.initializers[tensor] for scope in self.around() if tensor in scope.initializers), None)

    def dtype(self, tensor: str) -> str | None:
        """Return the name of a tensor's element type, such as ``FLOAT``; None where it is not known."""
        from onnx import TensorProto

        stored = self.initializer(tensor)
        if stored is not None:
            return str(TensorProto.DataType.Name(stored.data_type))
        for scope in self.around():
            info = scope.infos.get(tensor)
            if info is not None and info.type.tensor_type.elem_type:
                return str(TensorProto.DataType.Name(info.type.tensor_type.elem_type))
        return None

    def dims(self, tensor: str) -> Dims | None:
        """Return a tensor's dimensions, None for each that is dynamic; None where not even the rank is known."""
        stored = self.initializer(tensor)
        if stored is not None:
            return tuple(stored.dims)
        for scope in self.around():
            info = scope.infos.get(tensor)
            if info is not None and info.type.tensor_type.HasField("shape"):
                shape = info.type.tensor_type.shape.dim
                return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in shape)
        return None

    def constant(self, tensor: str) -> NDArray[Any] | None:
        """Return the values of a tensor that the model stores, as initializer or Constant; None for all others."""
        from onnx import TensorProto, numpy_helper

        seen = tensor
        while (stored := self.initializer(seen)) is None:
            node = self.producer(seen)
            if node is None or node.op_type not in ("Constant", "Identity"):
                return None
            if node.op_type == "Constant":
                return _constant_node(node)
            seen = node.input[0]
        return None if stored.data_location == TensorProto.EXTERNAL else numpy_helper.to_array(stored)

    def is_constant(self, tensor: str) -> bool:
        """Return whether a tensor follows from stored values alone, so that it can be folded before it runs."""
        return self._follows_from_constants([tensor])

    def device_makers(self, tensor: str) -> tuple[list[NodeProto], list[str]]:
        """Return what a tensor follows from that is known on the device only: nodes, and graph inputs of no integers.

        Shapes, constants and integer inputs of the graph are known on the host; so is what subgraphs are given, as far
        as can be told here.
        """
        nodes: list[NodeProto] = []
        inputs: list[str] = []
        stack, seen = [tensor], set[str]()
        while stack:
            name = stack.pop()
            if not name or name in seen or self.initializer(name) is not None:
                continue
            seen.add(name)
            node = self.producer(name)
            if node is None:
                if self._is_graph_input(name) and self.dtype(name) not in ("INT32", "INT64", "BOOL", None):
                    inputs.append(name)
            elif node.op_type in ON_HOST:
                stack += node.input
            elif node.op_type not in ("Constant", "Shape", "Size", "If", "Loop", "Scan"):
                if not self._follows_from_constants([*node.input]):
                    nodes.append(node)
        return nodes, inputs

    def _is_graph_input(self, tensor: str) -> bool:
        *_, outermost = self.around()
        return any(value.name == tensor for value in outermost.graph.input)

    def _follows_from_constants(self, tensors: list[str]) -> bool:
        stack, seen = list(tensors), set[str]()
        while stack:
            name = stack.pop()
            if not name or name in seen or self.initializer(name) is not None:
                continue
            seen.add(name)
            node = self.producer(name)
            if node is None or any(_holds_graph(attribute) for attribute in node.attribute):
                return False
            stack += node.input
        return True


def scopes(model: ModelProto) -> list[Scope]:
    """Return the model's graph and every subgraph, outer ones first."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    found: list[Scope] = []
    waiting: list[tuple[GraphProto, Scope | None]] = [(model.graph, None)]
    while waiting:
        graph, parent = waiting.pop(0)
        scope = _scope(graph, opset, parent)
        found.append(scope)
        for node in graph.node:
            for attribute in node.attribute:
                graphs = [attribute.g] if attribute.HasField("g") else [*attribute.graphs]
                waiting += [(inner, scope) for inner in graphs]
    return found


def name_of(node: NodeProto) -> str:
    """Return a node's name, or its first output's where it has none."""
    return node.name or next(iter(node.output), "")


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name; text as ``str``."""
    from onnx import helper

    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def shown(dims: Dims) -> str:
    """Return dimensions as text, ``?`` for each that is dynamic."""
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in dims) + ")"


def _scope(graph: GraphProto, opset: int, parent: Scope | None) -> Scope:
    consumers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for tensor in node.input:
            consumers.setdefault(tensor, []).append(node)
    return Scope(
        graph=graph,
        opset=opset,
        parent=parent,
        producers={tensor: node for node in graph.node for tensor in node.output if tensor},
        consumers=consumers,
        initializers={tensor.name: tensor for tensor in graph.initializer},
        infos={info.name: info for info in (*graph.input, *graph.output, *graph.value_info)},
    )


def _constant_node(node: NodeProto) -> NDArray[Any] | None:
    from onnx import TensorProto, numpy_helper

    for name, value in attributes(node).items():
        if name == "value":
            return None if value.data_location == TensorProto.EXTERNAL else numpy_helper.to_array(value)
        if name.startswith("value_"):
            return np.asarray(value)
    return None


def _holds_graph(attribute: AttributeProto) -> bool:
    return attribute.HasField("g") or bool(attribute.graphs)
