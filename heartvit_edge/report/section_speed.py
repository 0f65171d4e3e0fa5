"""Accuracy against cost, and the latency distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from heartvit_edge.bench.figures import calls_of
from heartvit_edge.report.columns import COLUMNS, Column
from heartvit_edge.report.floors_table import floors_table
from heartvit_edge.report.layout import cards, figure, missing, scrolled, section
from heartvit_edge.report.markup import Markup
from heartvit_edge.report.palette import Series, legend
from heartvit_edge.report.rows import Row
from heartvit_edge.report.runs import Run
from heartvit_edge.report.svg_ecdf import ecdf_plot, pooled_ms
from heartvit_edge.report.svg_pareto import pareto_plot
from heartvit_edge.report.svg_timeline import timeline_plot
from heartvit_edge.report.table import noted_table

COLUMN = {column.key: column for column in COLUMNS}
COSTS = {
    "p50_ms": ("median latency", "ms"),
    "mj_per_inference": ("energy", "mJ per inference"),
    "gmacs": ("MACs", "10⁹ of one image"),
}
"""Figure that is a cost, to what it is called and the unit on its axis."""


def trade_off(rows: Sequence[Row], styles: dict[tuple[str, str], Series]) -> Markup:
    """Return quality against latency, energy and MACs, where there are figures, at each batch size.

    Quality is top-1 where any row has it, else agreement with the dense engine.
    """
    quality = COLUMN["top1" if any(row.figures["top1"].value is not None for row in rows) else "agreement"]
    sizes = batch_sizes(rows)
    plots = [
        _plot(having, left_out, styles, COLUMN[cost], quality)
        for batch_size in sizes
        for cost in COSTS
        if cost != "gmacs" or batch_size == sizes[0]  # MACs of one image are the same at every batch size
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
        (run.label, row.entry, row.batch_size): pooled_ms([calls_of(trial) for trial in row.trials])
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
    lines = [_timeline(run, batch_size, styles, len(runs)) for run in runs for batch_size in _sizes_of(run)]
    found = floors_table(runs)
    least = noted_table(found, "Floors") if found else []
    return section("latency", "Latency distribution", cards(*figures), *lines, *least, intro=intro)


def _sizes_of(run: Run) -> list[int]:
    return sorted({row.batch_size for row in run.measurement.rows}) if run.measurement else []


def _timeline(run: Run, batch_size: int, styles: dict[tuple[str, str], Series], num_runs: int) -> Markup:
    """Return the latency of a run's calls at one batch size over time."""
    assert run.measurement is not None
    rows = [row for row in run.measurement.rows if row.batch_size == batch_size]
    drawn = {row.entry: replace(styles[run.label, row.entry], name=row.entry, dash=None) for row in rows}
    trials = [(drawn[row.entry], trial) for row in rows for trial in row.trials]
    title = f"{run.label + ': ' if num_runs > 1 else ''}Latency over the run, batch size {batch_size}"
    plot = scrolled(timeline_plot(trials, batch_size), title)
    note = "The median of neighbouring calls, in a band from the fastest of them to the 95th percentile."
    return figure(title, legend(drawn.values(), "line"), plot, note=note)


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
    name, unit = COSTS[cost.key]
    at_size = "" if cost.key == "gmacs" else f", batch size {rows[0].batch_size}"
    axis = f"{name}, {unit}"
    return figure(
        f"{quality.heading} against {name}{at_size}", pareto_plot(rows, styles, cost, quality, axis), note=note
    )
