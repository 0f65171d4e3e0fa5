"""An image folder: one subfolder a class as torchvision's ImageFolder reads it, or flat and without labels."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heartvit_edge.data.listing import Listing
from heartvit_edge.errors import InputError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# What Pillow's decoders raise on damaged bytes; UnidentifiedImageError is an OSError.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def list_folder(path: Path, classes: Sequence[str], warn: Callable[[str], None]) -> Listing:
    """List the images of a folder without opening them.

    With class subfolders, images are searched below each of them to any depth, and a label is the position of the
    subfolder's name in ``classes``, or among the sorted names where ``classes`` is empty. Without, the folder's own
    images are listed in the order of their names, unlabelled.

    Args:
        path: The folder.
        classes: Class names in index order; may name more classes than the folder has.
        warn: Told of images that lie beside class subfolders, which are left out.

    Raises:
        InputError: If the folder cannot be read or holds no image, or a subfolder holds none or is not in ``classes``.
    """
    try:
        entries = sorted(path.iterdir())
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}") from err
    loose = [entry for entry in entries if entry.is_file() and _is_image(entry.name)]
    found = {entry.name: _images_below(entry) for entry in entries if entry.is_dir()}
    if not any(found.values()):
        if not loose:
            raise InputError(
                f"{path} holds no image, neither in itself nor in class subfolders",
                hint=f"images are files that end in {', '.join(SUFFIXES)}",
            )
        return _listing(path, loose, None, tuple(classes))
    if empty := [name for name, files in found.items() if not files]:
        raise InputError(
            f"the class folder {path / empty[0]} holds no image ({len(empty)} of {len(found)} are empty)",
            hint="remove the empty folders if they are no classes; class indices follow the sorted folder names",
        )
    if loose:
        warn(f"left out {len(loose)} images that lie beside the class folders of {path}, such as {loose[0].name}")
    names = tuple(classes) or tuple(found)
    if unknown := [name for name in found if name not in names]:
        raise InputError(
            f"{path} holds a folder {unknown[0]!r}, expected folders named after the {len(names)} classes: "
            f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
        )
    labels = [names.index(name) for name, files in found.items() for _ in files]
    files = [file for below in found.values() for file in below]
    return _listing(path, files, np.array(labels, dtype=np.int64), names)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _images_below(folder: Path) -> list[Path]:
    """Return the folder's images to any depth, in ImageFolder's order: by folder, then by name."""
    walk = sorted(os.walk(folder, followlinks=True))
    return [Path(root, name) for root, _, names in walk for name in sorted(names) if _is_image(name)]


def _listing(path: Path, files: list[Path], labels: NDArray[np.int64] | None, classes: tuple[str, ...]) -> Listing:
    return Listing(
        name=path.resolve().name,
        num_images=len(files),
        labels=labels,
        classes=classes,
        decode=lambda index: _decode(files[index]),
    )


def _decode(file: Path) -> NDArray[np.uint8]:
    """Return the image as RGB, shape (H, W, 3).

    As torchvision's loader does: converted to RGB (alpha is dropped), not turned by its EXIF orientation.

    Raises:
        InputError: If the file cannot be opened or decoded.
    """
    try:
        with Image.open(file) as image:
            return np.array(image.convert("RGB"))
    except _DECODE_ERRORS as err:
        raise InputError(f"cannot decode {file}: {err}") from err
