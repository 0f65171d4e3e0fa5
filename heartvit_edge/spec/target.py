"""What graphs are exported for: the releases of TensorRT that boards come with, and ONNX Runtime."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from heartvit_edge.errors import InputError
from heartvit_edge.spec.base import Spec

TargetName = Literal["trt-8.6", "trt-10.3", "trt-10.16", "trt-11.4", "onnxruntime"]


class Target(Spec):
    """What one target reads, and how graphs are written for it.

    Attributes:
        name: As it is typed.
        title: As it is called in a sentence.
        opset: ONNX opset that graphs are written with.
        dynamo: Whether ``torch.onnx.export`` is asked for its newer exporter.
        separate_projections: Whether query, key and value are written as three products.
        gathers_rows: Whether kept tokens are gathered as whole rows rather than element by element.
        min_opset: Lowest opset that the target reads.
        max_opset: Highest opset that the target reads.
        max_ir_version: Highest IR version of the ONNX release that the target is built on.
        local_functions: Whether functions that a model defines itself are read.
        types: ONNX element types that tensors may have, besides those that are only narrowed to one of them.
        narrowed: Element types that are read as a narrower one: type to what becomes of it.
        quantized: Element types that only QuantizeLinear makes and only DequantizeLinear reads.
        source: Where the numbers were read.
    """

    name: TargetName
    title: str
    opset: PositiveInt
    dynamo: bool
    separate_projections: bool = False
    gathers_rows: bool = False
    min_opset: PositiveInt
    max_opset: PositiveInt
    max_ir_version: PositiveInt
    local_functions: bool = True
    types: frozenset[str] = frozenset()
    narrowed: dict[str, str]
    quantized: frozenset[str] = frozenset()
    source: str

    @property
    def is_tensorrt(self) -> bool:
        """Whether TensorRT's parser reads the graph."""
        return self.name != "onnxruntime"


_TRT_8 = frozenset({"FLOAT", "FLOAT16", "INT8", "UINT8", "INT32", "BOOL"})
_TRT_10 = _TRT_8 | {"INT64", "BFLOAT16", "FLOAT8E4M3FN", "INT4"}
_TRT_10_8 = _TRT_10 | {"FLOAT4E2M1"}
_DOUBLE = {"DOUBLE": "FLOAT"}
_MATRIX = "docs/operators.md of onnx-tensorrt"

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            name="trt-8.6",
            title="TensorRT 8.6",
            opset=17,
            dynamo=False,
            min_opset=9,
            max_opset=17,
            max_ir_version=8,
            local_functions=False,
            types=_TRT_8,
            narrowed=_DOUBLE | {"INT64": "INT32"},
            source=f"{_MATRIX} at 6ba67d3 (opset 17, types); docs/Changelog.md (ONNX 1.13.1; local functions from 9.0)",
        ),
        Target(
            name="trt-10.3",
            title="TensorRT 10.3",
            opset=17,
            dynamo=False,
            min_opset=9,
            max_opset=20,
            max_ir_version=10,
            types=_TRT_10,
            narrowed=_DOUBLE,
            quantized=frozenset({"INT8", "INT4", "FLOAT8E4M3FN"}),
            source=f"{_MATRIX} at 96e7811 (opset 9 to 20, types), ONNX 1.16",
        ),
        Target(
            name="trt-10.16",
            title="TensorRT 10.16",
            opset=20,
            dynamo=False,
            min_opset=9,
            max_opset=24,
            max_ir_version=12,
            types=_TRT_10_8,
            narrowed=_DOUBLE,
            quantized=frozenset({"INT8", "INT4", "FLOAT8E4M3FN", "FLOAT4E2M1"}),
            source=f"{_MATRIX} at 6bde659 (opset 9 to 24, types); opset 24 is ONNX 1.19",
        ),
        Target(
            name="trt-11.4",
            title="TensorRT 11.4",
            opset=20,
            dynamo=False,
            min_opset=9,
            max_opset=25,
            max_ir_version=13,
            types=_TRT_10_8,
            narrowed=_DOUBLE,
            quantized=frozenset({"INT8", "INT4", "FLOAT8E4M3FN", "FLOAT4E2M1"}),
            source=f"{_MATRIX} at 7c51a63, of 11.1 (types); NVIDIA's ONNX Opset Guide for 11.x (opset 25, ONNX 1.20)",
        ),
        Target(
            name="onnxruntime",
            title="ONNX Runtime",
            opset=17,
            dynamo=False,
            separate_projections=True,
            gathers_rows=True,
            min_opset=7,
            max_opset=21,
            max_ir_version=10,
            narrowed={},
            source="ONNX Runtime's compatibility table: 1.20, the oldest that this package takes, has ONNX 1.16",
        ),
    )
}

DYNAMO_OPSET = 20
"""The lowest in which torch's newer exporter writes GELU as one node, which ONNX Runtime fuses."""

DEFAULT_TARGET: TargetName = "trt-8.6"
"""Every other target reads what this one does."""


def with_dynamo(target: Target) -> Target:
    """Return the target written for by torch's newer exporter, in an opset that it writes.

    Raises:
        InputError: If the target reads none of these.
    """
    if target.max_opset < DYNAMO_OPSET:
        raise InputError(
            f"torch's newer exporter writes opset {DYNAMO_OPSET}, and {target.title} reads up to {target.max_opset}",
            hint="leave --dynamo out, or name another --target",
        )
    return target.model_copy(update={"dynamo": True, "opset": max(target.opset, DYNAMO_OPSET)})


def find_target(name: str) -> Target:
    """Return the target of that name.

    Raises:
        InputError: If there is none; the message lists those there are.
    """
    if name not in TARGETS:
        raise InputError(f"no target {name!r}, only {', '.join(TARGETS)}", hint=f"--target {DEFAULT_TARGET}")
    return TARGETS[name]
