"""Small ONNX models from their text form."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import parser


def model_of(graph: str, *, opset: int = 17, ir_version: int = 8, domains: str = "") -> onnx.ModelProto:
    """Return a model of the graph's text, such as ``g (float[N] x) => (float[N] y) { y = Relu(x) }``."""
    head = f'<ir_version: {ir_version}, opset_import: ["" : {opset}{domains}]>'
    return parser.parse_model(f"{head}\n{graph}")


def save_model(model: onnx.ModelProto, path: Path) -> Path:
    """Store a model and return where."""
    onnx.save(model, path)
    return path
