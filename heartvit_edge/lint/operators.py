"""Operators that a target takes, from NVIDIA's operator support matrix: ``operators.json``, which names its sources."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from heartvit_edge.lint.graph import Scope, name_of
from heartvit_edge.lint.report import Finding
from heartvit_edge.spec.target import TARGETS, Target

if TYPE_CHECKING:
    from onnx import NodeProto

OWN_DOMAINS = ("", "ai.onnx")
LOW_PRECISION = {"BFLOAT16": "BF16", "FLOAT16": "FP16"}
"""Floating-point types that not every operator takes, as the matrix calls them."""

TAKES_MORE = ("NonZero", "RandomNormalLike", "RandomUniformLike")
"""Operators whose importers take more types than the matrix lists, or only read a shape."""

REFUSED = {
    "Gemm": ("INT32", "INT64"),
    "Hardmax": ("INT8", "INT32", "INT64", "BOOL"),
    "MatMul": ("INT32", "INT64"),
    "PRelu": ("INT32", "INT64"),
    "DepthToSpace": ("BOOL",),
    "GridSample": ("BOOL",),
    "Resize": ("BOOL",),
    "SpaceToDepth": ("BOOL",),
    "Upsample": ("BOOL",),
}
"""Types of the first input that importers refuse by name.

Source: onnx-tensorrt 10.1, onnxOpImporters.cpp, ``notInvalidType``.
"""


@cache
def support_matrix() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Return operator, then target, to its types and limits; a target that does not take the operator is missing."""
    text = (resources.files(__package__) / "operators.json").read_text(encoding="utf-8")
    found: Mapping[str, Mapping[str, Mapping[str, Any]]] = json.loads(text)["operators"]
    return found


def check_operators(scope: Scope, target: Target) -> Iterator[Finding]:
    """Yield a finding for each node whose operator TensorRT does not take, or not for its first input's type."""
    if not target.is_tensorrt:
        return
    for node in scope.graph.node:
        if node.domain not in OWN_DOMAINS:
            yield _error(
                "operator",
                node,
                f"an operator of {node.domain}, and {target.title} takes those of ONNX itself",
                "export without it, or load a TensorRT plugin of that name",
            )
            continue
        rows = support_matrix().get(node.op_type, {})
        if target.name not in rows:
            since = next((TARGETS[name].title for name in TARGETS if name in rows), None)
            cure = f"export for {since} or later, or with operators of a lower opset" if since else "export without it"
            yield _error("operator", node, f"{target.title} does not take {node.op_type}", cure)
            continue
        if node.input:
            yield from _check_type(scope, node, target, rows[target.name]["types"])


def _check_type(scope: Scope, node: NodeProto, target: Target, taken: list[str]) -> Iterator[Finding]:
    data = node.input[1 if node.op_type == "Where" and len(node.input) > 1 else 0]
    dtype = scope.dtype(data) or ""
    listed = LOW_PRECISION.get(dtype)
    lacks = listed is not None and listed not in taken and dtype in target.types and node.op_type not in TAKES_MORE
    if lacks or dtype in REFUSED.get(node.op_type, ()):
        yield _error(
            "operator-type",
            node,
            f"{target.title} takes {node.op_type} of {', '.join(taken)}, found {dtype}",
            "cast its input to float32 before it, and back after it",
        )


def _error(rule: str, node: NodeProto, reason: str, cure: str) -> Finding:
    return Finding(severity="error", rule=rule, node=name_of(node), op=node.op_type, reason=reason, cure=cure)
