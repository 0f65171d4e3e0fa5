"""A grid with a column a block and a row a head, which several drawings fill in."""

from __future__ import annotations

from dataclasses import dataclass

from heartvit_edge.report.markup import Markup, element, escaped

LEFT, TOP, BOTTOM, WIDTH = 54.0, 26.0, 26.0, 480.0
MOST_BLOCKS_LABELLED = 14


@dataclass(frozen=True)
class HeadGrid:
    """The squares of a model's heads, and the numbers beside them.

    Attributes:
        depth: Blocks.
        num_heads: Heads of a block.
    """

    depth: int
    num_heads: int

    @property
    def cell(self) -> float:
        """Side of a square with its margin, in pixels."""
        return min((WIDTH - LEFT - 8) / self.depth, 34.0)

    @property
    def height(self) -> float:
        """Height of grid and labels, in pixels."""
        return TOP + self.cell * self.num_heads + BOTTOM

    def labels(self) -> list[Markup]:
        """Return the titles of both axes and the numbers of blocks and heads."""
        parts = [
            element("text", escaped("head"), class_="axis-title", x=4, y=15),
            element("text", escaped("block"), class_="axis-title", x=4, y=self.height - 8),
        ]
        for block in range(0, self.depth, 1 + (self.depth - 1) // MOST_BLOCKS_LABELLED):
            x = LEFT + self.cell * (block + 0.5)
            parts.append(element("text", escaped(block), class_="tick", x=x, y=self.height - 8, text_anchor="middle"))
        for head in range(0, self.num_heads, 1 + int(18 // self.cell)):
            y = TOP + self.cell * (head + 0.5) + 4
            parts.append(element("text", escaped(head), class_="tick", x=LEFT - 8, y=y, text_anchor="end"))
        return parts

    def square(self, block: int, head: int, words: str, class_: str, opacity: float | None = None) -> Markup:
        """Return one head's square; ``words`` are shown where the pointer rests on it."""
        return element(
            "rect",
            element("title", escaped(f"block {block}, head {head}: {words}")),
            class_=class_,
            fill_opacity=opacity,
            x=LEFT + self.cell * block + 1.5,
            y=TOP + self.cell * head + 1.5,
            width=self.cell - 3,
            height=self.cell - 3,
            rx=min(3.0, self.cell / 6),
        )
