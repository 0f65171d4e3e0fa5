"""What every chart shares: the frame and the axes.

A chart is drawn 480 pixels wide and scaled by the page. On a phone it is about 340 pixels wide, where the style sheet
enlarges its text to 15 pixels of the drawing: margins and labels are laid out for that size.
"""

from __future__ import annotations

from dataclasses import dataclass

from heartvit_edge.report.markup import Markup, element, escaped
from heartvit_edge.report.scale import Scale, tick_texts, ticks

CHARACTER_PX = 9.5
"""Width of a character of the largest label text, in pixels of the drawing."""

LINE_PX = 17
"""Height of a line of the largest label text, in pixels of the drawing."""


@dataclass(frozen=True)
class Frame:
    """The drawing and the plot area inside it, in pixels.

    Attributes:
        width: Of the drawing.
        height: Of the drawing.
        left: Margin that holds the labels of the y axis.
        right: Margin.
        top: Margin that holds the title of the y axis.
        bottom: Margin that holds labels and title of the x axis.
    """

    width: float = 480
    height: float = 320
    left: float = 64
    right: float = 16
    top: float = 34
    bottom: float = 52

    def x(self, low: float, high: float) -> Scale:
        """Return the rightward scale over the plot area."""
        return Scale(low, high, self.left, self.width - self.right)

    def y(self, low: float, high: float) -> Scale:
        """Return the upward scale over the plot area."""
        return Scale(low, high, self.height - self.bottom, self.top)


def labelled_ticks(scale: Scale, most: int = 6) -> dict[float, str]:
    """Return round values of the scale with their texts."""
    values = ticks(scale.low, scale.high, most)
    return dict(zip(values, tick_texts(values), strict=True))


def axes(
    frame: Frame, x: Scale, y: Scale, x_title: str, y_title: str, x_ticks: dict[float, str], y_ticks: dict[float, str]
) -> Markup:
    """Return grid lines, tick labels and the titles of both axes, the y title above its axis."""
    parts = []
    bottom, right = frame.height - frame.bottom, frame.width - frame.right
    for value, text in y_ticks.items():
        parts.append(element("line", class_="grid", x1=frame.left, y1=y(value), x2=right, y2=y(value)))
        parts.append(element("text", escaped(text), class_="tick", x=frame.left - 8, y=y(value) + 4, text_anchor="end"))
    for value, text in x_ticks.items():
        parts.append(element("line", class_="grid", x1=x(value), y1=frame.top, x2=x(value), y2=bottom))
        parts.append(element("text", escaped(text), class_="tick", x=x(value), y=bottom + 18, text_anchor="middle"))
    parts.append(element("line", class_="axis", x1=frame.left, y1=bottom, x2=right, y2=bottom))
    parts.append(element("text", escaped(y_title), class_="axis-title", x=4, y=16))
    parts.append(element("text", escaped(x_title), class_="axis-title", x=right, y=frame.height - 8, text_anchor="end"))
    return element("g", *parts, class_="axes")


def drawing(frame: Frame, label: str, *parts: Markup, class_: str = "chart") -> Markup:
    """Return the SVG; ``label`` says in words what it shows."""
    return element(
        "svg",
        *parts,
        class_=class_,
        viewBox=f"0 0 {frame.width:g} {frame.height:g}",
        role="img",
        aria_label=label,
    )
