"""Figures as the cells of a plain table: each kind of reason for a missing one is written once, beneath."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heartvit_edge.bench.figures import Figure
from heartvit_edge.report.formats import DASH, superscript, with_unit
from heartvit_edge.report.notes import footnotes, numbered

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
    figures = [cell[0] for line in lines for cell in line if not isinstance(cell, str)]
    numbers = numbered(figure.reason for figure in figures if figure.reason is not None)

    def text(cell: Cell) -> str:
        if isinstance(cell, str):
            return cell
        figure, unit = cell
        return with_unit(figure, unit) if figure.reason is None else DASH + superscript(numbers[figure.reason])

    reasons = [f"{superscript(number)} {words}." for number, words in footnotes(numbers).items()]
    texts = [[text(cell) for cell in line] for line in lines]
    return Table(tuple(headings), texts, " ".join([note, *reasons] if note else reasons))
