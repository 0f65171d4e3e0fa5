"""Which patches of an image an entry keeps, drawn over the image."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.report.markup import Markup, element, escaped

LIGHTEST, DARKEST = 0.5, 0.86
"""Opacity of the veil over patches dropped at the last site, and at the first of several."""

Kept = Sequence[tuple[int, Sequence[int]]]
"""(block, patches kept from it on) for each site, in block order."""


def dropped_before(kept: Kept, num_patches: int) -> dict[int, tuple[int, ...]]:
    """Map each site's block to the patches dropped there, ascending: those of the site before and not of it."""
    present, found = set(range(num_patches)), {}
    for block, patches in sorted(kept):
        found[block] = tuple(sorted(present - set(patches)))
        present &= set(patches)
    return found


def veil_opacities(num_sites: int) -> tuple[float, ...]:
    """Return the opacity for each site in block order: what survives longer is veiled less."""
    if num_sites == 1:
        return (0.72,)
    step = (DARKEST - LIGHTEST) / (num_sites - 1)
    return tuple(DARKEST - step * index for index in range(num_sites))


def outline(patches: Sequence[int], grid_size: int) -> str:
    """Return the SVG path of the edges between the given patches and all others; one patch is one unit wide."""
    inside, path = set(patches), ""
    for patch in sorted(inside):
        row, column = divmod(patch, grid_size)
        if row == 0 or patch - grid_size not in inside:
            path += f"M{column} {row}h1"
        if row == grid_size - 1 or patch + grid_size not in inside:
            path += f"M{column} {row + 1}h1"
        if column == 0 or patch - 1 not in inside:
            path += f"M{column} {row}v1"
        if column == grid_size - 1 or patch + 1 not in inside:
            path += f"M{column + 1} {row}v1"
    return path


def patch_map(image_id: str, label: str, kept: Kept, grid_size: int, colour: str) -> Markup:
    """Return the image with dropped patches under a veil and the finally kept ones outlined.

    Args:
        image_id: Id of an SVG image of side ``grid_size`` elsewhere on the page.
        label: What the map shows, in words.
        kept: Patches kept at each site; empty where nothing is dropped.
        grid_size: Patches along one side.
        colour: Class of the outline's colour.
    """
    parts = [element("use", href=f"#{image_id}")]
    dropped = dropped_before(kept, grid_size**2)
    for (block, patches), opacity in zip(dropped.items(), veil_opacities(len(dropped)), strict=True):
        path = "".join(f"M{patch % grid_size} {patch // grid_size}h1v1h-1z" for patch in patches)
        title = element("title", escaped(f"{len(patches)} patches dropped before block {block}"))
        parts.append(element("path", title, class_="veil", fill_opacity=opacity, d=path))
    if kept:
        final = max(kept)[1]
        parts.append(element("path", class_=f"kept-outline {colour}", d=outline(final, grid_size)))
    return element(
        "svg", *parts, class_="patches", viewBox=f"0 0 {grid_size} {grid_size}", role="img", aria_label=label
    )


def shared_images(images: Sequence[tuple[str, str]], grid_size: int) -> Markup:
    """Return an invisible drawing that holds each (id, PNG in base 64) once, for ``patch_map`` to use."""
    held = [
        element(
            "image",
            id=name,
            href=f"data:image/png;base64,{png}",
            width=grid_size,
            height=grid_size,
            class_="pixels",
            preserveAspectRatio="none",
        )
        for name, png in images
    ]
    return element("svg", element("defs", *held), class_="held", aria_hidden="true", width=0, height=0)
