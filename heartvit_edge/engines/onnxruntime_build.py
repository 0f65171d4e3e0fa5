"""Building for ONNX Runtime: its graph optimisation, done once and stored."""

from __future__ import annotations

import tempfile
from pathlib import Path

from heartvit_edge.engines.onnxruntime_session import open_session
from heartvit_edge.graph.half import write_half
from heartvit_edge.spec.model import ModelShape


def graph_options(provider: str, num_threads: int) -> tuple[tuple[str, str], ...]:
    """Return what the session will be told, as it is stored in the manifest and used again by the runner.

    Args:
        provider: From :func:`heartvit_edge.engines.onnxruntime_session.pick_provider`.
        num_threads: Threads inside an operator.
    """
    return (
        ("provider", provider),
        ("intra_op_num_threads", str(num_threads)),
        ("inter_op_num_threads", "1"),
        ("graph_optimization_level", "all"),
    )


def build_graph(onnx: Path, target: Path, shape: ModelShape, convert: bool, provider: str, num_threads: int) -> None:
    """Write the graph as ONNX Runtime optimises it for this machine.

    Args:
        onnx: The pack's graph.
        target: Where the optimised graph goes.
        shape: Dimensions of the dense model.
        convert: Whether the graph is FP32 and FP16 is to be written into it first.
        provider: What will run it.
        num_threads: Threads inside an operator.

    Raises:
        MachineError: If onnxruntime, the provider or what FP16 needs is missing.
        CheckError: If the graph cannot be read or converted.
    """
    with tempfile.TemporaryDirectory(prefix="heartvit-edge-") as scratch:
        graph = onnx
        if convert:
            graph = Path(scratch) / "half.onnx"
            write_half(onnx, graph, shape)
        open_session(graph, provider, num_threads, optimise=True, save_to=target)
