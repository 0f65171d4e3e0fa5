"""How many tokens enter each block."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.report.chart import Frame, axes, drawing, labelled_ticks
from heartvit_edge.report.markup import Markup, element, escaped
from heartvit_edge.report.palette import Series
from heartvit_edge.spec.plan import PruningPlan

FRAME = Frame()
MOST_BLOCKS_LABELLED = 14


def tokens_plot(plans: Sequence[tuple[Series, PruningPlan]]) -> Markup:
    """Return one step line a plan over the blocks; the plans are of one model."""
    shape = plans[0][1].shape
    x = FRAME.x(-0.5, shape.depth - 0.5)
    y = FRAME.y(0.0, 1.06 * shape.num_tokens)
    every = 1 + (shape.depth - 1) // MOST_BLOCKS_LABELLED
    x_ticks = {float(block): str(block) for block in range(0, shape.depth, every)}
    parts = [axes(FRAME, x, y, "block", "tokens entering attention, prefix included", x_ticks, labelled_ticks(y))]
    for series, plan in plans:
        path = ""
        for block, kept in enumerate(plan.blocks):
            path += f"{'V' if path else f'M{x(-0.5):.2f} '}{y(kept.num_tokens):.2f}H{x(block + 0.5):.2f}"
        sites = ", ".join(f"{count} from block {block}" for block, count in plan.sites.items())
        words = f"{series.name}: {shape.num_tokens} tokens" + (f", then {sites}" if sites else " in every block")
        parts.append(
            element(
                "path",
                element("title", escaped(words)),
                class_=f"line {series.colour}",
                stroke_dasharray=series.dash,
                d=path,
            )
        )
    label = "Tokens per block: " + "; ".join(
        f"{series.name} ends with {plan.blocks[-1].num_tokens}" for series, plan in plans
    )
    return drawing(FRAME, label, *parts)
