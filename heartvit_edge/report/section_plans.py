"""What each plan keeps: a table, the tokens per block and the heads per block."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.report.formats import decimals_for, number_text
from heartvit_edge.report.layout import cards, figure, missing, section
from heartvit_edge.report.markup import Markup
from heartvit_edge.report.palette import Series, legend, of_one_pack
from heartvit_edge.report.runs import Run
from heartvit_edge.report.svg_heads import heads_map
from heartvit_edge.report.svg_tokens import tokens_plot
from heartvit_edge.report.table import plain_table
from heartvit_edge.spec.pack import BudgetPack, PackEntry
from heartvit_edge.spec.plan import PruningPlan

PLAN_HEADINGS = (
    "Entry",
    "Scorer",
    "Gate",
    "Tokens kept",
    "Heads kept",
    "ONNX error, of the largest logit",
    "Same tokens as PyTorch",
)


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
        table = plain_table(PLAN_HEADINGS, [_line(entry) for entry in pack.entries], f"{title}Plans")
        parts += [table, cards(*_figures(pack, drawn, title))]
    if not parts:
        nothing = missing("The plans are stored in measurement.json, which heartvit-edge bench makes.")
        return section("plans", "What the plans keep", nothing)
    return section("plans", "What the plans keep", *parts)


def _line(entry: PackEntry) -> list[str]:
    sites = ", ".join(f"{count} from block {block}" for block, count in entry.plan.sites.items())
    parity = entry.parity
    error = parity.max_abs_error / parity.logit_scale if parity.logit_scale else parity.max_abs_error
    return [
        entry.name,
        entry.plan.scorer or "none: nothing is removed",
        entry.gate or "none: no token is dropped",
        sites or f"all {entry.plan.shape.num_tokens}",
        f"{_kept_heads(entry.plan)} of {_all_heads(entry.plan)}",
        number_text(error, decimals_for(error)),
        f"{parity.num_images - parity.kept_token_mismatches} of {parity.num_images} images",
    ]


def _figures(pack: BudgetPack, styles: dict[str, Series], title: str) -> list[Markup]:
    found = [(styles[entry.name], entry.plan) for entry in pack.entries]
    thinned = [(series, plan) for series, plan in found if _kept_heads(plan) < _all_heads(plan)]
    whole = [series.name for series, plan in found if _kept_heads(plan) == _all_heads(plan)]
    note = f"All {_all_heads(found[0][1])} heads are kept by {', '.join(whole)}." if whole else ""
    key = legend([series for series, _ in found], "line")
    tokens = figure(f"{title}Tokens per block", key, tokens_plot(found), note=note)
    return [
        tokens,
        *(figure(f"{title}Heads kept, {series.name}", heads_map(series, plan)) for series, plan in thinned),
    ]


def _kept_heads(plan: PruningPlan) -> int:
    return sum(len(block.kept_heads) for block in plan.blocks)


def _all_heads(plan: PruningPlan) -> int:
    return plan.shape.depth * plan.shape.num_heads
