"""Which attention heads a plan keeps, block by block."""

from __future__ import annotations

from heartvit_edge.report.chart import Frame, drawing
from heartvit_edge.report.markup import Markup, element, escaped
from heartvit_edge.report.palette import Series
from heartvit_edge.spec.plan import PruningPlan

LEFT, TOP, WIDTH = 54.0, 26.0, 480.0
MOST_BLOCKS_LABELLED = 14


def heads_map(series: Series, plan: PruningPlan) -> Markup:
    """Return a grid with a column a block and a row a head; kept heads are filled, removed ones are hollow."""
    depth, num_heads = plan.shape.depth, plan.shape.num_heads
    cell = min((WIDTH - LEFT - 8) / depth, 34.0)
    height = TOP + cell * num_heads + 26
    every = 1 + (depth - 1) // MOST_BLOCKS_LABELLED
    parts = [element("text", escaped("head"), class_="axis-title", x=4, y=15)]
    for block in range(0, depth, every):
        x = LEFT + cell * (block + 0.5)
        parts.append(element("text", escaped(block), class_="tick", x=x, y=height - 8, text_anchor="middle"))
    parts.append(element("text", escaped("block"), class_="axis-title", x=4, y=height - 8))
    head_step = 1 + int(18 // cell)
    for head in range(0, num_heads, head_step):
        y = TOP + cell * (head + 0.5) + 4
        parts.append(element("text", escaped(head), class_="tick", x=LEFT - 8, y=y, text_anchor="end"))
    for block, kept in enumerate(plan.blocks):
        cells = []
        for head in range(num_heads):
            stays = head in kept.kept_heads
            cells.append(
                element(
                    "rect",
                    element("title", escaped(f"block {block}, head {head}: {'kept' if stays else 'removed'}")),
                    class_=f"head {series.colour}" if stays else "head removed",
                    x=LEFT + cell * block + 1.5,
                    y=TOP + cell * head + 1.5,
                    width=cell - 3,
                    height=cell - 3,
                    rx=min(3.0, cell / 6),
                )
            )
        parts.append(element("g", *cells))
    removed = sum(num_heads - len(block.kept_heads) for block in plan.blocks)
    label = f"Heads kept by {series.name}: {removed} of {depth * num_heads} removed"
    return drawing(Frame(height=height), label, *parts)
