"""How close the graphs in FP16 and INT8 came to FP32 when the pack was made, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.report.formats import SHARE, decimals_for, number_text
from heartvit_edge.report.markup import Markup
from heartvit_edge.report.table import plain_table
from heartvit_edge.spec.pack import PackEntry
from heartvit_edge.spec.precision import PrecisionGraph, Quantization

HEADINGS = (
    "Entry: its graph in another precision",
    "Same class as in FP32",
    "Mean KL to FP32, nats",
    "Mean cosine of the logits",
    "Ranges by",
    "Layers in INT8",
    "Left out: what each loses alone, nats",
)


def precision_table(entries: Sequence[PackEntry], title: str) -> list[Markup]:
    """Return a table with a row for each graph that is not FP32; none where there is no such graph."""
    rows = [_row(entry, graph) for entry in entries for graph in entry.others]
    return [plain_table(HEADINGS, rows, f"{title}Graphs in other precisions")] if rows else []


def closeness(graph: PrecisionGraph) -> str:
    """Return how many images a graph gives the class of FP32."""
    found = graph.fidelity
    return f"{found.num_agreeing} of {found.num_images}, {_digits(100 * found.agreement)} {SHARE}"


def _row(entry: PackEntry, graph: PrecisionGraph) -> list[str | None]:
    found = graph.fidelity
    made: list[str | None] = ["none needed", None, None] if graph.quantization is None else _made(graph.quantization)
    return [f"{entry.name}, {graph.precision}", closeness(graph), _digits(found.kl_nats), f"{found.cosine:.6f}", *made]


def _made(made: Quantization) -> list[str | None]:
    left_out = "; ".join(f"{layer.name} {_digits(layer.loss_nats)}" for layer in made.left_out)
    layers = f"{made.num_quantized} of {made.num_quantized + len(made.left_out)}"
    return [f"{made.calibration}, {made.num_images:,} images", layers, left_out or "none"]


def _digits(value: float) -> str:
    return number_text(value, decimals_for(value))
