"""Shapes that a graph computes, as far as they are known before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heartvit_edge.lint.graph import Dims, Scope, attributes

if TYPE_CHECKING:
    from onnx import NodeProto

DEEPEST = 32
"""Nodes that are followed back; shapes that exporters write are shorter."""


def known_entries(scope: Scope, tensor: str, depth: int = DEEPEST) -> Dims | None:
    """Return the entries of an integer tensor, None for each that is known only as the graph runs.

    Returns:
        The entries in order, or None where not even their number can be told.
    """
    stored = scope.constant(tensor)
    if stored is not None:
        return tuple(int(value) for value in stored.ravel())
    node = scope.producer(tensor)
    if node is None or depth == 0:
        return _unknown(scope, tensor)
    if node.op_type == "Shape":
        dims, limits = scope.dims(node.input[0]), attributes(node)
        return None if dims is None else dims[limits.get("start", 0) : limits.get("end")]
    if node.op_type in ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"):
        return known_entries(scope, node.input[0], depth - 1)
    if node.op_type == "Concat":
        parts = [known_entries(scope, part, depth - 1) for part in node.input]
        return None if None in parts else tuple(entry for part in parts for entry in part or ())
    if node.op_type in ("Gather", "Slice"):
        return _picked(scope, node, depth)
    return _unknown(scope, tensor)


def _picked(scope: Scope, node: NodeProto, depth: int) -> Dims | None:
    entries = known_entries(scope, node.input[0], depth - 1)
    picks = [scope.constant(name) if name else None for name in node.input[1:]]
    if entries is None or not picks or picks[0] is None:
        return _unknown(scope, node.output[0])
    if node.op_type == "Gather":
        return tuple(entries[int(index)] for index in picks[0].ravel())
    step = 1 if len(picks) < 4 or picks[3] is None else int(picks[3].ravel()[0])
    return _unknown(scope, node.output[0]) if picks[1] is None else entries[int(picks[0][0]) : int(picks[1][0]) : step]


def _unknown(scope: Scope, tensor: str) -> Dims | None:
    """Return as many unknown entries as the tensor has, or None."""
    dims = scope.dims(tensor)
    if dims == ():
        return (None,)
    return None if dims is None or len(dims) != 1 or dims[0] is None else (None,) * dims[0]
