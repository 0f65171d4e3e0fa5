"""Sections, captioned figures and the grid that they stand in."""

from __future__ import annotations

from heartvit_edge.report.markup import Markup, element, escaped


def section(name: str, heading: str, *body: Markup, intro: str = "") -> Markup:
    """Return one section of the page; ``name`` is its anchor."""
    lead = (element("p", escaped(intro), class_="intro"),) if intro else ()
    return element("section", element("h2", escaped(heading)), *lead, *body, id=name)


def missing(words: str) -> Markup:
    """Return the paragraph that stands where there is nothing to draw."""
    return element("p", escaped(words), class_="missing")


def cards(*figures: Markup) -> Markup:
    """Return figures side by side where there is room."""
    return element("div", *figures, class_="cards")


def figure(title: str, *body: Markup, note: str = "", class_: str = "card") -> Markup:
    """Return a captioned figure: a title above, the body, and a note beneath."""
    caption = element("figcaption", element("h3", escaped(title)))
    notes = (element("p", escaped(note), class_="note"),) if note else ()
    return element("figure", caption, *body, *notes, class_=class_)


def scrolled(content: Markup, label: str) -> Markup:
    """Return the content in a box that scrolls sideways where it does not fit, by keyboard too."""
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)
