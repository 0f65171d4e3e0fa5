"""Which graphs of a pack an engine is built from."""

from __future__ import annotations

from typing import NamedTuple

from heartvit_edge.errors import InputError
from heartvit_edge.spec.pack import Graph, PackEntry
from heartvit_edge.spec.precision import Precision


class Picked(NamedTuple):
    """Graphs of the pack.

    Attributes:
        graphs: One, or a stem and its tails.
        precision: What they are in; FP32 where FP16 is yet to be made of them.
    """

    graphs: tuple[Graph, ...]
    precision: Precision


def graphs_in(entry: PackEntry, precision: Precision) -> tuple[Graph, ...]:
    """Return an entry's graphs in a precision; those in FP32 where the pack has none."""
    other = entry.other(precision)
    if other is None:
        return entry.graphs
    files = ((file.onnx, file.onnx_sha256) for file in (other, *other.tails))
    return tuple(
        graph._replace(onnx=onnx, onnx_sha256=sha256) for graph, (onnx, sha256) in zip(entry.graphs, files, strict=True)
    )


def pick_graphs(entry: PackEntry, precision: Precision, *, weakly_typed: bool = False) -> Picked:
    """Return the entry's graphs in the precision that is asked for, or those in FP32, which FP16 is made of.

    Args:
        entry: Of the pack.
        precision: Of the engine.
        weakly_typed: Whether the builder chooses FP16 itself, by a flag, and so wants the FP32 graph (TensorRT 8.6).

    Raises:
        InputError: If INT8 is asked for and the pack has no such graph; the hint exports it.
    """
    if entry.other(precision) is not None and not (weakly_typed and precision == "fp16"):
        return Picked(graphs_in(entry, precision), precision)
    if precision == "int8":
        raise InputError(
            f"the pack has no INT8 graph of {entry.name}: INT8 needs images, so that it is made where the pack is",
            hint="export the pack again with: --precision int8 (as heartvit-edge export --help shows)",
        )
    return Picked(entry.graphs, "fp32")
