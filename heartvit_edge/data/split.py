"""Disjoint parts of one image set: what is scored, and what the scores are checked on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.data.images import ImageSet, subset
from heartvit_edge.data.listing import Listing
from heartvit_edge.errors import InputError


def split(images: ImageSet, num_first: int, seed: int) -> tuple[ImageSet, ImageSet | None]:
    """Draw ``num_first`` images and return them and the rest, each in the original order.

    Args:
        images: What to split.
        num_first: Images of the first part, 1 to len(images).
        seed: Seed of the draw, at least 0.

    Returns:
        The two parts; the second is None where nothing is left.

    Raises:
        InputError: If ``num_first`` is out of range.
    """
    if not 1 <= num_first <= len(images):
        raise InputError(
            f"{num_first} images were asked for, {images.name} has {len(images)}",
            hint=f"ask for 1 to {len(images)}: --num-images {len(images)}",
        )
    order = np.random.default_rng(seed).permutation(len(images))
    first, second = np.sort(order[:num_first]), np.sort(order[num_first:])
    if not len(second):
        return images, None
    return _take(images, first, seed), _take(images, second, seed)


def _take(images: ImageSet, chosen: NDArray[np.int64], seed: int) -> ImageSet:
    """Return the images at those positions."""
    part = Listing(
        name=images.name,
        num_images=len(chosen),
        labels=None if images.labels is None else images.labels[chosen],
        classes=images.classes,
        decode=lambda index: images.read(int(chosen[index])),
    )
    return replace(subset(part, None, 0), seed=seed)
