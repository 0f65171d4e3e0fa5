"""scikit-learn's handwritten digits: 1,797 real images that come with the package, for a demo without a download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.spec.files import new_file, refuse_existing

NUM_TEST = 500
CLASSES = tuple(str(digit) for digit in range(10))

_SPLIT_SEED = 0


def split_digits() -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Return the digits under ``train`` (1,297) and ``test`` (500): the same split each time, stratified by class.

    Returns:
        For each part the images, RGB, shape (N, 8, 8, 3), and the labels 0 to 9, shape (N,).

    Source:
        Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8); the data set counts 0 to 16
    images = np.repeat(grey[..., None], 3, axis=3)
    labels = bunch.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=NUM_TEST, stratify=labels, random_state=_SPLIT_SEED
    )
    return {name: (images[np.sort(part)], labels[np.sort(part)]) for name, part in (("train", train), ("test", test))}


def write_digits(folder: Path, *, force: bool = False) -> tuple[Path, Path]:
    """Write ``digits_train.npz`` and ``digits_test.npz`` with images, labels and classes; return their paths.

    Raises:
        InputError: If a file exists and ``force`` is not set, or the folder cannot be written.
    """
    paths = {name: folder / f"digits_{name}.npz" for name in ("train", "test")}
    for path in paths.values():
        refuse_existing(path, force=force)
    for name, (images, labels) in split_digits().items():
        with new_file(paths[name], force=force) as temporary:
            np.savez_compressed(temporary, images=images, labels=labels, classes=np.array(CLASSES))
    return paths["train"], paths["test"]
