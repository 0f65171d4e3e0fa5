"""The least time that each machine allows, beside what was measured, for the page and the Markdown file."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.bench.figures import latency_figures
from heartvit_edge.bench.floors import floors
from heartvit_edge.report.figure_cells import Cell, Table, figure_table
from heartvit_edge.report.formats import DASH
from heartvit_edge.report.runs import Run


def floors_table(runs: Sequence[Run]) -> Table | None:
    """Return the least time that each machine allows beside the median that was measured; None without limits."""
    lines: list[list[Cell]] = []
    sources: dict[str, list[str]] = {}
    for run in runs:
        measurement = run.measurement
        if measurement is None or measurement.limits is None:
            continue
        sources.setdefault(measurement.limits.source, []).append(run.label)
        for row in measurement.rows:
            least, p50_ms = floors(measurement, row), latency_figures(row).p50_ms
            cells = [DASH if ms is None else f"{ms:.3g} ms" for ms in (least.weights_ms, least.arithmetic_ms)]
            what = f"{row.entry}, batch size {row.batch_size}"
            label = [run.label] if len(runs) > 1 else []
            lines.append([what, *label, *cells, (p50_ms, "ms")])
    if not lines:
        return None
    names = ("To read the weights once", "For the arithmetic", "Measured median")
    headings = ("Floor", *(["Run"] if len(runs) > 1 else []), *names)
    limits = "; ".join(
        f"{', '.join(labels)}: {source}" if len(sources) > 1 else source for source, labels in sources.items()
    )
    return figure_table(headings, lines, f"No engine can be faster than either floor. Limits: {limits}.")
