"""What the plans of a pack keep and cost, what they lose, and how true their graphs are, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.report.formats import SHARE, decimals_for, number_text
from heartvit_edge.report.markup import Markup
from heartvit_edge.report.precision_table import precision_table
from heartvit_edge.report.svg_blocks import hidden_units
from heartvit_edge.report.table import plain_table
from heartvit_edge.spec.budget import Budget, Quantity
from heartvit_edge.spec.pack import PackEntry
from heartvit_edge.spec.plan import PruningPlan
from heartvit_edge.spec.reduction import Reduction

LIMITS: dict[Quantity, tuple[str, str]] = {
    "macs": ("MACs", SHARE),
    "params": ("weights", SHARE),
    "latency-ms": ("latency", "ms"),
    "energy-mj": ("energy", "mJ"),
    "loss-nats": ("loss", "nats"),
}
"""What each budget limits, and the unit in which its limit is shown."""

LOSS_HEADINGS = (
    "Entry: what it loses",
    "Scorer",
    "Predicted loss, nats",
    "Measured on held-out images, nats",
    "Agreement there",
    "Tokens chosen by",
    "Saved by one more percent of the MACs, nats",
)

GRAPH_HEADINGS = (
    "Entry: its graph",
    "Gate",
    "Other tokens",
    "ONNX error, of the largest logit",
    "Same tokens as PyTorch",
)

NOT_MEASURED = "not measured"

OTHER_TOKENS: dict[Reduction, str] = {
    "drop": "dropped",
    "fuse": "fused into one mean token",
    "join": "dropped in the first half of the blocks, then joined to the likest",
    "merge": "merged into the likest, which no gate decides",
}


def plan_tables(entries: Sequence[PackEntry], title: str) -> list[Markup]:
    """Return what each plan keeps and costs, what the pruned ones lose, and how each graph compares with PyTorch.

    Args:
        entries: Of one pack. Those that compare with another have its plan, and only a graph of their own.
        title: What stands before the tables' labels.
    """
    planned = [entry for entry in entries if entry.compares_with is None]
    pruned = [entry for entry in planned if not entry.plan.is_dense]
    graphs = [plain_table(GRAPH_HEADINGS, [_graph(entry) for entry in entries], f"{title}Graphs of the plans")]
    graphs += precision_table(entries, title)
    if not pruned:
        return [_kept_table(planned, title), *graphs]
    losses = plain_table(LOSS_HEADINGS, [_loss(entry) for entry in pruned], f"{title}Loss of the plans")
    return [_kept_table(planned, title), losses, *graphs]


def _kept_table(entries: Sequence[PackEntry], title: str) -> Markup:
    """Return the table of what stays; units and what a device table foretells have columns where any entry has them."""
    plans = [entry.plan for entry in entries]
    columns: list[tuple[str, list[str | None]]] = [
        ("Entry: what it keeps", [entry.name for entry in entries]),
        ("Budgets", [_budgets(plan) for plan in plans]),
        ("Tokens kept", [_tokens(entry) for entry in entries]),
        ("Heads kept", [f"{kept_heads(plan)} of {plan.shape.depth * plan.shape.num_heads}" for plan in plans]),
    ]
    if any(loses_units(plan) for plan in plans):
        columns.append(("MLP units kept", [_units(plan) for plan in plans]))
    columns.append(("MACs", [_share(entry.macs_fraction) for entry in entries]))
    columns.append(("Weights", [_share(plan.params_fraction) for plan in plans]))
    if any(plan.latency_ms is not None for plan in plans):
        columns.append(("Latency by the device table", [_by_table(plan, plan.latency_ms, "ms") for plan in plans]))
    if any(plan.energy_mj is not None for plan in plans):
        columns.append(("Energy by the device table", [_by_table(plan, plan.energy_mj, "mJ") for plan in plans]))
    headings, cells = zip(*columns, strict=True)
    return plain_table(headings, list(zip(*cells, strict=True)), f"{title}Plans")


def kept_heads(plan: PruningPlan) -> int:
    """Return the attention heads that stay, over all blocks."""
    return sum(len(block.kept_heads) for block in plan.blocks)


def loses_units(plan: PruningPlan) -> bool:
    """Return whether a block loses MLP hidden units."""
    return min(hidden_units(plan)) < plan.shape.mlp_hidden_dim


def _budgets(plan: PruningPlan) -> str:
    limits = (f"{_limit(budget)}{' (binds)' if budget.quantity in plan.binding else ''}" for budget in plan.budgets)
    return "; ".join(limits) or "none"


def _limit(budget: Budget) -> str:
    words, unit = LIMITS[budget.quantity]
    limit = 100 * budget.limit if unit == SHARE else budget.limit
    return f"{words} ≤ {limit:.4g} {unit}".replace(" ", "\N{NO-BREAK SPACE}")


def _tokens(entry: PackEntry) -> str:
    plan = entry.plan
    if entry.routing is not None:
        prefix, tails = plan.shape.num_prefix_tokens, entry.routing.tails
        ranges = {site: (tails[0].num_keep[site] + prefix, tails[-1].num_keep[site] + prefix) for site in plan.sites}
        return ", ".join(f"{low} to {high} from block {site}" for site, (low, high) in ranges.items()) + ", by image"
    sites = ", ".join(f"{count} from block {block}" for block, count in plan.sites.items())
    return sites or f"all {plan.shape.num_tokens}"


def _units(plan: PruningPlan) -> str:
    return f"{sum(hidden_units(plan)):,} of {plan.shape.depth * plan.shape.mlp_hidden_dim:,}"


def _by_table(plan: PruningPlan, value: float | None, unit: str) -> str | None:
    if value is None:
        return None
    return f"{_digits(value)} {unit}{', extrapolated' if plan.extrapolated else ''}"


def _loss(entry: PackEntry) -> list[str | None]:
    plan, measured, agreeing = entry.plan, NOT_MEASURED, NOT_MEASURED
    if plan.check is not None:
        loss, error, count = plan.check.loss_nats, plan.check.loss_stderr_nats, plan.check.images.num_images
        measured = f"{_digits(loss)} ± {_digits(error)} on {count:,} images"
        agreeing = f"{plan.check.num_agreeing:,} of {count:,}, {_share(plan.check.agreement)}"
    price = None if plan.nats_per_percent is None else _digits(plan.nats_per_percent)
    return [entry.name, plan.scorer, _predicted(plan), measured, agreeing, _chosen_by(plan.chosen_by), price]


def _predicted(plan: PruningPlan) -> str:
    loss, error = plan.predicted_loss_nats, plan.predicted_loss_stderr_nats
    if loss is None:
        return f"none: scorer {plan.scorer} ranks"
    origin = "from scores alone"
    if plan.decided_on is not None:
        origin = f"measured on the {plan.decided_on.num_images:,} images that chose it among those found on others"
    elif plan.refined_on is not None:
        origin = f"measured on the {plan.refined_on.num_images:,} images it was made on"
    return f"{_digits(loss)}{'' if error is None else f' ± {_digits(error)}'}, {origin}"


def _chosen_by(name: str | None) -> str:
    if name is None:
        return NOT_MEASURED
    return "the scores, taken again at each site" if name == "scores" else f"gate {name}"


def _graph(entry: PackEntry) -> list[str]:
    parity = entry.parity
    error = parity.max_abs_error / parity.logit_scale if parity.logit_scale else parity.max_abs_error
    return [
        entry.name,
        _gate(entry),
        OTHER_TOKENS[entry.reduction] if entry.plan.sites else "none: every token stays",
        _digits(error),
        f"{parity.num_images - parity.kept_token_mismatches} of {parity.num_images} images",
    ]


def _gate(entry: PackEntry) -> str:
    if entry.gate_macs is None:
        return entry.gate or "none"
    return f"{entry.gate}, {_share(entry.gate_macs / entry.plan.dense_macs)} of the dense MACs"


def _share(share: float | None) -> str | None:
    return None if share is None else f"{_digits(100 * share)} {SHARE}"


def _digits(value: float) -> str:
    return number_text(value, decimals_for(value))
