"""Figures as the cells of a plain table: each reason for a missing one is written once, beneath."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heartvit_edge.bench.figures import Figure
from heartvit_edge.report.formats import DASH, superscript, with_unit

Cell = str | tuple[Figure, str]
"""A text, or a figure and its unit."""


@dataclass(frozen=True)
class Table:
    """Headings, lines of cells, and what to say beneath."""

    headings: tuple[str, ...]
    lines: list[list[str]]
    note: str = ""


def figure_table(headings: Sequence[str], lines: Sequence[Sequence[Cell]], note: str = "") -> Table:
    """Return the table with a numbered dash for each missing figure, and the numbered reasons after the note."""
    numbers: dict[str, int] = {}

    def text(cell: Cell) -> str:
        if isinstance(cell, str):
            return cell
        figure, unit = cell
        if figure.reason is None:
            return with_unit(figure, unit)
        return DASH + superscript(numbers.setdefault(figure.reason, len(numbers) + 1))

    texts = [[text(cell) for cell in line] for line in lines]
    reasons = [f"{superscript(number)} {reason}." for reason, number in numbers.items()]
    return Table(tuple(headings), texts, " ".join([note, *reasons] if note else reasons))
