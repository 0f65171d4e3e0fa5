"""Building for ONNX Runtime: its graph optimisation, done once and stored."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from heartvit_edge.engines.onnxruntime_session import INSTALL, open_session
from heartvit_edge.errors import MachineError
from heartvit_edge.graph.half import write_half
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.pack import LARGEST_GRAPH, WEIGHTS


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

    It holds its weights, or they lie beside it where they are too many for an ONNX file.

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
    # Beside the engine, in what the next build clears if this one is killed.
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=target.parent) as scratch:
        source = onnx
        if convert:
            source = Path(scratch) / "half.onnx"
            write_half(onnx, source, shape)
        num_bytes = external_bytes(source)
        aside = target.with_name(f"{target.stem}.{WEIGHTS}") if num_bytes > LARGEST_GRAPH else None
        graph = load_whole(source) if num_bytes and aside is None else source
        open_session(graph, provider, num_threads, optimise=True, save_to=target, save_weights_to=aside)


def external_bytes(graph: Path) -> int:
    """Return the bytes of the weights that a graph names as external data.

    Raises:
        MachineError: If onnx is missing.
    """
    onnx = _import_onnx()
    tensors = onnx.load(str(graph), load_external_data=False).graph.initializer
    return sum(int(pair.value) for tensor in tensors for pair in tensor.external_data if pair.key == "length")


def load_whole(graph: Path) -> bytes:
    """Return the bytes of a graph with its external data in it."""
    content: bytes = _import_onnx().load(str(graph)).SerializeToString()
    return content


def _import_onnx() -> Any:  # noqa: ANN401 - imported here alone, so that other commands start fast
    try:
        import onnx
    except ImportError as err:
        raise MachineError(f"onnx cannot be imported: {err}", hint=INSTALL) from err
    return onnx
