"""The bundled digits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from heartvit_edge.data.digits import split_digits, write_digits
from heartvit_edge.data.images import load_images
from heartvit_edge.errors import InputError


def test_the_parts_together_are_scikit_learns_digits_each_once():
    bunch = load_digits()
    parts = split_digits().values()
    found = sorted(
        (image[..., 0].tobytes(), label)
        for images, labels in parts
        for image, label in zip(images, labels, strict=True)
    )
    grey = (bunch.images / 16 * 255).round().astype(np.uint8)
    assert found == sorted((image.tobytes(), label) for image, label in zip(grey, bunch.target, strict=True))


def test_the_parts_have_their_sizes_and_each_class_its_share():
    train, test = split_digits().values()
    assert (train[0].shape, test[0].shape) == ((1297, 8, 8, 3), (500, 8, 8, 3))
    share = np.bincount(test[1]) / np.bincount(np.concatenate([train[1], test[1]]))
    np.testing.assert_allclose(share, 500 / 1797, atol=1 / 170)  # within one image a class


def test_the_digits_are_grey_and_use_the_whole_range():
    images = split_digits()["train"][0]
    assert (images == images[..., :1]).all()
    assert (images.min(), images.max()) == (0, 255)


def test_the_written_files_read_back_as_the_same_image_sets_each_time(tmp_path):
    refs = []
    for folder in ("one", "two"):
        train, test = (load_images(path) for path in write_digits(tmp_path / folder))
        assert train.classes == test.classes == tuple("0123456789")
        refs.append((train.ref(), test.ref()))
    assert refs[0] == refs[1]
    np.testing.assert_array_equal(train.labels, split_digits()["train"][1])


def test_existing_digits_are_kept_unless_forced(tmp_path):
    (tmp_path / "digits_test.npz").write_text("mine")
    with pytest.raises(InputError, match=r"digits_test\.npz exists already"):
        write_digits(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["digits_test.npz"]
    assert (tmp_path / "digits_test.npz").read_text() == "mine"
    write_digits(tmp_path, force=True)
    assert len(load_images(tmp_path / "digits_test.npz")) == 500
