"""What each plan keeps and loses: tables, and the tokens, heads and MLP units of each block."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.report.layout import cards, figure, missing, section
from heartvit_edge.report.markup import Markup
from heartvit_edge.report.palette import Series, legend, of_one_pack
from heartvit_edge.report.plan_tables import kept_heads, loses_units, plan_tables
from heartvit_edge.report.runs import Run
from heartvit_edge.report.svg_blocks import tokens_plot, units_plot
from heartvit_edge.report.svg_heads import heads_map
from heartvit_edge.spec.pack import BudgetPack

HEADING = "What the plans keep and lose"


def plans(runs: Sequence[Run], styles: dict[tuple[str, str], Series]) -> Markup:
    """Return the section; each pack is shown once, however many runs used it."""
    packs: dict[str, tuple[Run, BudgetPack]] = {}
    for run in runs:
        if run.pack:
            packs.setdefault(run.pack.digest(), (run, run.pack))
    parts = []
    for digest, (run, pack) in packs.items():
        title = f"{pack.source.name}, pack {digest[:12]}: " if len(packs) > 1 else ""
        drawn = of_one_pack(styles, run.label, [entry.name for entry in pack.entries])
        parts += [*plan_tables(pack.entries, title), cards(*_figures(pack, drawn, title))]
    if not parts:
        parts = [missing("The plans are stored in measurement.json, which heartvit-edge bench makes.")]
    return section("plans", HEADING, *parts)


def _figures(pack: BudgetPack, styles: dict[str, Series], title: str) -> list[Markup]:
    found = [(styles[entry.name], entry.plan) for entry in pack.entries if entry.compares_with is None]
    all_heads = pack.shape.depth * pack.shape.num_heads
    thinned = [(series, plan) for series, plan in found if kept_heads(plan) < all_heads]
    whole = [series.name for series, plan in found if kept_heads(plan) == all_heads]
    note = f"All {all_heads} heads are kept by {', '.join(whole)}." if whole else ""
    key = legend([series for series, _ in found], "line")
    figures = [figure(f"{title}Tokens per block", key, tokens_plot(found), note=note)]
    narrowed = [(series, plan) for series, plan in found if loses_units(plan)]
    if narrowed:
        wide = [series.name for series, plan in found if not loses_units(plan)]
        note = f"Every MLP unit is kept by {', '.join(wide)}." if wide else ""
        key = legend([series for series, _ in narrowed], "line")
        figures.append(figure(f"{title}MLP units per block", key, units_plot(narrowed), note=note))
    figures += [figure(f"{title}Heads kept, {series.name}", heads_map(series, plan)) for series, plan in thinned]
    return figures
