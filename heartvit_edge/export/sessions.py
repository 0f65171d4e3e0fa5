"""Running graphs on ONNX Runtime's CPU provider while a pack is made."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx

from heartvit_edge.spec.route import Arrays, Run

CPU = ["CPUExecutionProvider"]


def open_file(path: Path, *, optimise: bool = True) -> Any:  # noqa: ANN401 - an onnxruntime.InferenceSession
    """Return a session that runs an ONNX file, and gives the processor to others while it waits.

    Args:
        path: The file.
        optimise: Let ONNX Runtime rewrite the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=CPU)


def open_graph(model: onnx.ModelProto, folder: Path, *, optimise: bool = True) -> Any:  # noqa: ANN401 - as above
    """Return a session that runs a graph which has no file of its own.

    Args:
        model: The graph; external data is not loaded.
        folder: Where its external data lies, if it has some.
        optimise: Let ONNX Runtime rewrite the graph.
    """
    with tempfile.NamedTemporaryFile(suffix=".onnx", dir=folder) as file:
        onnx.save_model(model, file.name)
        return open_file(Path(file.name), optimise=optimise)


def as_run(session: Any) -> Run:  # noqa: ANN401 - as above
    """Return what runs a session on inputs by name, and gives every output by name, in order."""
    names = [info.name for info in session.get_outputs()]

    def run(given: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, dict(given)), strict=True))

    return run
