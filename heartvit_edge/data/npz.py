"""An npz file of images: ``images`` (N, H, W, 3) uint8, optional ``labels`` (N,), optional ``classes`` (names)."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.data.listing import Listing
from heartvit_edge.errors import InputError

_HINT = (
    "write it with: numpy.savez_compressed('images.npz', images=..., labels=..., classes=...); "
    "images is (N, H, W, 3) uint8, labels and classes are optional"
)


def read_npz(path: Path, classes: Sequence[str]) -> Listing:
    """Return the images of an npz file; pickled content is refused, never loaded.

    Args:
        path: The file.
        classes: Class names in index order, which the file's own must equal where both are there.

    Raises:
        InputError: If the file cannot be read, or an array has a wrong name, type, shape or content.
    """
    arrays = _load(path)
    images = arrays["images"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
        raise InputError(
            f"'images' of {path} is {images.dtype} of shape {images.shape}, expected uint8 of shape (N, H, W, 3)",
            hint=_HINT,
        )
    names = _names(path, arrays.get("classes"), classes)
    labels = None if "labels" not in arrays else _labels(path, arrays["labels"], len(images), names)
    return Listing(path.resolve().name, len(images), labels, names, lambda index: np.array(images[index]))


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as opened:  # numpy alone leaves a damaged file open
            found = np.load(opened, allow_pickle=False)
            if not isinstance(found, np.lib.npyio.NpzFile):
                raise InputError(f"{path} holds one bare array, expected an npz archive", hint=_HINT)
            if "images" not in found.files:
                held = ", ".join(found.files) or "no array"
                raise InputError(f"{path} holds {held}, expected an array 'images'", hint=_HINT)
            return {name: found[name] for name in ("images", "labels", "classes") if name in found.files}
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror or err}") from err
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as err:
        raise InputError(f"{path} is not an npz file of plain arrays: {err}", hint=_HINT) from err


def _names(path: Path, found: NDArray[Any] | None, expected: Sequence[str]) -> tuple[str, ...]:
    if found is None:
        return tuple(expected)
    if found.ndim != 1 or found.dtype.kind != "U":
        raise InputError(f"'classes' of {path} is {found.dtype} of shape {found.shape}, expected a list of names")
    names = tuple(str(name) for name in found)
    if expected and names != tuple(expected):
        raise InputError(
            f"the classes of {path} are {', '.join(names[:10])} ({len(names)}), "
            f"expected {', '.join(expected[:10])} ({len(expected)})"
        )
    return names


def _labels(path: Path, found: NDArray[Any], num_images: int, classes: tuple[str, ...]) -> NDArray[np.int64]:
    if found.dtype.kind not in "iu" or found.shape != (num_images,):
        raise InputError(
            f"'labels' of {path} is {found.dtype} of shape {found.shape}, expected integers of shape ({num_images},)",
            hint=_HINT,
        )
    labels = found.astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes) if classes else False))
    if wrong.size:
        expected = f"0 to {len(classes) - 1}, the file's classes" if classes else "0 or more"
        raise InputError(f"'labels' of {path} holds {labels[wrong[0]]} at position {wrong[0]}, expected {expected}")
    return labels
