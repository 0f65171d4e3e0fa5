"""Images that are known but not decoded yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Listing:
    """Images in a fixed order, decoded one at a time when asked for, so that memory does not grow with their number.

    Attributes:
        name: Last part of the path that the user gave.
        num_images: Images listed, at least one.
        labels: Class index of each image, shape (num_images,), none negative; None without labels.
        classes: Class names in index order, or empty where unknown.
        decode: Maps a position to the image, RGB, shape (H, W, 3); an image that cannot be decoded is an InputError.
    """

    name: str
    num_images: int
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    decode: Callable[[int], NDArray[np.uint8]]
