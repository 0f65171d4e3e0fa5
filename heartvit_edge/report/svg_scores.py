"""What heads and tokens are worth: a map of the heads, and a mean a site."""

from __future__ import annotations

import math
from collections.abc import Sequence

from heartvit_edge.report.chart import Frame, axes, drawing, labelled_ticks
from heartvit_edge.report.formats import decimals_for, number_text, power_of_ten
from heartvit_edge.report.head_grid import LEFT, MOST_BLOCKS_LABELLED, WIDTH, HeadGrid
from heartvit_edge.report.markup import Markup, element, escaped
from heartvit_edge.report.palette import Series, mark

FAINTEST = 0.08
"""Opacity of the least positive score; the greatest is opaque."""

COLOUR = Series(name="score", colour="s1", dash=None, mark="circle")

KEY_HEIGHT, KEY_STEPS = 44, 12

Table = Sequence[Sequence[float]]


def score_text(value: float) -> str:
    """Return a score with three digits."""
    return number_text(value, decimals_for(value))


def opacities(values: Table) -> list[list[float | None]]:
    """Return the opacity of each value on a logarithmic scale from the least to the greatest positive one.

    A value that is not positive has none; where all are alike, each is opaque.
    """
    logs = [math.log(value) for row in values for value in row if value > 0]
    low, width = (min(logs), max(logs) - min(logs)) if logs else (0.0, 0.0)

    def opacity(value: float) -> float | None:
        if value <= 0:
            return None
        share = (math.log(value) - low) / width if width else 1.0
        return FAINTEST + (1 - FAINTEST) * share

    return [[opacity(value) for value in row] for row in values]


def head_scores_map(means: Table, errors: Table, unit: str) -> Markup:
    """Return a grid with a column a block and a row a head: the darker, the more the head is worth.

    Args:
        means: Mean score of each head, (depth, num_heads).
        errors: Their standard errors.
        unit: What a score is in.
    """
    grid = HeadGrid(len(means), len(means[0]))
    parts = grid.labels()
    for block, (row, its_errors, shades) in enumerate(zip(means, errors, opacities(means), strict=True)):
        cells = []
        for head, (mean, error, shade) in enumerate(zip(row, its_errors, shades, strict=True)):
            words = f"{score_text(mean)} ± {score_text(error)} {unit}"
            class_ = "head removed" if shade is None else f"head {COLOUR.colour}"
            cells.append(grid.square(block, head, words, class_, shade))
        parts.append(element("g", *cells))
    positive = [value for row in means for value in row if value > 0]
    if positive:
        parts.append(_key(min(positive), max(positive), unit, grid.height))
    flat = [(mean, block, head) for block, row in enumerate(means) for head, mean in enumerate(row)]
    least, most = min(flat), max(flat)
    label = (
        f"Mean score of each head, in {unit}: from {score_text(least[0])} (block {least[1]}, head {least[2]}) "
        f"to {score_text(most[0])} (block {most[1]}, head {most[2]})"
    )
    return drawing(Frame(height=grid.height + KEY_HEIGHT), label, *parts)


def _key(low: float, high: float, unit: str, top: float) -> Markup:
    """Return the scale of the shades with the least and the greatest score beneath."""
    step = (WIDTH - LEFT - 8) / KEY_STEPS
    parts = []
    for index in range(KEY_STEPS):
        opacity = FAINTEST + (1 - FAINTEST) * index / (KEY_STEPS - 1)
        class_ = f"head {COLOUR.colour}"
        x = LEFT + step * index
        parts.append(element("rect", class_=class_, fill_opacity=opacity, x=x, y=top + 6, width=step - 1.5, height=10))
    y = top + 34
    parts.append(element("text", escaped(f"{score_text(low)} {unit}"), class_="tick", x=LEFT, y=y))
    parts.append(
        element("text", escaped(f"{score_text(high)} {unit}"), class_="tick", x=WIDTH - 8, y=y, text_anchor="end")
    )
    return element("g", *parts)


def site_scores_plot(means: dict[int, float], errors: dict[int, float], depth: int, unit: str) -> Markup:
    """Return the mean score of a token at each site, with one standard error to both sides.

    Args:
        means: Site to mean score; at least one site.
        errors: Site to standard error.
        depth: Blocks of the model.
        unit: What a score is in.
    """
    lowest = min(0.0, *(means[site] - errors[site] for site in means))
    highest = max(means[site] + errors[site] for site in means)
    power = math.floor(math.log10(max(highest, -lowest))) if highest > lowest else 0
    power = power if power < -1 else 0
    factor = 10.0**power
    frame = Frame()
    x = frame.x(-0.5, depth - 0.5)
    y = frame.y(lowest / factor, 1.08 * highest / factor if highest > lowest else 1.0)
    title = f"{unit} a token" + (f", in units of {power_of_ten(power)}" if power else "")
    x_ticks = {float(site): str(site) for site in list(means)[:: 1 + (len(means) - 1) // MOST_BLOCKS_LABELLED]}
    parts = [axes(frame, x, y, "site: the block before which tokens go", title, x_ticks, labelled_ticks(y))]
    for site, mean in means.items():
        low, high = (y((mean + sign * errors[site]) / factor) for sign in (-1, 1))
        words = f"block {site}: {score_text(mean)} ± {score_text(errors[site])} {unit} a token"
        bar = element("line", class_=f"bar {COLOUR.colour}", x1=x(site), y1=low, x2=x(site), y2=high)
        parts.append(element("g", element("title", escaped(words)), bar, mark(COLOUR, x(site), y(mean / factor))))
    label = "Mean score of a token: " + ", ".join(
        f"{score_text(mean)} {unit} at block {site}" for site, mean in means.items()
    )
    return drawing(frame, label, *parts)
