"""HTML and SVG text whose every foreign part has been escaped, which the type ``Markup`` keeps apart from ``str``."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import NewType

Markup = NewType("Markup", str)

_VOID = frozenset({"br", "img", "meta", "path", "line", "rect", "circle", "polyline", "polygon", "image", "use"})


def escaped(text: object) -> Markup:
    """Return the text with ``& < > " '`` replaced by their entities."""
    return Markup(html.escape(str(text)))


def joined(parts: Iterable[Markup], between: str = "") -> Markup:
    """Return the parts one after another; ``between`` is escaped."""
    return Markup(html.escape(between).join(parts))


def number(value: float) -> str:
    """Return a coordinate with at most two decimals and no trailing zero."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def element(tag: str, *children: Markup, **attributes: str | float | None) -> Markup:
    """Return one element.

    Args:
        tag: Its name.
        children: What it holds, escaped already.
        attributes: Values to be escaped; None leaves the attribute out. ``class_`` is written ``class`` and
            ``aria_label`` is written ``aria-label``.
    """
    written = ""
    for name, value in attributes.items():
        if value is not None:
            shown = value if isinstance(value, str) else number(value)
            written += f' {name.rstrip("_").replace("_", "-")}="{html.escape(shown)}"'
    if tag in _VOID and not children:
        return Markup(f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{joined(children)}</{tag}>")
