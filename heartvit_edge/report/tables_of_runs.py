"""Tables over several runs: each against the first, and budgets by power modes with the best marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from heartvit_edge.bench.compare import compare
from heartvit_edge.report.facts import environment
from heartvit_edge.report.figure_cells import Cell, Table, figure_table
from heartvit_edge.report.formats import DASH, SHARE, TIMES
from heartvit_edge.report.rows import Row
from heartvit_edge.report.runs import Run

ALWAYS = ("Measured at (UTC)", "Power readings")
"""Facts that always differ between runs and say nothing."""

BEST_HEADING = "Best budget and power mode"

BEST, BEST_MODE = "★", "☆"

QUALITY = {"top1": "Top-1", "agreement": "Agreement"}
"""Figures that say how good answers are, the better one first, and their headings."""


def comparison_table(runs: Sequence[Run]) -> Table | None:
    """Return every run against the first that was measured; None where there are not two with a row in common."""
    measured = [(run.label, run.measurement) for run in runs if run.measurement]
    lines: list[list[Cell]] = []
    for label, other in measured[1:]:
        for found in compare(measured[0][1], other):
            what = f"{found.entry}, batch size {found.batch_size}"
            lines.append([what, label, (found.latency, TIMES), (found.energy, TIMES)])
    if not lines:
        return None
    note = (
        f"Ratios to {measured[0][0]}; below 1 is faster or thriftier. Runs share no drift, so intervals are Welch's "
        "over trials."
    )
    return figure_table(("Entry", "Run", "Latency", "Energy an inference"), lines, note)


def differences_table(runs: Sequence[Run]) -> Table | None:
    """Return in what measured runs differ, which a ratio between them also stands for; None where it is nothing."""
    measured = [run for run in runs if run.measurement]
    found = [environment(run) for run in measured]
    names = [name for name in dict.fromkeys(key for one in found for key in one) if name not in ALWAYS]
    lines = [
        [name, *(str(one.get(name) or DASH) for one in found)]
        for name in names
        if len({one.get(name) for one in found}) > 1
    ]
    return Table(("What differs", *(run.label for run in measured)), lines) if lines else None


def modes_table(runs: Sequence[Run], rows: Sequence[Row], latency_limit_ms: float | None) -> Table | None:
    """Return quality, latency, energy and energy-delay product by entry and power mode.

    At each batch size one line is marked as the best: the least energy of those whose 99th percentile of latency is
    within the limit, or without a limit the least energy-delay product. For each other entry its best mode is marked.
    None where all ran in one mode and no limit says what to choose by.
    """
    modes = {run.label: run.measurement.machine.power_mode for run in runs if run.measurement}
    several = len(set(modes.values()) - {None}) > 1
    if not several and latency_limit_ms is None:
        return None
    kept = [row for row in rows if row.batch_size is not None and row.run in modes and (modes[row.run] or not several)]
    if not kept:
        return None
    quality = [key for key in QUALITY if any(row.figures[key].value is not None for row in kept)][:1]
    marks, best = _marks(kept, modes, latency_limit_ms, several=several)
    told_apart = len(set(modes.values())) == len(modes)
    groups = dict.fromkeys((row.entry, row.batch_size) for row in kept)
    lines: list[list[Cell]] = []
    for row in (row for group in groups for row in kept if (row.entry, row.batch_size) == group):
        figures = row.figures
        lines.append(
            [
                f"{row.entry}, batch size {row.batch_size}" + ("" if told_apart else f", {row.run}"),
                f"{modes[row.run] or DASH} {marks.get(id(row), '')}".rstrip(),
                *((figures[key], SHARE) for key in quality),
                (figures["p50_ms"], "ms"),
                (figures["p99_ms"], "ms"),
                (figures["mj_per_inference"], "mJ"),
                (figures["energy_delay_mj_ms"], "mJ·ms"),
            ]
        )
    names = ("Median latency", "p99 latency", "Energy an inference", "Energy-delay product")
    headings = ("Entry", "Power mode", *(QUALITY[key] for key in quality), *names)
    return figure_table(headings, lines, _choice(kept, best, latency_limit_ms, several=several))


def _marks(
    rows: Sequence[Row], modes: Mapping[str, str | None], limit_ms: float | None, *, several: bool
) -> tuple[dict[int, str], list[str]]:
    """Return the mark of each row that has one, by its identity, and the best of each batch size in words."""
    marks: dict[int, str] = {}
    words = []
    for batch_size in dict.fromkeys(row.batch_size for row in rows):
        of_size = [row for row in rows if row.batch_size == batch_size]
        for entry in dict.fromkeys(row.entry for row in of_size):
            if several and (found := _best([row for row in of_size if row.entry == entry], limit_ms)):
                marks[id(found)] = BEST_MODE
        if found := _best(of_size, limit_ms):
            marks[id(found)] = BEST
            mode = f" in {modes[found.run]}" if modes[found.run] else ""
            words.append(f"{found.entry}{mode} at batch size {batch_size}")
    return marks, words


def _best(members: Sequence[Row], limit_ms: float | None) -> Row | None:
    key = "energy_delay_mj_ms" if limit_ms is None else "mj_per_inference"
    able = [row for row in members if row.figures[key].value is not None and _within(row, limit_ms)]
    return min(able, key=lambda row: row.figures[key].value or 0.0, default=None)


def _within(row: Row, limit_ms: float | None) -> bool:
    """Return whether a row's 99th percentile is known and within the limit."""
    if limit_ms is None:
        return True
    p99_ms = row.figures["p99_ms"].value
    return p99_ms is not None and p99_ms <= limit_ms


def _choice(rows: Sequence[Row], best: Sequence[str], limit_ms: float | None, *, several: bool) -> str:
    rule = (
        "the least energy-delay product; report --latency-limit MS marks the least energy within a limit"
        if limit_ms is None
        else f"the least energy with a 99th percentile of latency of at most {limit_ms:g} ms"
    )
    if best:
        others = f" {BEST_MODE} marks the best mode of each other entry." if several else ""
        looks = "Neither looks" if several else "It does not look"
        return f"{BEST} marks {rule}: {'; '.join(best)}.{others} {looks} at accuracy."
    if not any(row.figures["mj_per_inference"].value is not None for row in rows):
        return f"Marked would be {rule}: no energy was measured."
    lacks = [row for row in rows if row.figures["p99_ms"].value is None]
    why = "no entry meets it" if not lacks else "no entry is known to meet it, and some have no 99th percentile"
    return f"Marked would be {rule}: {why}."
