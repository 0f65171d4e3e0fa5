"""What engines are made of, where their builder told it: layers, their precision and kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from heartvit_edge.report.layout import section
from heartvit_edge.report.markup import Markup, element, escaped
from heartvit_edge.report.runs import Run
from heartvit_edge.report.table import plain_table
from heartvit_edge.spec.layers import EngineLayers

MOST_KINDS = 6
"""Kinds of layers that the table names; the rest are counted together."""


def engine_layers(runs: Sequence[Run]) -> Markup | None:
    """Return a line for each engine and its whole list to unfold; None where no engine has one."""
    tables: dict[tuple[str, str | None], tuple[str, EngineLayers]] = {}
    for run in runs:
        stored = run.measurement.layers if run.measurement else ()
        known = {(table.engine_sha256, table.budget): table for table in stored}
        for row in run.measurement.rows if run.measurement else ():
            for key in ((row.engine_sha256, None), (row.engine_sha256, row.entry)):
                if key in known:
                    name = f"{row.entry} · {run.label}" if len(runs) > 1 else row.entry
                    tables.setdefault(key, (name, known[key]))
    if not tables:
        return None
    headings = ("Engine", "Layers", "Precision of their outputs", "Whole attentions in one kernel", "Kinds")
    lines = [[name, *_summary(table)] for name, table in tables.values()]
    intro = "As TensorRT's engine inspector lists them; it tells no times."
    lists = [_list(name, table) for name, table in tables.values()]
    return section(
        "layers", "Layers of the engines", plain_table(headings, lines, "Engine layers"), *lists, intro=intro
    )


def _summary(table: EngineLayers) -> list[str]:
    kinds = Counter(layer.kind for layer in table.layers).most_common()
    named = [f"{count} {kind}" for kind, count in kinds[:MOST_KINDS]]
    rest = sum(count for _, count in kinds[MOST_KINDS:])
    fused = "not told" if table.num_fused_attention is None else str(table.num_fused_attention)
    precisions = ", ".join(f"{count} {name}" for name, count in table.by_precision().items())
    return [str(len(table.layers)), precisions, fused, ", ".join([*named, *([f"{rest} others"] if rest else [])])]


def _list(name: str, table: EngineLayers) -> Markup:
    lines = [
        [layer.name, layer.kind, layer.precision, layer.tactic or None, ", ".join(layer.nodes) or None]
        for layer in table.layers
    ]
    title = f"All {len(lines)} layers of {name}, in the order in which they run"
    headings = ("Layer", "Kind", "Precision", "Kernel", "Nodes of the graph")
    return element("details", element("summary", escaped(title)), plain_table(headings, lines, title))
