"""Colour, dash and mark of each entry of each run, the same in every figure.

The colours follow Okabe and Ito, so that readers with any colour vision can tell them apart; the style sheet
holds them, as ``.s0`` to ``.s6``, for light and for dark. A dash or a mark says the same thing a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from heartvit_edge.bench.figures import DENSE
from heartvit_edge.report.markup import Markup, element, escaped

NUM_COLOURS = 6
"""Colours beside the dense engine's grey."""

DASHES = (None, "7 3", "2 3", "9 3 2 3", "1 4", "12 4")

MARKS = ("circle", "square", "diamond", "triangle", "cross", "hexagon")


@dataclass(frozen=True)
class Series:
    """How one entry of one run is drawn.

    Attributes:
        name: What labels and legends call it.
        colour: Class of the style sheet, ``s0`` for the dense engine.
        dash: SVG dash pattern; None for a solid line.
        mark: One of ``MARKS``.
    """

    name: str
    colour: str
    dash: str | None
    mark: str


def series_of(keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Series]:
    """Return how each (run, entry) is drawn: colour tells the entry; mark and dash the run, or the entry of one run."""
    ordered = list(dict.fromkeys(keys))
    runs = list(dict.fromkeys(run for run, _ in ordered))
    pruned = list(dict.fromkeys(entry for _, entry in ordered if entry != DENSE))
    found = {}
    for run, entry in ordered:
        of_entry = 0 if entry == DENSE else 1 + pruned.index(entry)
        variant = runs.index(run) if len(runs) > 1 else of_entry
        found[run, entry] = Series(
            name=f"{entry} · {run}" if len(runs) > 1 else entry,
            colour=f"s{0 if of_entry == 0 else 1 + (of_entry - 1) % NUM_COLOURS}",
            dash=DASHES[variant % len(DASHES)],
            mark=MARKS[variant % len(MARKS)],
        )
    return found


def mark(series: Series, x: float, y: float, *, hollow: bool = False, size: float = 5.5) -> Markup:
    """Return the series' mark centred at (x, y); ``size`` is its half width in pixels."""
    class_ = f"mark {series.colour}{' hollow' if hollow else ''}"
    if series.mark == "circle":
        return element("circle", class_=class_, cx=x, cy=y, r=size)
    if series.mark == "square":
        return element("rect", class_=class_, x=x - 0.9 * size, y=y - 0.9 * size, width=1.8 * size, height=1.8 * size)
    corners = {
        "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        "triangle": ((0, -1.2), (1.1, 0.85), (-1.1, 0.85)),
        "cross": ((-1, -1), (0, -0.4), (1, -1), (0.4, 0), (1, 1), (0, 0.4), (-1, 1), (-0.4, 0)),
        "hexagon": ((-1.1, 0), (-0.55, -1), (0.55, -1), (1.1, 0), (0.55, 1), (-0.55, 1)),
    }[series.mark]
    points = " ".join(f"{x + size * dx:.2f},{y + size * dy:.2f}" for dx, dy in corners)
    return element("polygon", class_=class_, points=points)


def of_one_pack(styles: dict[tuple[str, str], Series], run: str, entries: Sequence[str]) -> dict[str, Series]:
    """Return how each entry of one pack is drawn where runs play no part: its colour as everywhere, dash by entry."""
    alone = series_of((run, entry) for entry in entries)
    return {entry: replace(alone[run, entry], colour=styles[run, entry].colour) for entry in entries}


def legend(series: Iterable[Series], swatch: Literal["line", "mark", "area"]) -> Markup:
    """Return a list of names, each after a piece of line, a mark or a shaded area."""
    items = []
    for one in series:
        if swatch == "line":
            drawn = element("line", class_=f"line {one.colour}", x1=1, y1=7, x2=27, y2=7, stroke_dasharray=one.dash)
        elif swatch == "mark":
            drawn = mark(one, 14, 7, size=5)
        else:
            drawn = element("rect", class_=f"window {one.colour}", x=4, y=1, width=20, height=12)
        picture = element("svg", drawn, class_="swatch", viewBox="0 0 28 14", aria_hidden="true")
        items.append(element("li", picture, escaped(one.name)))
    return element("ul", *items, class_="legend")
