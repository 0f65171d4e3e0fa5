"""From a traced graph without weights to one with them, tidied where the exporter leaves more than is needed.

The exporter would hold the weights four times over; here a graph is traced without them, and each tensor is put in its
place by its name, one at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import Tensor

Place = Callable[[onnx.TensorProto], None]
"""Told each weight, once it is in the graph."""


def attach_weights(graph: onnx.GraphProto, tensors: Mapping[str, Tensor], place: Place) -> None:
    """Turn the inputs that are named as tensors into initializers, in place.

    A weight that is only read transposed, as that of a linear layer on three dimensions, is stored so.

    Args:
        graph: Its other inputs are the model's.
        tensors: Parameters and buffers by name.
        place: Told each one; it may move the bytes elsewhere.
    """
    uses = Counter(name for node in graph.node for name in node.input)
    transposed = {
        node.input[0]: node
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0] in tensors and uses[node.input[0]] == 1
    }
    inputs = list(graph.input)
    del graph.input[:]
    for info in inputs:
        if info.name not in tensors:
            graph.input.append(info)
            continue
        if not uses[info.name]:
            continue
        values, name = tensors[info.name].detach().cpu().numpy(), info.name
        if node := transposed.get(name):
            values, name = values.transpose(list(node.attribute[0].ints)), node.output[0]
            graph.node.remove(node)
        tensor = numpy_helper.from_array(np.ascontiguousarray(values), name)
        place(tensor)
        graph.initializer.append(tensor)


def fold_constants(graph: onnx.GraphProto, opset: int) -> None:
    """Replace what constants alone determine by its value, in place; it is sizes, counts and positions."""
    from onnx.reference import ReferenceEvaluator

    known: set[str] = set()
    nodes = []
    for node in graph.node:
        if all(name in known for name in node.input):
            nodes.append(node)
            known.update(node.output)
    read = {name for node in graph.node if node.output[0] not in known for name in node.input}
    names = [name for node in nodes if node.op_type != "Constant" for name in node.output if name in read]
    results = [helper.make_empty_tensor_value_info(name) for name in names]
    alone = helper.make_model(
        helper.make_graph(nodes, "constants", [], results), opset_imports=[helper.make_opsetid("", opset)]
    )
    found = dict(zip(names, ReferenceEvaluator(alone).run(None, {}), strict=True)) if names else {}
    for node in nodes:
        if node.output[0] in found:
            value = numpy_helper.from_array(np.asarray(found[node.output[0]]))
            node.CopyFrom(helper.make_node("Constant", [], [node.output[0]], node.name, value=value))
    drop_unused(graph)


def name_batch_by_zero(graph: onnx.GraphProto) -> None:
    """Write reshapes that look the batch up as they run with a constant shape, in place: a 0 there keeps the size.

    Only where the batch is that of the reshaped tensor itself.
    """
    maker = {name: node for node in graph.node for name in node.output}
    constants = {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }

    def is_batch(name: str, of: str) -> bool:
        for operator, other in (("Unsqueeze", 0), ("Gather", 0), ("Shape", None)):
            node = maker.get(name)
            if node is None or node.op_type != operator:
                return False
            if other is not None and constants.get(node.input[1], np.ones(1)).ravel().tolist() != [0]:
                return False
            name = node.input[0]
        return name == of

    for node in graph.node:
        if node.op_type != "Reshape" or (parts := maker.get(node.input[1])) is None or parts.op_type != "Concat":
            continue
        first, *rest = parts.input
        if not is_batch(first, node.input[0]) or not all(name in constants for name in rest):
            continue
        shape = [0, *(int(size) for name in rest for size in constants[name].ravel())]
        name = f"{node.output[0]}_shape"
        graph.initializer.append(helper.make_tensor(name, onnx.TensorProto.INT64, [len(shape)], shape))
        node.input[1] = name
    drop_unused(graph)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes whose outputs nothing reads, in place."""
    used = {info.name for info in graph.output}
    kept = []
    for node in reversed(graph.node):
        if not used.isdisjoint(node.output):
            used.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
