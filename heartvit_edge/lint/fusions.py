"""How much of a graph ONNX Runtime fuses."""

from __future__ import annotations

import io
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from heartvit_edge.lint.read import external_tensors
from heartvit_edge.spec.base import Spec

ATTENTION = ("Attention", "MultiHeadAttention")
NORMS = ("LayerNormalization", "SkipLayerNormalization")
GELUS = ("Gelu", "BiasGelu", "FastGelu")
LARGEST = 1 << 30
"""Bytes of graph and weights up to which fusions are counted: ONNX Runtime writes the graph out to show them."""


class Fusions(Spec):
    """What ONNX Runtime makes of a graph.

    Attributes:
        nodes: Nodes that a session runs on the CPU, after every optimization.
        cpu: Operators of that graph, by name.
        offline: Operators after ``onnxruntime.transformers`` has fused it for a GPU, by name; None where that fails.
    """

    nodes: int
    cpu: dict[str, int]
    offline: dict[str, int] | None

    def line(self) -> str:
        """Return what was fused as one line of text."""

        def count(found: dict[str, int], names: tuple[str, ...]) -> str:
            return " + ".join(f"{found[name]} {name}" for name in names if name in found) or f"no {names[0]}"

        runs = f"ONNX Runtime runs {self.nodes} nodes on a CPU ({count(self.cpu, NORMS)}, {count(self.cpu, GELUS)})"
        if self.offline is None:
            return f"{runs}; its fusion for a GPU fails"
        fused = ", ".join(count(self.offline, names) for names in (ATTENTION, NORMS, GELUS))
        return f"{runs} and for a GPU fuses {fused}"


def count_fusions(path: Path) -> Fusions | None:
    """Return what ONNX Runtime makes of the graph at ``path``; None for one of more than ``LARGEST`` bytes."""
    import onnx
    import onnxruntime

    if sum(file.stat().st_size for file in (path, *_data_of(path))) > LARGEST:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder, _quiet():
        from onnxruntime.transformers import optimizer

        optimized = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(optimized)
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        cpu = Counter(node.op_type for node in onnx.load(optimized, load_external_data=False).graph.node)
        try:
            fused = optimizer.optimize_model(str(path), model_type="vit", num_heads=0, hidden_size=0, opt_level=0)
        except RuntimeError:  # a fusion that leaves a cycle
            fused = None
    offline = None if fused is None else _named(node.op_type for node in fused.model.graph.node)
    return Fusions(nodes=cpu.total(), cpu=_named(cpu.elements()), offline=offline)


def _named(operators: Iterable[str]) -> dict[str, int]:
    """Return how often each operator of interest is there."""
    found = Counter(operators)
    return {name: found[name] for name in (*ATTENTION, *NORMS, *GELUS) if found[name]}


def _data_of(path: Path) -> set[Path]:
    """Return the files that hold a graph's weights."""
    import onnx

    tensors = external_tensors(onnx.load(path, load_external_data=False))
    fields = (entry for tensor in tensors for entry in tensor.external_data)
    return {path.parent / entry.value for entry in fields if entry.key == "location"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's optimizer from logging and printing how it went about it: stdout is for data."""
    former = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(former)
