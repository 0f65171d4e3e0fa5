"""Accuracy against cost, and the latency distributions."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.report.columns import COLUMNS, Column
from heartvit_edge.report.layout import cards, figure, missing, section
from heartvit_edge.report.markup import Markup
from heartvit_edge.report.palette import Series, legend
from heartvit_edge.report.rows import Row
from heartvit_edge.report.runs import Run
from heartvit_edge.report.svg_ecdf import ecdf_plot, pooled_ms
from heartvit_edge.report.svg_pareto import pareto_plot

COLUMN = {column.key: column for column in COLUMNS}
COST_TITLES = {"p50_ms": "median latency", "mj_per_inference": "energy"}


def trade_off(rows: Sequence[Row], styles: dict[tuple[str, str], Series]) -> Markup:
    """Return quality against latency, and against energy where there are figures, at each batch size.

    Quality is top-1 where any row has it, else agreement with the dense engine.
    """
    quality = COLUMN["top1" if any(row.figures["top1"].value is not None for row in rows) else "agreement"]
    plots = [
        _plot(having, left_out, styles, COLUMN[cost], quality)
        for batch_size in batch_sizes(rows)
        for cost in COST_TITLES
        for having, left_out in [_having(rows, batch_size, cost, quality.key)]
        if having
    ]
    if not plots:
        reason = "it takes a measurement (heartvit-edge bench) and an evaluation (heartvit-edge evaluate)"
        return section("trade-off", "Accuracy against cost", missing(f"There is nothing to compare: {reason}."))
    intro = (
        f"{quality.heading} against cost: up and to the left is better. Bars are 95 % intervals. "
        "Filled points are on the front: no other costs no more and is no worse."
    )
    return section("trade-off", "Accuracy against cost", cards(*plots), intro=intro)


def latency(runs: Sequence[Run], rows: Sequence[Row], styles: dict[tuple[str, str], Series]) -> Markup:
    """Return the latency distribution of each entry at each batch size."""
    samples = {
        (run.label, row.entry, row.batch_size): pooled_ms([trial.latency_ms for trial in row.trials])
        for run in runs
        if run.measurement
        for row in run.measurement.rows
    }
    figures = []
    for batch_size in batch_sizes(rows):
        curves = [
            (styles[row.run, row.entry], samples[row.run, row.entry, batch_size])
            for row in rows
            if row.batch_size == batch_size
        ]
        drawn, beyond = ecdf_plot(curves, batch_size)
        key = legend([series for series, _ in curves], "line")
        figures.append(figure(f"Batch size {batch_size}", key, drawn, note=beyond))
    if not figures:
        nothing = missing("Nothing was measured: heartvit-edge bench makes measurement.json.")
        return section("latency", "Latency distribution", nothing)
    intro = "The share of inferences that took no longer than a given time; a curve further left is faster."
    return section("latency", "Latency distribution", cards(*figures), intro=intro)


def batch_sizes(rows: Sequence[Row]) -> list[int]:
    """Return the measured batch sizes, ascending."""
    return sorted({row.batch_size for row in rows if row.batch_size is not None})


def _having(rows: Sequence[Row], batch_size: int, cost: str, quality: str) -> tuple[list[Row], list[Row]]:
    """Return the rows of a batch size that have both figures, and those that lack one."""
    of_size = [row for row in rows if row.batch_size == batch_size]
    both = [row for row in of_size if row.figures[cost].value is not None and row.figures[quality].value is not None]
    return both, [row for row in of_size if row not in both]


def _plot(
    rows: Sequence[Row], left_out: Sequence[Row], styles: dict[tuple[str, str], Series], cost: Column, quality: Column
) -> Markup:
    names = ", ".join(styles[row.run, row.entry].name for row in left_out)
    note = f"Not shown, for lack of one of the two figures: {names}." if names else ""
    title = f"{quality.heading} against {COST_TITLES[cost.key]}, batch size {rows[0].batch_size}"
    axis = f"{COST_TITLES[cost.key]}, {'mJ per inference' if cost.key == 'mj_per_inference' else cost.unit}"
    return figure(title, pareto_plot(rows, styles, cost, quality, axis), note=note)
