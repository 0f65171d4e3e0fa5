"""The whole report as one HTML page that needs no network: style, drawings and images are in it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from heartvit_edge import __version__
from heartvit_edge.report.facts import commands, environment
from heartvit_edge.report.glossary import WORDS
from heartvit_edge.report.layout import section
from heartvit_edge.report.markup import Markup, element, escaped, joined
from heartvit_edge.report.notes import warnings
from heartvit_edge.report.palette import Series, series_of
from heartvit_edge.report.rows import Row
from heartvit_edge.report.runs import Run
from heartvit_edge.report.section_head import facts_card, tiles, title_of
from heartvit_edge.report.section_layers import engine_layers
from heartvit_edge.report.section_plans import plans
from heartvit_edge.report.section_power import power
from heartvit_edge.report.section_runs import comparison, power_modes
from heartvit_edge.report.section_samples import samples
from heartvit_edge.report.section_scores import scores
from heartvit_edge.report.section_speed import latency, trade_off
from heartvit_edge.report.table import plain_table, summary_table

LINKS = {
    "summary": "Summary",
    "comparison": "Runs compared",
    "modes": "Best budget",
    "trade-off": "Trade-off",
    "latency": "Latency",
    "patches": "Patches",
    "scores": "Scores",
    "plans": "Plans",
    "power": "Power",
    "layers": "Layers",
    "environment": "Environment",
    "commands": "Commands",
    "words": "Words",
}

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser itself then refuses to load anything for this page."""


def page(runs: Sequence[Run], rows: Sequence[Row], latency_limit_ms: float | None = None) -> str:
    """Return the page's text.

    Args:
        runs: What it shows.
        rows: Their rows.
        latency_limit_ms: What the best power mode is chosen under, in ms; None for the least energy-delay product.
    """
    styles = styles_of(runs)
    title = title_of(runs)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", escaped(f"{title}: heartvit-edge report")),
        # Our own style sheet: nothing in it comes from a file of the user's.
        element("style", Markup(resources.files("heartvit_edge.report").joinpath("style.css").read_text("utf-8"))),
    )
    of_several = {"comparison": comparison(runs), "modes": power_modes(runs, rows, latency_limit_ms)}
    layers = engine_layers(runs)
    absent = {name for name, part in {**of_several, "layers": layers}.items() if part is None}
    shown = {name: text for name, text in LINKS.items() if name not in absent}
    links = [element("a", escaped(text), href=f"#{name}") for name, text in shown.items()]
    header = element(
        "header",
        element("p", escaped("heartvit-edge report"), class_="kicker"),
        element("h1", escaped(title)),
        element("div", *(facts_card(run, len(runs) > 1) for run in runs), class_="runs"),
        tiles(rows, styles),
    )
    nav = element("nav", *links, aria_label="Sections")
    main = element(
        "main",
        _summary(runs, rows, styles),
        *(part for part in of_several.values() if part is not None),
        trade_off(rows, styles),
        latency(runs, rows, styles),
        samples(runs, styles),
        scores(runs),
        plans(runs, styles),
        power(runs, styles),
        *([layers] if layers else []),
        _environment(runs),
        _commands(runs),
        _words(),
    )
    footer = element(
        "footer", escaped(f"Made by heartvit-edge {__version__}. This page loads nothing from the network.")
    )
    body = element("body", header, nav, main, footer)
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def styles_of(runs: Sequence[Run]) -> dict[tuple[str, str], Series]:
    """Return how each entry of each run is drawn."""
    keys = [(run.label, entry.name) for run in runs if run.pack for entry in run.pack.entries]
    keys += [(run.label, answers.entry) for run in runs if run.evaluation for answers in run.evaluation.entries]
    return series_of(keys)


def _summary(runs: Sequence[Run], rows: Sequence[Row], styles: dict[tuple[str, str], Series]) -> Markup:
    found = [element("p", escaped(warning), class_="warning") for warning in warnings(runs)]
    intro = "Under each number its 95 % confidence interval. Every figure is computed from stored raw samples."
    return section("summary", "Summary", *found, summary_table(rows, styles), intro=intro)


def _environment(runs: Sequence[Run]) -> Markup:
    found = [environment(run) for run in runs]
    names = list(dict.fromkeys(name for one in found for name in one))
    headings = ("Fact", *(run.label for run in runs))
    lines = [[name, *(one.get(name) for one in found)] for name in names]
    return section("environment", "Environment", plain_table(headings, lines, "Environment"))


def _commands(runs: Sequence[Run]) -> Markup:
    blocks, former = [], None
    for command, labels in commands(runs).items():
        if len(runs) > 1 and labels != former:
            blocks.append(element("h3", escaped(", ".join(labels)), class_="run-name"))
        former = labels
        blocks.append(element("pre", element("code", escaped(command)), tabindex="0"))
    intro = "These commands make the stored files again; a click selects the whole line."
    return section("commands", "Commands", *blocks, intro=intro)


def _words() -> Markup:
    pairs = [
        element("div", element("dt", escaped(word)), element("dd", escaped(meaning))) for word, meaning in WORDS.items()
    ]
    return section("words", "What each word means", element("dl", joined(pairs), class_="words"))
