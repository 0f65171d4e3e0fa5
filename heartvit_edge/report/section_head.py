"""The top of the page: what was run, and the main result of each budget."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.report.facts import headline
from heartvit_edge.report.formats import SHARE, TIMES, interval_text, value_text
from heartvit_edge.report.markup import Markup, element, escaped, joined
from heartvit_edge.report.palette import Series
from heartvit_edge.report.rows import Row
from heartvit_edge.report.runs import Run

SHOWN = (
    ("agreement", SHARE, "agreement with dense"),
    ("top1", SHARE, "top-1"),
    ("macs_fraction", SHARE, "of the MACs"),
    ("mj_per_inference", "mJ", "an inference"),
)
"""Key, unit and words of the figures that a tile shows beneath the speed-up."""


def title_of(runs: Sequence[Run]) -> str:
    """Return the title of the page."""
    names = list(dict.fromkeys(run.pack.source.name if run.pack else run.label for run in runs))
    return ", ".join(names) if len(runs) == 1 else f"{len(runs)} runs of {', '.join(names)}"


def facts_card(run: Run, several: bool) -> Markup:
    """Return what was run, where and on what; under its label where there are several runs, else the title tells it."""
    pairs = [
        element("div", element("dt", escaped(name)), element("dd", escaped(value)))
        for name, value in headline(run).items()
        if several or name != "Model"
    ]
    heading = (element("h2", escaped(run.label)),) if several else ()
    return element("div", *heading, element("dl", *pairs), class_="facts")


def tiles(rows: Sequence[Row], styles: dict[tuple[str, str], Series]) -> Markup:
    """Return one tile per pruned or fine-tuned entry and run, at the run's smallest batch size; none without times."""
    found = []
    for run in dict.fromkeys(row.run for row in rows):
        sizes = [row.batch_size for row in rows if row.run == run and row.batch_size is not None]
        found += [
            _tile(row, styles[run, row.entry])
            for row in rows
            if row.run == run
            and sizes
            and row.batch_size == min(sizes)
            and not row.is_dense
            and row.role not in ("baseline", "control")
        ]
    return element("div", *found, class_="tiles") if found else Markup("")


def _tile(row: Row, series: Series) -> Markup:
    """Return speed-up with its interval, and the other main figures without theirs, which the table has."""
    name = element("h3", element("span", class_=f"dot {series.colour}", aria_hidden="true"), escaped(series.name))
    speed = row.figures["speed_up"]
    if speed.value is None:
        lines = [f"No speed-up: {speed.reason}"]
        big = escaped(value_text(speed))
    else:
        lines = [f"dense speed at batch size {row.batch_size}"]
        interval = element("small", escaped(interval_text(speed)))
        big = joined([element("strong", escaped(value_text(speed) + TIMES)), interval], " ")
    for key, unit, words in SHOWN:
        if row.figures[key].value is not None:
            lines.append(f"{value_text(row.figures[key], unit)} {unit} {words}")
    paragraphs = (element("p", escaped(line)) for line in lines)
    return element("div", name, element("p", big, class_="big"), *paragraphs, class_="tile")
