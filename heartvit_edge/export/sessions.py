"""Running graphs on ONNX Runtime's CPU provider while a pack is made."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx

CPU = ["CPUExecutionProvider"]


def open_graph(model: onnx.ModelProto, folder: Path) -> Any:  # noqa: ANN401 - an onnxruntime.InferenceSession
    """Return a session that runs a graph which has no file of its own.

    Args:
        model: The graph; external data is not loaded.
        folder: Where its external data lies, if it has some.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    with tempfile.NamedTemporaryFile(suffix=".onnx", dir=folder) as file:
        file.write(model.SerializeToString())
        file.flush()
        return onnxruntime.InferenceSession(file.name, options, providers=CPU)
