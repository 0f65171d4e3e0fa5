"""One graph by itself in other precisions, written and compared as the package does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from heartvit_edge.export.activation_ranges import Feed
from heartvit_edge.export.assembly import Assembly
from heartvit_edge.export.fidelity import compare
from heartvit_edge.export.half_rounding import open_rounded
from heartvit_edge.export.precision import Precisions, write_others
from heartvit_edge.export.sessions import as_run, open_file
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.precision import Fidelity, Precision, PrecisionGraph


def write_precisions(
    path: Path, shape: ModelShape, asked: Precisions, feeds: Sequence[Feed]
) -> tuple[PrecisionGraph, ...]:
    """Write the other precisions of a graph that takes images alone, and return what is known of them."""
    return write_others(Assembly((path,)), shape, asked, feeds, {path.stem: {}}, path.stem)[path.stem]


def compare_graphs(reference: Path, other: Path, feeds: Sequence[Feed], precision: Precision) -> Fidelity:
    """Return how close a graph comes to another; FP16 is rounded after every node."""
    opener = open_rounded if precision == "fp16" else open_file
    return compare(as_run(open_file(reference)), as_run(opener(other)), feeds, other.stem)
