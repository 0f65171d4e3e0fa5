"""Image sets: where images come from, which of them are used, and the hash that names them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.data.folder import list_folder
from heartvit_edge.data.listing import Listing
from heartvit_edge.data.npz import read_npz
from heartvit_edge.errors import InputError
from heartvit_edge.spec.files import sha256_bytes
from heartvit_edge.spec.model import ImageSetRef

MAX_UNREADABLE = 0.05


@dataclass(frozen=True, eq=False)
class ImageSet(Listing):
    """Images each of which has been decoded once: a listing whose hash is known.

    Attributes:
        sha256: Hash over the SHA-256 of every image's shape and pixels, in order.
        seed: Seed of the draw; None where every image is used in order.
    """

    sha256: str
    seed: int | None

    def __len__(self) -> int:
        """Return the number of images."""
        return self.num_images

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Decode the images one after the other."""
        return (self.read(index) for index in range(len(self)))

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return one image, RGB, shape (H, W, 3).

        Raises:
            InputError: If the file has vanished or changed since it was first decoded.
            IndexError: If ``index`` is not in 0 .. len - 1.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside the {len(self)} images of {self.name}")
        return self.decode(index)

    def ref(self) -> ImageSetRef:
        """Return the name, number and hash that an artefact keeps of these images."""
        return ImageSetRef(
            name=self.name,
            num_images=len(self),
            sha256=self.sha256,
            labelled=self.labels is not None,
            seed=self.seed,
        )


def load_images(
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    num_images: int | None = None,
    seed: int = 0,
    warn: Callable[[str], None] = warnings.warn,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Return the images of a folder with one subfolder a class, of a flat unlabelled folder, or of an npz file.

    Args:
        path: The folder or npz file.
        classes: The model's class names where they are known: subfolders are then matched by name, and need not all
            be there. Without them a class index is the position among the sorted subfolders.
        num_images: Draw that many; only those are decoded. None takes all.
        seed: Seed of the draw.
        warn: Told once which images could not be decoded and were left out.
        progress: Told (images decoded, images wanted) as images are checked.

    Raises:
        InputError: If there is no such path or no image, the npz content is not as expected, fewer images can be
            decoded than asked for, or more than 5 % of those tried cannot.
    """
    return subset(list_images(path, classes=classes, warn=warn), num_images, seed, warn=warn, progress=progress)


def list_images(
    path: Path, *, classes: Sequence[str] | None = None, warn: Callable[[str], None] = warnings.warn
) -> Listing:
    """Return what ``load_images`` draws from, without decoding anything.

    Raises:
        InputError: If there is no such path or no image, or the npz content is not as expected.
    """
    if path.is_dir():
        return list_folder(path, classes or (), warn)
    if path.is_file() and path.suffix.lower() == ".npz":
        return read_npz(path, classes or ())
    found = f"{path} is neither a folder nor an npz file" if path.exists() else f"there is no {path}"
    raise InputError(found, hint="name a folder of images (one subfolder a class, or flat), or an .npz file")


def subset(
    images: Listing,
    num_images: int | None,
    seed: int,
    *,
    skip: int = 0,
    warn: Callable[[str], None] = warnings.warn,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Draw images without replacement and keep them in their original order.

    Every drawn image is decoded once, for its hash; one that cannot be decoded is replaced by the next of the draw.

    Args:
        images: What to draw from.
        num_images: Images to draw; None takes all that are not skipped.
        seed: Seed of the draw, at least 0; the same seed over the same listing draws the same images.
        skip: Images at the start of the draw to pass over: those that a draw of that many with the same seed has. They
            are decoded too, for one that cannot be is no image of either draw.
        warn: Told once which images could not be decoded and were left out.
        progress: Told (images decoded, images wanted) after each.

    Raises:
        InputError: If ``num_images`` or ``seed`` is out of range, fewer images can be decoded than asked for, or more
            than 5 % of those tried cannot.
    """
    left = max(images.num_images - skip, 0)
    wanted = left if num_images is None else num_images
    if not 1 <= wanted <= left:
        raise InputError(
            f"{wanted} images were asked for, {images.name} has {left}{' left' if skip else ''}",
            hint=f"ask for 1 to {left}: --num-images {left}" if left else "give more images",
        )
    if seed < 0:
        raise InputError(f"the seed must be 0 or more, found {seed}", hint="--seed 0")
    drawn = wanted < images.num_images
    order = np.random.default_rng(seed).permutation(images.num_images) if drawn else np.arange(images.num_images)
    digests, unreadable = _decode_in_order(images, order, skip + wanted, progress)
    if unreadable:
        warn(f"left out {len(unreadable)} of {len(unreadable) + len(digests)} images: {_first(unreadable)}")
    if num_images is not None and len(digests) < skip + num_images:
        raise InputError(
            f"{skip + num_images} images were asked for, {len(digests)} of {images.name} can be decoded",
            hint=f"--num-images {len(digests)}",
        )
    kept = sorted(list(digests)[skip:])  # in the order of the draw so far
    return ImageSet(
        name=images.name,
        num_images=len(kept),
        labels=None if images.labels is None else images.labels[kept],
        classes=images.classes,
        decode=lambda index: images.decode(kept[index]),
        sha256=sha256_bytes(*(digests[index] for index in kept)),
        seed=seed if drawn else None,
    )


def _decode_in_order(
    images: Listing, order: NDArray[np.int64], wanted: int, progress: Callable[[int, int], None] | None
) -> tuple[dict[int, bytes], list[str]]:
    """Decode along ``order`` until ``wanted`` images are there; return their digests by position, and the failures."""
    digests: dict[int, bytes] = {}
    unreadable: list[str] = []
    for index in order.tolist():
        if len(digests) == wanted:
            break
        try:
            pixels = images.decode(index)
        except InputError as err:
            unreadable.append(str(err))
            tried = min(wanted + len(unreadable), len(order))  # at the end, if no other fails
            if len(unreadable) > MAX_UNREADABLE * tried:
                raise InputError(
                    f"more than {MAX_UNREADABLE:.0%} of {images.name} cannot be decoded: {_first(unreadable)}",
                    hint="remove or replace the damaged files",
                ) from err
            continue
        digest = hashlib.sha256(repr(pixels.shape).encode())
        digest.update(pixels.tobytes())
        digests[index] = digest.digest()
        if progress is not None:
            progress(len(digests), wanted)
    return digests, unreadable


def _first(messages: list[str], count: int = 3) -> str:
    more = len(messages) - count
    return "; ".join(messages[:count]) + (f"; and {more} more" if more > 0 else "")


def check_labels(images: Listing, num_classes: int) -> None:
    """Return only if every label is one of the model's classes; images without labels pass.

    Raises:
        InputError: If a label is ``num_classes`` or more; the message names it.
    """
    if images.labels is None or (largest := int(images.labels.max())) < num_classes:
        return
    named = f" ({images.classes[largest]})" if largest < len(images.classes) else ""
    raise InputError(
        f"{images.name} holds label {largest}{named}, the model has {num_classes} classes: 0 to {num_classes - 1}",
        hint="check that the data belongs to this model; with a folder, each subfolder counts as one class",
    )
