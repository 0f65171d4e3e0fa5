"""What is checked of a model as a whole: its versions, and the types of its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from heartvit_edge.lint.graph import Scope, name_of
from heartvit_edge.lint.operators import OWN_DOMAINS
from heartvit_edge.lint.report import Finding, Severity
from heartvit_edge.spec.target import Target

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

READS_UINT8 = ("Cast", "CastLike", "Identity", "Shape", "Size", "DequantizeLinear", "If", "Loop", "Scan")


def check_versions(model: ModelProto, target: Target) -> Iterator[Finding]:
    """Yield a finding for an opset, IR version or local function that the target does not read."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in OWN_DOMAINS), default=0)
    if opset > target.max_opset:
        yield _model_finding(
            "error",
            "opset",
            f"opset {opset}, and {target.title} reads up to {target.max_opset}",
            f"export with opset_version={target.opset}",
        )
    elif 0 < opset < target.min_opset:
        yield _model_finding(
            "warning",
            "opset",
            f"opset {opset}, and {target.title} promises {target.min_opset} and later",
            "onnx.version_converter.convert_version, or export again",
        )
    if model.ir_version > target.max_ir_version:
        yield _model_finding(
            "warning" if target.is_tensorrt else "error",
            "ir-version",
            f"IR version {model.ir_version}, and {target.title} is built on an ONNX that knows {target.max_ir_version}",
            f"set model.ir_version = {target.max_ir_version}, if nothing in it is newer",
        )
    if model.functions and not target.local_functions:
        yield _model_finding(
            "error",
            "local-function",
            f"{len(model.functions)} functions of its own, such as {model.functions[0].name}: {target.title} has none",
            "write them out with onnx.inliner.inline_local_functions",
        )


def check_types(found: Sequence[Scope], target: Target) -> Iterator[Finding]:
    """Yield a finding for each element type that the target lacks: one a type, which names its first tensor."""
    if not target.is_tensorrt:
        return
    tensors: dict[str, list[tuple[str, str]]] = {}
    for scope in found:
        for tensor, op in _tensors(scope):
            tensors.setdefault(scope.dtype(tensor) or "", []).append((tensor, op))
        yield from _uint8(scope, target)
        yield from _quantized(scope, target)
    for dtype, named in tensors.items():
        if not dtype or dtype in target.types or dtype in ("INT64", *_silent(target)):
            continue
        into = target.narrowed.get(dtype)
        first, op = named[0]
        yield Finding(
            severity="warning" if into else "error",
            rule="dtype",
            node=first,
            op=op,
            reason=f"{len(named)} tensor{'s' * (len(named) > 1)} of {dtype}, which {target.title} "
            + (f"computes in {into}" if into else "does not have"),
            cure="export in float32: model.float()"
            if dtype == "DOUBLE"
            else "cast to float32 or int32 before exporting",
        )


def _silent(target: Target) -> tuple[str, ...]:
    """Return narrowed types that every export has: int64 in shapes and indices."""
    return tuple(dtype for dtype in target.narrowed if dtype == "INT64")


def _tensors(scope: Scope) -> Iterator[tuple[str, str]]:
    """Yield every tensor of a graph and the operator that makes it, ``""`` for inputs and stored values."""
    stored = set(scope.initializers)
    for value in scope.graph.input:
        if value.name not in stored:
            yield value.name, ""
    for name in scope.initializers:
        yield name, ""
    for node in scope.graph.node:
        for tensor in node.output:
            if tensor:
                yield tensor, node.op_type


def _uint8(scope: Scope, target: Target) -> Iterator[Finding]:
    """Yield an error for each node that computes with UINT8, which is for inputs and outputs alone."""
    for node in scope.graph.node:
        if node.op_type in READS_UINT8 or not any(scope.dtype(tensor) == "UINT8" for tensor in node.input if tensor):
            continue
        if node.op_type == "QuantizeLinear":  # its zero point: the limits say so
            continue
        yield _node_finding(
            "uint8",
            node,
            f"computes with UINT8, which {target.title} has for inputs and outputs alone",
            "cast to float32 first",
        )


def _quantized(scope: Scope, target: Target) -> Iterator[Finding]:
    """Yield an error for each node that makes a quantized type otherwise than by quantization, or computes with it."""
    for node in scope.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Constant", "Identity", "If", "Loop", "Scan"):
            continue
        dtypes = {scope.dtype(tensor) for tensor in (*node.input, *node.output) if tensor} & target.quantized
        if dtypes and not all(scope.is_constant(tensor) for tensor in node.input):
            yield _node_finding(
                "quantized-type",
                node,
                f"{node.op_type} of {', '.join(sorted(filter(None, dtypes)))}, which {target.title} has between "
                "QuantizeLinear and DequantizeLinear alone",
                "dequantize before it",
            )


def _model_finding(severity: Severity, rule: str, reason: str, cure: str) -> Finding:
    return Finding(severity=severity, rule=rule, node="", op="", reason=reason, cure=cure)


def _node_finding(rule: str, node: NodeProto, reason: str, cure: str) -> Finding:
    return Finding(severity="error", rule=rule, node=name_of(node), op=node.op_type, reason=reason, cure=cure)
