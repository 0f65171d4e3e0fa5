"""Which attention heads a plan keeps, block by block."""

from __future__ import annotations

from heartvit_edge.report.chart import Frame, drawing
from heartvit_edge.report.head_grid import HeadGrid
from heartvit_edge.report.markup import Markup, element
from heartvit_edge.report.palette import Series
from heartvit_edge.spec.plan import PruningPlan


def heads_map(series: Series, plan: PruningPlan) -> Markup:
    """Return a grid with a column a block and a row a head; kept heads are filled, removed ones are hollow."""
    depth, num_heads = plan.shape.depth, plan.shape.num_heads
    grid = HeadGrid(depth, num_heads)
    parts = grid.labels()
    for block, kept in enumerate(plan.blocks):
        cells = []
        for head in range(num_heads):
            stays = head in kept.kept_heads
            class_ = f"head {series.colour}" if stays else "head removed"
            cells.append(grid.square(block, head, "kept" if stays else "removed", class_))
        parts.append(element("g", *cells))
    removed = sum(num_heads - len(block.kept_heads) for block in plan.blocks)
    label = f"Heads kept by {series.name}: {removed} of {depth * num_heads} removed"
    return drawing(Frame(height=grid.height), label, *parts)
