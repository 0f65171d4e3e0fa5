"""Figures as the cells of a plain table: each kind of reason for a missing one is written once, beneath."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from heartvit_edge.bench.figures import Figure
from heartvit_edge.report.formats import DASH, superscript, with_unit

NUMBER = re.compile(r"\d+(\.\d+)?")

Cell = str | tuple[Figure, str]
"""A text, or a figure and its unit."""


@dataclass(frozen=True)
class Table:
    """Headings, lines of cells, and what to say beneath."""

    headings: tuple[str, ...]
    lines: list[list[str]]
    note: str = ""


def figure_table(headings: Sequence[str], lines: Sequence[Sequence[Cell]], note: str = "") -> Table:
    """Return the table with a numbered dash for each missing figure, and the numbered reasons after the note.

    Reasons that differ in their numbers alone are of one kind, of which the first is written; every one of them stands
    in the CSV file.
    """
    kinds: dict[str, list[str]] = {}

    def text(cell: Cell) -> str:
        if isinstance(cell, str):
            return cell
        figure, unit = cell
        if figure.reason is None:
            return with_unit(figure, unit)
        kind = NUMBER.sub("", figure.reason)
        alike = kinds.setdefault(kind, [])
        if figure.reason not in alike:
            alike.append(figure.reason)
        return DASH + superscript(1 + list(kinds).index(kind))

    texts = [[text(cell) for cell in line] for line in lines]
    reasons = [
        f"{superscript(number)} {alike[0]}{f', and {len(alike) - 1} more like it' if len(alike) > 1 else ''}."
        for number, alike in enumerate(kinds.values(), start=1)
    ]
    return Table(tuple(headings), texts, " ".join([note, *reasons] if note else reasons))
