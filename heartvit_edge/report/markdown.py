"""The report's tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from heartvit_edge.report.columns import PAGE_COLUMNS
from heartvit_edge.report.facts import commands, environment, headline
from heartvit_edge.report.figure_cells import Table
from heartvit_edge.report.floors_table import floors_table
from heartvit_edge.report.formats import DASH, interval_text, value_text
from heartvit_edge.report.notes import footnotes, grouped, reasons, relation, row_title, under, warnings
from heartvit_edge.report.rows import Row
from heartvit_edge.report.runs import Run
from heartvit_edge.report.tables_of_power import energy_table, rails_table, state_table
from heartvit_edge.report.tables_of_runs import BEST_HEADING, comparison_table, differences_table, modes_table

_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_[]#|"} | {"<": "&lt;", "&": "&amp;", "\n": " "})


def markdown_text(runs: Sequence[Run], rows: Sequence[Row], latency_limit_ms: float | None = None) -> str:
    """Return facts, the summary table with the reasons for what is missing, the environment and the commands."""
    lines = ["# heartvit-edge report", ""]
    for run in runs:
        lines += [f"## {_plain(run.label)}", ""]
        lines += [f"- **{name}**: {_plain(value)}" for name, value in headline(run).items()]
        lines.append("")
    lines += ["## Summary", "", "In brackets: 95 % confidence intervals.", ""]
    notes = reasons(rows, PAGE_COLUMNS)
    for members in grouped(rows).values():
        lines += [f"### {_plain(row_title(members[0], len(runs)))}", "", *_table(members, notes), ""]
    lines += [f"{index}. {DASH} {_plain(words)}" for index, words in footnotes(notes).items()]
    lines += [""] * bool(notes)
    lines += [f"- {_plain(warning)}" for warning in warnings(runs)]
    for heading, table in (
        ("Runs compared", comparison_table(runs)),
        ("What differs between runs", differences_table(runs)),
        (BEST_HEADING, modes_table(runs, rows, latency_limit_ms)),
        ("Floors", floors_table(runs)),
        *_of_each_run(runs),
    ):
        if table is not None:
            lines += ["", f"## {heading}", "", *_of_runs(table), *(["", _plain(table.note)] if table.note else [])]
    lines += ["", "## Environment", ""]
    for run in runs:
        lines += [f"### {_plain(run.label)}", ""]
        lines += [f"- {name}: {DASH if value is None else _plain(value)}" for name, value in environment(run).items()]
        lines.append("")
    lines += ["## Commands", ""]
    lines += [f"    {' '.join(command.splitlines())}" for command in commands(runs)]
    return "\n".join(lines) + "\n"


def _of_each_run(runs: Sequence[Run]) -> Iterator[tuple[str, Table | None]]:
    """Give heading and table of energy, rails and the machine's state of each run."""
    for run in runs:
        if run.measurement is not None:
            of_run = f" of {_plain(run.label)}" if len(runs) > 1 else ""
            yield f"Energy and power{of_run}", energy_table(run.measurement)
            yield f"Energy by rail{of_run}", rails_table(run.measurement)
            yield f"State of the machine{of_run}", state_table(run.measurement)


def _plain(text: str) -> str:
    """Return the text with everything that Markdown or HTML would read as markup taken literally."""
    return text.translate(_SPECIAL)


def _table(rows: Sequence[Row], notes: dict[str, int]) -> list[str]:
    headings = ["Entry", *(f"{column.heading} ({column.unit})" for column in PAGE_COLUMNS)]
    lines = [_line(headings), _line(["---", *("---:" for _ in PAGE_COLUMNS)])]
    for row in rows:
        words = relation(row)
        cells = [_plain(row.entry + (f" ({words})" if words else ""))]
        for column in PAGE_COLUMNS:
            figure = row.figures[column.key]
            if figure.reason is not None:
                cells.append(f"{DASH} [{notes[figure.reason]}]")
                continue
            small = under(row, column, figure, interval_text(figure, column.unit))
            cells.append(value_text(figure, column.unit) + (f" ({small})" if small else ""))
        lines.append(_line(cells))
    return lines


def _of_runs(table: Table) -> list[str]:
    body = [_line([_plain(cell) for cell in cells]) for cells in table.lines]
    return [_line(table.headings), _line(["---"] * len(table.headings)), *body]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
