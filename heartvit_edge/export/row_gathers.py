"""Kept tokens gathered as whole rows, which ONNX Runtime copies one by one, in place of element by element.

torch writes its gather of tokens as GatherElements, whose index is as large as what it takes: each position, spread
over the channels. GatherND takes the positions as they are.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto, helper

from heartvit_edge.export.projections import drop_unused
from heartvit_edge.lint.graph import Scope, attributes, scopes


def gather_rows(model: ModelProto, width: int) -> int:
    """Write every gather of whole tokens as GatherND; return how many there were.

    Args:
        model: Changed in place; in opset 12 or later, and its constants are in it.
        width: Channels of a token.
    """
    scope = scopes(model)[0]
    found = [(node, rows) for node in scope.graph.node if (rows := _rows(scope, node, width)) is not None]
    for node, rows in found:
        gather = helper.make_node("GatherND", [node.input[0], rows], list(node.output), node.name, batch_dims=1)
        model.graph.node.insert(list(model.graph.node).index(node), gather)
        model.graph.node.remove(node)
    drop_unused(model)
    return len(found)


def _rows(scope: Scope, node: NodeProto, width: int) -> str | None:
    """Return the positions (B, K, 1) at which a GatherElements takes rows of (B, N, width); None where it does not."""
    if node.op_type != "GatherElements" or attributes(node).get("axis", 0) != 1:
        return None
    tensor, spread = node.input[1], 1
    while (maker := scope.producer(tensor)) is not None and maker.op_type in ("Expand", "Tile"):
        times = scope.constant(maker.input[1])
        if times is None or times.size != 3 or times[0] != 1 or times[1] != 1:
            return None
        tensor, spread = maker.input[0], spread * int(times[2])
    if maker is None or maker.op_type != "Unsqueeze":
        return None
    axes = scope.constant(maker.input[1])
    return tensor if axes is not None and axes.tolist() in ([2], [-1]) and spread == width else None
