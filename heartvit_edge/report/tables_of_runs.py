"""Tables over several runs: each against the first, and budgets by power modes with the best marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heartvit_edge.bench.compare import compare
from heartvit_edge.report.facts import environment
from heartvit_edge.report.formats import TIMES, with_unit
from heartvit_edge.report.rows import Row
from heartvit_edge.report.runs import Run

SAME = ("Measured at (UTC)",)
"""Facts that always differ between runs and say nothing."""

BEST = "★"


@dataclass(frozen=True)
class Table:
    """Headings, lines of cells, and what to say beneath."""

    headings: tuple[str, ...]
    lines: list[list[str]]
    note: str = ""


def comparison_table(runs: Sequence[Run]) -> Table | None:
    """Return every run against the first that was measured; None where there are not two with a row in common."""
    measured = [(run.label, run.measurement) for run in runs if run.measurement]
    lines = []
    for label, other in measured[1:]:
        for found in compare(measured[0][1], other):
            what = f"{found.entry}, batch size {found.batch_size}"
            lines.append([what, label, with_unit(found.latency, TIMES), with_unit(found.energy, TIMES)])
    if not lines:
        return None
    note = (
        f"Ratios to {measured[0][0]}; below 1 is faster or thriftier. Runs share no drift, so intervals are Welch's "
        "over trials."
    )
    return Table(("Entry", "Run", "Latency", "Energy an inference"), lines, note)


def differences_table(runs: Sequence[Run]) -> Table | None:
    """Return the facts in which runs differ, which a ratio between them also stands for; None where there are none."""
    found = [environment(run) for run in runs]
    names = [name for name in dict.fromkeys(key for one in found for key in one) if name not in SAME]
    lines = [
        [name, *(str(one.get(name) or "—") for one in found)]
        for name in names
        if len({one.get(name) for one in found}) > 1
    ]
    return Table(("What differs", *(run.label for run in runs)), lines) if len(runs) > 1 and lines else None


def modes_table(runs: Sequence[Run], rows: Sequence[Row], latency_limit_ms: float | None) -> Table | None:
    """Return latency, energy and their product by entry and power mode; None where runs do not differ in their mode.

    For each entry and batch size the mode is marked that needs least energy, of those whose 99th percentile of latency
    is within the limit; without a limit, the one with the least energy-delay product.
    """
    modes = {run.label: run.measurement.machine.power_mode for run in runs if run.measurement}
    if len(set(modes.values()) - {None}) < 2:
        return None
    kept = [row for row in rows if row.batch_size is not None and modes.get(row.run)]
    groups = dict.fromkeys((row.entry, row.batch_size) for row in kept)
    lines, chosen = [], []
    for group in groups:
        members = [row for row in kept if (row.entry, row.batch_size) == group]
        best = _best(members, latency_limit_ms)
        if best is not None:
            chosen.append(best)
        for row in members:
            figures = row.figures
            lines.append(
                [
                    f"{row.entry}, batch size {row.batch_size}",
                    f"{modes[row.run]}{' ' + BEST if row is best else ''}",
                    with_unit(figures["p50_ms"], "ms"),
                    with_unit(figures["p99_ms"], "ms"),
                    with_unit(figures["mj_per_inference"], "mJ"),
                    with_unit(figures["energy_delay_mj_ms"], "mJ·ms"),
                ]
            )
    headings = ("Entry", "Power mode", "Median latency", "p99 latency", "Energy an inference", "Energy-delay product")
    return Table(headings, lines, _choice(chosen, modes, latency_limit_ms))


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


def _choice(chosen: Sequence[Row], modes: dict[str, str | None], limit_ms: float | None) -> str:
    rule = (
        "the least energy-delay product; report --latency-limit MS marks the least energy within a limit"
        if limit_ms is None
        else f"the least energy with a 99th percentile of latency of at most {limit_ms:g} ms"
    )
    if not chosen:
        return f"Marked would be {rule}: nothing meets it, or there is no energy."
    least = min(chosen, key=lambda row: row.figures["mj_per_inference"].value or 0.0)
    overall = f"{least.entry} in {modes[least.run]}, batch size {least.batch_size}"
    return f"{BEST} marks {rule}, for each entry and batch size. Least energy of those marked: {overall}."
