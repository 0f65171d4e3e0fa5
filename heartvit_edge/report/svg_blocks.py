"""How many tokens enter each block, and how many MLP units each keeps."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.report.chart import Frame, axes, drawing, labelled_ticks
from heartvit_edge.report.markup import Markup, element, escaped
from heartvit_edge.report.palette import Series
from heartvit_edge.spec.plan import PruningPlan

FRAME = Frame()
MOST_BLOCKS_LABELLED = 14

Plans = Sequence[tuple[Series, PruningPlan]]


def tokens_plot(plans: Plans) -> Markup:
    """Return one step line a plan over the blocks; the plans are of one model."""
    shape = plans[0][1].shape
    lines = []
    for series, plan in plans:
        sites = ", ".join(f"{count} from block {block}" for block, count in plan.sites.items())
        words = f"{series.name}: {shape.num_tokens} tokens" + (f", then {sites}" if sites else " in every block")
        lines.append((series, words, [block.num_tokens for block in plan.blocks]))
    label = "Tokens per block: " + "; ".join(f"{series.name} ends with {counts[-1]}" for series, _, counts in lines)
    return _steps(lines, shape.num_tokens, "tokens entering attention, prefix included", label)


def units_plot(plans: Plans) -> Markup:
    """Return one step line a plan over the blocks: the MLP hidden units that stay; the plans are of one model."""
    shape = plans[0][1].shape
    lines = []
    for series, plan in plans:
        counts = hidden_units(plan)
        fewer = [f"{count:,} in block {block}" for block, count in enumerate(counts) if count < shape.mlp_hidden_dim]
        words = f"{series.name}: {', '.join(fewer)}, {shape.mlp_hidden_dim:,} in the others"
        lines.append((series, words, counts))
    label = "MLP units per block: " + "; ".join(
        f"{series.name} keeps {sum(counts):,} of {shape.depth * shape.mlp_hidden_dim:,}" for series, _, counts in lines
    )
    return _steps(lines, shape.mlp_hidden_dim, "MLP hidden units kept", label)


def hidden_units(plan: PruningPlan) -> list[int]:
    """Return the MLP hidden units that each block keeps."""
    whole = plan.shape.mlp_hidden_dim
    return [
        whole if block.kept_units is None else whole * len(block.kept_units) // plan.unit_groups
        for block in plan.blocks
    ]


def _steps(lines: Sequence[tuple[Series, str, Sequence[int]]], most: int, y_title: str, label: str) -> Markup:
    """Return step lines over the blocks.

    Args:
        lines: How each is drawn, its words, and its count in each block.
        most: Largest count that a block may have.
        y_title: What is counted.
        label: What the drawing shows, in words.
    """
    depth = len(lines[0][2])
    x = FRAME.x(-0.5, depth - 0.5)
    y = FRAME.y(0.0, 1.06 * most)
    every = 1 + (depth - 1) // MOST_BLOCKS_LABELLED
    x_ticks = {float(block): str(block) for block in range(0, depth, every)}
    parts = [axes(FRAME, x, y, "block", y_title, x_ticks, labelled_ticks(y))]
    for series, words, counts in lines:
        path = ""
        for block, count in enumerate(counts):
            path += f"{'V' if path else f'M{x(-0.5):.2f} '}{y(count):.2f}H{x(block + 0.5):.2f}"
        title = element("title", escaped(words))
        class_ = f"line {series.colour}"
        parts.append(element("path", title, class_=class_, stroke_dasharray=series.dash, d=path))
    return drawing(FRAME, label, *parts)
