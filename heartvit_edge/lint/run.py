"""Every check of a graph, in order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from heartvit_edge.errors import InputError
from heartvit_edge.lint.attention import find_attention
from heartvit_edge.lint.graph import scopes
from heartvit_edge.lint.limits import check_limits
from heartvit_edge.lint.model_rules import check_types, check_versions
from heartvit_edge.lint.operators import check_operators
from heartvit_edge.lint.read import read_model
from heartvit_edge.lint.report import Finding, LintReport
from heartvit_edge.lint.shapes import (
    check_branches,
    check_data_dependent,
    check_dynamic_reshape,
    check_scatter,
    check_shape_tensors,
)
from heartvit_edge.spec.target import Target

if TYPE_CHECKING:
    from onnx import ModelProto


def lint_file(path: Path, target: Target, *, static: bool = False) -> LintReport:
    """Return what ``target`` would refuse of the graph at ``path``, or read otherwise.

    Args:
        path: An ONNX file; its weights are not read.
        target: What is to read it.
        static: Forbid outputs whose size follows from data, as the forms of a budget pack do.

    Raises:
        InputError: If the file is missing, is no ONNX model, or lacks its external data.
    """
    model = read_model(path)
    findings = [*check_versions(model, target), *_invalid(path)]
    model = _known(model, path)
    found = scopes(model)
    findings += check_types(found, target)
    for scope in found:
        findings += check_operators(scope, target)
        findings += check_limits(scope, target)
        findings += check_shape_tensors(scope, target)
        findings += check_dynamic_reshape(scope, target)
        findings += check_branches(scope, target)
        findings += check_data_dependent(scope, target, static=static)
        findings += check_scatter(scope, target, static=static)
    if not target.is_tensorrt and not any(finding.severity == "error" for finding in findings):
        findings += _refused_by_onnxruntime(path)
    return LintReport(
        file=path.name,
        target=target.name,
        opset=found[0].opset,
        num_nodes=sum(len(scope.graph.node) for scope in found),
        findings=tuple(sorted(findings, key=lambda finding: finding.severity)),
        attention=tuple(site for scope in found for site in find_attention(scope)),
    )


def _invalid(path: Path) -> list[Finding]:
    """Return what ONNX's own checker says against the file; operators of other domains it passes over."""
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as err:
        reason = f"onnx.checker refuses it: {str(err).splitlines()[0]}"
        return [Finding(severity="error", rule="invalid", node="", op="", reason=reason, cure="export it again")]
    return []


def _known(model: ModelProto, path: Path) -> ModelProto:
    """Return the model with local functions written out, and with the types and shapes that follow from its inputs'."""
    import onnx
    import onnx.inliner

    try:
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as err:
        raise InputError(f"{path}: its shapes contradict each other: {err}", hint="export it again") from err


def _refused_by_onnxruntime(path: Path) -> list[Finding]:
    """Return why the ONNX Runtime that is installed cannot open the graph; nothing where none is installed."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError:
        return []
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    refusals = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException)
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except refusals as err:
        reason = f"ONNX Runtime {onnxruntime.__version__} refuses it: {str(err).splitlines()[0]}"
        return [Finding(severity="error", rule="refused", node="", op="", reason=reason, cure="export it again")]
    return []
