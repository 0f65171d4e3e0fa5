"""Tensors that say a shape, branches and outputs whose shape is not known before the graph runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from heartvit_edge.lint.graph import Scope, attributes, name_of
from heartvit_edge.lint.operators import OWN_DOMAINS, support_matrix
from heartvit_edge.lint.partial import known_entries
from heartvit_edge.lint.report import Finding, Severity
from heartvit_edge.spec.target import Target

if TYPE_CHECKING:
    from onnx import NodeProto

SHAPE_INPUTS: dict[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (2, 3),
    "Slice": (1, 2, 4),
    "Split": (1,),
    "Tile": (1,),
    "TopK": (1,),
}
"""Operator to the inputs that TensorRT needs on the host: sizes, counts and positions."""

DATA_DEPENDENT = ("Compress", "NonMaxSuppression", "NonZero", "Unique")
"""Operators whose output's size follows from the values of their input."""

SCATTERS = ("ScatterElements", "ScatterND")


def check_shape_tensors(scope: Scope, target: Target) -> Iterator[Finding]:
    """Yield an error for each shape, count or position that is computed on the device, or given as no integers."""
    if not target.is_tensorrt:
        return
    for node in scope.graph.node:
        for index in SHAPE_INPUTS.get(node.op_type, ()) if node.domain in OWN_DOMAINS else ():
            tensor = node.input[index] if index < len(node.input) else ""
            if not tensor or scope.initializer(tensor) is not None:
                continue
            makers, inputs = scope.device_makers(tensor)
            if makers:
                found = f"{tensor} follows from {name_of(makers[0])} ({makers[0].op_type}), which runs on the device"
            elif inputs and node.op_type not in ("Range", "Resize"):  # these take positions and scales as floats
                found = f"{tensor} follows from the input {inputs[0]} of {scope.dtype(inputs[0])}"
            else:
                continue
            yield _finding(
                "error",
                "shape-tensor",
                node,
                f"{found}, expected a constant, a tensor's shape or an integer input",
                "make it a constant or an int64 input of the graph; for counts from scores split the graph there",
            )


def check_dynamic_reshape(scope: Scope, target: Target) -> Iterator[Finding]:
    """Yield a warning for each Reshape to a computed shape of which two sizes or more are unknown."""
    if not target.is_tensorrt:
        return
    for node in scope.graph.node:
        if node.op_type != "Reshape" or len(node.input) < 2 or scope.is_constant(node.input[1]):
            continue
        if any(scope.device_makers(node.input[1])):
            continue  # which is an error already
        sizes = known_entries(scope, node.input[1])
        if sizes is not None and sizes.count(None) > 1:
            yield _finding(
                "warning",
                "dynamic-reshape",
                node,
                f"{sizes.count(None)} of {len(sizes)} sizes are known only as it runs, which keeps TensorRT from "
                "recognising what follows",
                "export with all but the batch fixed, and take sizes as Python integers: int(x.shape[1])",
            )


def check_branches(scope: Scope, target: Target) -> Iterator[Finding]:
    """Yield an error for each If whose branches give different numbers of outputs, or outputs of different ranks."""
    if not target.is_tensorrt:
        return
    for node in scope.graph.node:
        if node.op_type != "If" or scope.constant(node.input[0]) is not None:  # then one branch alone is read
            continue
        branches = {attribute.name: attribute.g for attribute in node.attribute}
        ranks = [
            [
                len(out.type.tensor_type.shape.dim) if out.type.tensor_type.HasField("shape") else None
                for out in graph.output
            ]
            for graph in (branches["then_branch"], branches["else_branch"])
        ]
        if len(ranks[0]) != len(ranks[1]) or any(
            None not in pair and pair[0] != pair[1] for pair in zip(*ranks, strict=False)
        ):
            yield _finding(
                "error",
                "if-branches",
                node,
                f"the branches give ranks {ranks[0]} and {ranks[1]}, expected the same",
                "reshape both to one rank; torch's squeeze() without a size-1 dimension known writes such an If",
            )


def check_data_dependent(scope: Scope, target: Target, *, static: bool) -> Iterator[Finding]:
    """Yield a finding for each output whose size follows from data: an error where ``static`` forbids it."""
    for node in scope.graph.node:
        if node.domain not in OWN_DOMAINS:
            continue
        taken = not target.is_tensorrt or target.name in support_matrix().get(node.op_type, {})
        if node.op_type in DATA_DEPENDENT and taken and not scope.is_constant(node.input[0]):
            yield _finding(
                "error" if static else "warning",
                "data-dependent",
                node,
                "the size of its output follows from data"
                + (", which this form forbids" if static else ": no CUDA graph, and a copy to the host at each run"),
                "keep a fixed number: TopK and GatherElements in place of a mask",
            )


def check_scatter(scope: Scope, target: Target, *, static: bool) -> Iterator[Finding]:
    """Yield a finding for each scatter with a reduction: an error where refused, ignored or forbidden."""
    for node in scope.graph.node:
        reduction = attributes(node).get("reduction", "none") if node.op_type in SCATTERS else "none"
        if reduction == "none" or node.domain not in OWN_DOMAINS:
            continue
        if target.name == "trt-8.6":
            refused, why = True, "is ignored: values are overwritten"
        elif target.is_tensorrt and node.op_type == "ScatterND":
            refused, why = True, "is refused"
        else:
            refused, why = False, "adds in no fixed order" + (", in a plugin" if target.is_tensorrt else "")
        if refused or static or target.is_tensorrt:
            severity: Severity = "error" if refused or static else "warning"
            yield _finding(
                severity, "scatter", node, f"the reduction {reduction!r} {why}", "write it as a MatMul or a sum"
            )


def _finding(severity: Severity, rule: str, node: NodeProto, reason: str, cure: str) -> Finding:
    return Finding(severity=severity, rule=rule, node=name_of(node), op=node.op_type, reason=reason, cure=cure)
