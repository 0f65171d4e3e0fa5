"""Splitting an image set: two disjoint parts that together are the whole, each named by its own hash."""

from __future__ import annotations

import numpy as np
import pytest

from heartvit_edge.data.images import load_images
from heartvit_edge.data.split import split
from heartvit_edge.errors import InputError


@pytest.fixture
def pixels():
    """Ten images whose first value is their number."""
    found = np.random.default_rng(0).integers(0, 256, (10, 4, 6, 3), dtype=np.uint8)
    found[:, 0, 0, 0] = np.arange(10)
    return found


@pytest.fixture
def whole(tmp_path, pixels):
    np.savez(tmp_path / "ten.npz", images=pixels, labels=np.arange(10) % 3, classes=["a", "b", "c"])
    return load_images(tmp_path / "ten.npz")


def numbers(part):
    return [int(image[0, 0, 0]) for image in part]


@pytest.mark.parametrize("num_first", range(1, 10))
def test_the_parts_are_disjoint_in_order_and_together_the_whole(whole, num_first):
    first, second = split(whole, num_first, seed=3)
    assert len(first) == num_first
    assert numbers(first) == sorted(numbers(first))
    assert numbers(second) == sorted(numbers(second))
    assert sorted(numbers(first) + numbers(second)) == list(range(10))


def test_each_image_keeps_its_label_and_its_pixels(whole, pixels):
    for part in split(whole, 4, seed=0):
        assert part.labels.tolist() == [number % 3 for number in numbers(part)]
        np.testing.assert_array_equal(np.stack(list(part)), pixels[numbers(part)])
        assert (part.name, part.classes) == ("ten.npz", ("a", "b", "c"))


def test_images_without_labels_split_without_labels(tmp_path, pixels):
    np.savez(tmp_path / "bare.npz", images=pixels)
    first, second = split(load_images(tmp_path / "bare.npz"), 4, seed=0)
    assert (first.labels, second.labels) == (None, None)
    assert not first.ref().labelled


def test_a_part_has_the_hash_of_a_file_with_its_images_alone(tmp_path, whole, pixels):
    first, _ = split(whole, 4, seed=0)
    np.savez(tmp_path / "four.npz", images=pixels[numbers(first)])
    assert first.ref().sha256 == load_images(tmp_path / "four.npz").sha256
    assert (first.ref().num_images, first.ref().seed) == (4, 0)


def test_the_same_seed_draws_the_same_parts_and_another_seed_others(whole):
    assert numbers(split(whole, 4, seed=1)[0]) == numbers(split(whole, 4, seed=1)[0])
    assert len({tuple(numbers(split(whole, 4, seed=seed)[0])) for seed in range(8)}) > 4


def test_a_first_part_of_every_image_is_the_set_itself_drawn_by_no_seed(whole):
    first, second = split(whole, 10, seed=5)
    assert second is None
    assert first.ref() == whole.ref()
    assert first.ref().seed is None


@pytest.mark.parametrize("num_first", [0, -1, 11])
def test_a_part_that_is_empty_or_larger_than_the_set_is_refused(whole, num_first):
    with pytest.raises(InputError, match=rf"{num_first} images were asked for, ten\.npz has 10") as caught:
        split(whole, num_first, seed=0)
    assert "1 to 10" in caught.value.hint
