"""Which graph of a pack an engine is built from."""

from __future__ import annotations

from typing import NamedTuple

from heartvit_edge.errors import InputError
from heartvit_edge.spec.pack import PackEntry
from heartvit_edge.spec.precision import Precision


class PickedGraph(NamedTuple):
    """A graph of the pack.

    Attributes:
        onnx: File name, relative to the pack.
        sha256: Its hash.
        precision: What it is in; FP32 where FP16 is yet to be made of it.
    """

    onnx: str
    sha256: str
    precision: Precision


def pick_graph(entry: PackEntry, precision: Precision, *, weakly_typed: bool = False) -> PickedGraph:
    """Return the entry's graph in the precision that is asked for, or the FP32 one, which FP16 is made of.

    Args:
        entry: Of the pack.
        precision: Of the engine.
        weakly_typed: Whether the builder chooses FP16 itself, by a flag, and so wants the FP32 graph (TensorRT 8.6).

    Raises:
        InputError: If INT8 is asked for and the pack has no such graph; the hint exports it.
    """
    other = entry.other(precision)
    if other is not None and not (weakly_typed and precision == "fp16"):
        return PickedGraph(other.onnx, other.onnx_sha256, precision)
    if precision == "int8":
        raise InputError(
            f"the pack has no INT8 graph of {entry.name}: INT8 needs images, so that it is made where the pack is",
            hint="export the pack again with: --precision int8 (as heartvit-edge export --help shows)",
        )
    return PickedGraph(entry.onnx, entry.onnx_sha256, "fp32")
