"""Quality against cost at one batch size, with the front of points that no other beats."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from heartvit_edge.bench.figures import Figure
from heartvit_edge.report.chart import Frame, axes, drawing, labelled_ticks
from heartvit_edge.report.columns import Column
from heartvit_edge.report.formats import SHARE, with_unit
from heartvit_edge.report.labels import Box, place
from heartvit_edge.report.markup import Markup, element, escaped
from heartvit_edge.report.palette import Series, mark
from heartvit_edge.report.pareto import non_dominated
from heartvit_edge.report.rows import Row
from heartvit_edge.report.scale import Scale, padded

FRAME = Frame()


def pareto_plot(
    rows: Sequence[Row], series: dict[tuple[str, str], Series], cost: Column, quality: Column, cost_title: str
) -> Markup:
    """Return the plot of the rows, each of which has both figures and the same batch size.

    Points on the front are filled and joined by the staircase that bounds what is dominated; the others are hollow.
    Bars are the 95 % intervals.
    """
    costs = [row.figures[cost.key] for row in rows]
    shares = [row.figures[quality.key] for row in rows]
    left, right = padded(*_range(costs))
    x = FRAME.x(max(0.0, left), right)
    low, high = padded(*_range(shares), share=0.1)
    y = FRAME.y(max(0.0, low), min(high, 1.004))
    points = [(_value(c), _value(q)) for c, q in zip(costs, shares, strict=True)]
    front = non_dominated(points)
    centres = [(x(px), y(py)) for px, py in points]
    stairs = sorted(centre for centre, kept in zip(centres, front, strict=True) if kept)
    taken = [box for c, q in zip(costs, shares, strict=True) for box in _bars_boxes(x, y, c, q)]
    taken += [box for before, after in pairwise(stairs) for box in _stair_boxes(before, after)]
    area = Box(FRAME.left, FRAME.top, FRAME.width - FRAME.right, FRAME.height - FRAME.bottom)
    drawn = [series[row.run, row.entry] for row in rows]
    boxes = place([one.name for one in drawn], centres, taken, area)
    parts = [
        axes(
            FRAME,
            x,
            y,
            cost_title,
            f"{quality.heading}, {SHARE}",
            labelled_ticks(x),
            _percent_ticks(y),
        ),
        _staircase(stairs),
    ]
    for row, one, centre, kept, c, q, box in zip(rows, drawn, centres, front, costs, shares, boxes, strict=True):
        words = (
            f"{one.name}, batch size {row.batch_size}: {with_unit(c, cost.unit)}, "
            f"{quality.heading.lower()} {with_unit(q, SHARE)}"
            f"{', on the front' if kept else ', beaten by another point'}"
        )
        parts.append(
            element(
                "g",
                element("title", escaped(words)),
                *_bars(x, y, c, q, one),
                mark(one, *centre, hollow=not kept),
                _name(one.name, box, centre[0]),
                class_="datum",
            )
        )
    label = f"{quality.heading} against {cost_title}: {sum(front)} of {len(rows)} points are on the front"
    return drawing(FRAME, label, *parts)


def _value(figure: Figure) -> float:
    assert figure.value is not None
    return figure.value


def _range(figures: Sequence[Figure]) -> tuple[float, float]:
    ends = [end for figure in figures for end in (figure.value, figure.low, figure.high) if end is not None]
    return min(ends), max(ends)


def _percent_ticks(y: Scale) -> dict[float, str]:
    percent = Scale(100 * y.low, 100 * y.high, y.start, y.end)
    return {value / 100: text for value, text in labelled_ticks(percent).items()}


def _bars_boxes(x: Scale, y: Scale, cost: Figure, share: Figure) -> list[Box]:
    """Return the room that a mark and each of its two bars take."""
    left, right = (x(_value(cost) if end is None else end) for end in (cost.low, cost.high))
    bottom, top = (y(_value(share) if end is None else end) for end in (share.low, share.high))
    cx, cy = x(_value(cost)), y(_value(share))
    mark_box = Box(cx - 6, cy - 6, cx + 6, cy + 6)
    return [mark_box, Box(left, cy - 4, right, cy + 4), Box(cx - 4, top, cx + 4, bottom)]


def _bars(x: Scale, y: Scale, cost: Figure, share: Figure, series: Series) -> list[Markup]:
    cx, cy = x(_value(cost)), y(_value(share))
    paths = []
    if cost.low is not None and cost.high is not None:
        left, right = x(cost.low), x(cost.high)
        paths.append(f"M{left:.2f} {cy - 4:.2f}v8M{left:.2f} {cy:.2f}H{right:.2f}M{right:.2f} {cy - 4:.2f}v8")
    if share.low is not None and share.high is not None:
        bottom, top = y(share.low), y(share.high)
        paths.append(f"M{cx - 4:.2f} {bottom:.2f}h8M{cx:.2f} {bottom:.2f}V{top:.2f}M{cx - 4:.2f} {top:.2f}h8")
    return [element("path", class_=f"bar {series.colour}", d=path) for path in paths]


def _name(text: str, box: Box, x: float) -> Markup:
    """Return the text in its box, set from the side that faces its point, since fonts differ in width."""
    at, anchor = (box.left + box.right) / 2, "middle"
    if box.left > x:
        at, anchor = box.left, "start"
    elif box.right < x:
        at, anchor = box.right, "end"
    return element("text", escaped(text), class_="point", x=at, y=box.bottom - 4.5, text_anchor=anchor)


def _staircase(stairs: Sequence[tuple[float, float]]) -> Markup:
    """Return the line from the cheapest point rightward, up to each next point of the front."""
    path = f"M{stairs[0][0]:.2f} {stairs[0][1]:.2f}"
    path += "".join(f"H{px:.2f}V{py:.2f}" for px, py in stairs[1:])
    return element("path", class_="front", d=path)


def _stair_boxes(before: tuple[float, float], after: tuple[float, float]) -> list[Box]:
    """Return the room that one step of the staircase takes: its level piece and its upright piece."""
    (x0, y0), (x1, y1) = before, after
    return [Box(x0, y0 - 2, x1, y0 + 2), Box(x1 - 2, y1, x1 + 2, y0)]
