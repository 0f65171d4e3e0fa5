"""Numbered footnotes: each kind of reason is written once, however many numbers lack for it.

Reasons that differ in their numbers alone are of one kind, of which the first is written; every one of them stands in
the CSV file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from heartvit_edge.bench.board_figures import busiest_share, throttled, wandering_mhz
from heartvit_edge.bench.figures import Figure, latency_figures
from heartvit_edge.report.columns import Column
from heartvit_edge.report.formats import value_text
from heartvit_edge.report.rows import Row
from heartvit_edge.report.runs import Run
from heartvit_edge.spec.measurement import Measurement

NUMBER = re.compile(r"(?<![\w.])\d+(\.\d+)?")
"""A number that stands alone: that of p90 is part of a name."""

MIN_TRIALS = 3
"""Trials below which the spread between them says little."""


def reasons(rows: Iterable[Row], columns: Sequence[Column]) -> dict[str, int]:
    """Map each reason for a missing figure to its footnote's number; see :func:`numbered`."""
    found = (row.figures[column.key].reason for row in rows for column in columns)
    return numbered(reason for reason in found if reason is not None)


def numbered(found: Iterable[str]) -> dict[str, int]:
    """Map each reason to the number of its kind, from 1, in reading order."""
    kinds: dict[str, int] = {}
    return {reason: kinds.setdefault(NUMBER.sub("", reason), len(kinds) + 1) for reason in found}


def footnotes(numbers: Mapping[str, int]) -> dict[int, str]:
    """Return what each number stands for: the first reason of its kind, and how many more there are."""
    alike: dict[int, list[str]] = {}
    for reason, number in numbers.items():
        alike.setdefault(number, []).append(reason)
    return {
        number: first + (f", and {len(others)} more like it" if others else "")
        for number, (first, *others) in alike.items()
    }


def row_title(row: Row, num_runs: int) -> str:
    """Return what heads the rows of one run and batch size."""
    batch = "not measured" if row.batch_size is None else f"batch size {row.batch_size}"
    return f"{row.run} · {batch}" if num_runs > 1 else batch.capitalize()


def relation(row: Row) -> str:
    """Return how an entry stands to the one with the same plan, and so with equal MACs; empty where it is that one."""
    words = {"baseline": "baseline of", "finetuned": "fine-tuned form of", "control": "control of"}
    return f"{words[row.role]} {row.compares_with}" if row.role in words and row.compares_with else ""


def grouped(rows: Iterable[Row]) -> dict[tuple[str, int | None], list[Row]]:
    """Return the rows by run and batch size, in their order."""
    found: dict[tuple[str, int | None], list[Row]] = {}
    for row in rows:
        found.setdefault((row.run, row.batch_size), []).append(row)
    return found


def under(row: Row, column: Column, figure: Figure, interval: str) -> str:
    """Return what stands under a number: a detail, its interval, or that it is what others are compared with."""
    if column.key in row.details:
        return row.details[column.key]
    if row.is_dense and column.against_dense and figure.value is not None:
        return "reference"
    return interval


def warnings(runs: Iterable[Run]) -> tuple[str, ...]:
    """Return what a reader must know before trusting a number of these runs."""
    found = []
    for run in runs:
        if run.measurement is None:
            continue
        unsettled = [row for row in run.measurement.rows if not row.warm_up_stable]
        if unsettled:
            which = ", ".join(f"{row.entry} at batch size {row.batch_size}" for row in unsettled)
            found.append(f"{run.label}: latency had not settled when the warm-up ended at its cap: {which}.")
        found += _of_the_board(run.label, run.measurement)
        if run.measurement.arrival_per_s is not None:
            means = ", ".join(
                f"{value_text(latency_figures(row).waiting_ms)} ms ({row.entry} at batch size {row.batch_size})"
                for row in run.measurement.rows
            )
            found.append(f"{run.label}: requests came at random, and latencies contain what they waited: {means}.")
        if run.evaluation is None:
            continue
        engines = {answers.entry: answers.engine_sha256 for answers in run.evaluation.entries}
        others = {row.entry for row in run.measurement.rows if engines.get(row.entry) not in (None, row.engine_sha256)}
        if others:
            found.append(
                f"{run.label}: answers and times of {', '.join(sorted(others))} are from different engines of the same "
                f"plan: evaluated with {run.evaluation.backend} {run.evaluation.precision}, "
                f"timed with {run.measurement.backend} {run.measurement.precision}."
            )
    return tuple(found)


def _of_the_board(label: str, measurement: Measurement) -> list[str]:
    """Return what the machine did that its figures do not stand for."""
    found = [
        f"{label}: {', '.join(f'{row.entry} at batch size {row.batch_size}' for row in rows)}: slowed down: "
        f"{'; '.join(causes)}."
        for causes, rows in throttled(measurement).items()
    ]
    if ends := wandering_mhz(measurement).get("GPU"):
        found.append(f"{label}: the GPU's clock is not locked, and moved from {ends[0]:.0f} to {ends[1]:.0f} MHz.")
    if share := busiest_share(measurement):
        found.append(
            f"{label}: other processes used up to {100 * share:.0f} % of the processor in the measured windows, and "
            "latencies are theirs too."
        )
    if any(len(row.trials) < MIN_TRIALS for row in measurement.rows):
        found.append(f"{label}: fewer than {MIN_TRIALS} trials: intervals between trials are wide or missing.")
    return found
