"""timm's evaluation preprocessing in Pillow and numpy, so that a board prepares images exactly as the host did."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from heartvit_edge.spec.model import Preprocessing

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


def preprocess_one(image: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return one image as the model's input.

    Args:
        image: RGB, shape (H, W, 3), values 0 to 255.
        preprocessing: What ``timm.data.create_transform(is_training=False)`` was configured with; the result equals
            that transform's.

    Returns:
        Shape (3, S, S) with S = ``preprocessing.img_size``, normalised.
    """
    height, width = image.shape[:2]
    scaled = math.floor(preprocessing.img_size / preprocessing.crop_pct)
    fill = (0, 0, 0)
    if preprocessing.crop_mode == "squash":
        size = (scaled, scaled)
    elif preprocessing.crop_mode == "border":
        ratio = max(height / scaled, width / scaled)
        size = (round(width / ratio), round(height / ratio))
        red, green, blue = preprocessing.mean
        fill = (round(255 * red), round(255 * green), round(255 * blue))
    else:
        short = min(height, width)
        size = (int(scaled * width / short), int(scaled * height / short))
    resized = Image.fromarray(image).resize(size, _FILTERS[preprocessing.interpolation])
    square = _centre(resized, preprocessing.img_size, fill)
    pixels = np.asarray(square).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    mean = np.array(preprocessing.mean, dtype=np.float32).reshape(3, 1, 1)
    std = np.array(preprocessing.std, dtype=np.float32).reshape(3, 1, 1)
    return np.ascontiguousarray((pixels - mean) / std)


def _centre(image: Image.Image, side: int, fill: tuple[int, int, int]) -> Image.Image:
    """Return the middle square, padded with ``fill`` where the image is smaller; a spare pixel goes right and below."""
    across, down = max(side - image.width, 0), max(side - image.height, 0)
    if across or down:
        image = ImageOps.expand(image, (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2), fill)
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def preprocess(
    images: Iterable[NDArray[np.uint8]], preprocessing: Preprocessing, batch_size: int
) -> Iterator[NDArray[np.float32]]:
    """Yield batches of the model's input in order, decoding no more than one batch ahead.

    Args:
        images: An image set, or any images of shape (H, W, 3) each.
        preprocessing: See ``preprocess_one``.
        batch_size: Images a batch, at least one.

    Yields:
        Shape (B, 3, S, S); B is ``batch_size``, or less in the last batch.

    Raises:
        ValueError: If ``batch_size`` is below one.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}")
    batch: list[NDArray[np.float32]] = []
    for image in images:
        batch.append(preprocess_one(image, preprocessing))
        if len(batch) == batch_size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def denormalise_to_uint8(inputs: NDArray[np.float32], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return the pictures that became these inputs: the squares before normalisation.

    Args:
        inputs: Shape (3, S, S) or (B, 3, S, S).
        preprocessing: How they were made.

    Returns:
        RGB, shape (S, S, 3) or (B, S, S, 3).
    """
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    pixels = np.rint((inputs * std + mean) * 255).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(pixels, -3, -1))
