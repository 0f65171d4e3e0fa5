"""Attention as TensorRT's matcher looks for it: MatMul, an optional scale and mask, Softmax, MatMul.

Source:
    NVIDIA TensorRT documentation, "Fused Attention": the pattern, heads of 16 to 256 in multiples of 8; at INT8 of 16,
    32 or 64, with at most 512 keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from heartvit_edge.lint.graph import Scope, attributes, name_of
from heartvit_edge.lint.report import AttentionSite

if TYPE_CHECKING:
    from onnx import NodeProto

BETWEEN = ("Add", "Sub", "Mul", "Div", "Where", "Cast", "Identity")
"""What may stand between the first product and the softmax: scale, mask or bias, and a change of precision."""
THROUGH = (*BETWEEN, "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Clip", "Tanh", "Expand")
"""What is looked through to see that a softmax belongs to attention at all."""
INT8_HEADS = (16, 32, 64)
INT8_KEYS = 512


def find_attention(scope: Scope) -> Iterator[AttentionSite]:
    """Yield every attention of a graph: each softmax between two matrix products, and each Attention node."""
    for node in scope.graph.node:
        if node.op_type == "Attention":
            head_dim, keys = _last(scope, node.input[0]), _last(scope, node.input[1], -2)
            yield AttentionSite(
                softmax=name_of(node), head_dim=head_dim, sequence=keys, why_not=_unfit(head_dim, keys, int8=False)
            )
        elif node.op_type == "Softmax":
            first, strange = _product_before(scope, node)
            second, after = _product_after(scope, node)
            if first is not None and second is not None:
                yield _site(scope, node, first, second, strange or after)


def _site(scope: Scope, node: NodeProto, first: NodeProto, second: NodeProto, strange: str | None) -> AttentionSite:
    head_dim = _last(scope, first.input[0])
    if head_dim is None:
        head_dim = _last(scope, first.input[1], -2)
    keys = _last(scope, node.output[0])
    rank = len(scope.dims(node.output[0]) or ())
    int8 = all(_is_dequantized(scope, tensor) for tensor in (*first.input, second.input[1]))
    readers = [reader.op_type for reader in scope.consumers.get(node.output[0], []) if reader is not second]
    outputs = {value.name for value in scope.graph.output}
    why_not = strange or _unfit(head_dim, keys, int8=int8)
    if why_not is None and rank and int(attributes(node).get("axis", -1)) % rank != rank - 1:
        why_not = "the softmax is not over the last axis"
    if why_not is None and rank not in (0, 3, 4):
        why_not = f"the weights have {rank} dimensions, expected 3 or 4"
    if why_not is None and node.output[0] in outputs:
        why_not = "the weights are an output of the graph"
    if why_not is None and len(readers) > int("Cast" in readers):
        why_not = f"the weights are read by {', '.join(readers)} too"
    return AttentionSite(softmax=name_of(node), head_dim=head_dim, sequence=keys, why_not=why_not)


def _product_before(scope: Scope, node: NodeProto) -> tuple[NodeProto | None, str | None]:
    """Return the MatMul that the softmax's input follows from, and what stands between that does not fit."""
    strange: str | None = None
    waiting, seen = [node.input[0]], set[str]()
    while waiting:
        tensor = waiting.pop(0)
        maker = scope.producers.get(tensor)
        if maker is None or tensor in seen:
            continue
        seen.add(tensor)
        if maker.op_type == "MatMul":
            return maker, strange
        if maker.op_type in THROUGH:
            if maker.op_type not in BETWEEN:
                strange = f"{maker.op_type} stands between the first product and the softmax"
            waiting += [name for name in maker.input if name and not scope.is_constant(name)]
    return None, None


def _product_after(scope: Scope, node: NodeProto) -> tuple[NodeProto | None, str | None]:
    """Return the MatMul that multiplies the softmax's output with the values, and what stands between."""
    strange: str | None = None
    waiting, seen = [node.output[0]], set[str]()
    while waiting:
        tensor = waiting.pop(0)
        if tensor in seen:
            continue
        seen.add(tensor)
        for reader in scope.consumers.get(tensor, []):
            if reader.op_type == "MatMul" and reader.input[0] == tensor:
                return reader, strange
        for reader in scope.consumers.get(tensor, []):
            if reader.op_type in THROUGH:
                if reader.op_type not in ("Cast", "Identity"):
                    strange = f"{reader.op_type} stands between the softmax and the second product"
                waiting += reader.output
    return None, None


def _unfit(head_dim: int | None, keys: int | None, *, int8: bool) -> str | None:
    """Return what is wrong with the sizes, or None."""
    if head_dim is None:
        return "the width of a head is not known before it runs"
    if not 16 <= head_dim <= 256 or head_dim % 8:
        return f"heads of {head_dim}, expected a multiple of 8 from 16 to 256"
    if int8 and head_dim not in INT8_HEADS:
        return f"heads of {head_dim} at INT8, expected {', '.join(map(str, INT8_HEADS))}"
    if int8 and keys is not None and keys > INT8_KEYS:
        return f"{keys} keys at INT8, expected at most {INT8_KEYS}"
    return None


def _is_dequantized(scope: Scope, tensor: str) -> bool:
    maker = scope.producer(tensor)
    while maker is not None and maker.op_type in ("Transpose", "Reshape", "Mul", "Div"):
        maker = scope.producer(maker.input[0])
    return maker is not None and maker.op_type == "DequantizeLinear"


def _last(scope: Scope, tensor: str, axis: int = -1) -> int | None:
    dims = scope.dims(tensor)
    return dims[axis] if dims is not None and len(dims) >= -axis else None
