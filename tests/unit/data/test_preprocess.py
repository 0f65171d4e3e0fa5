"""The preprocessing against timm's own transform."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from heartvit_edge.data.preprocess import denormalise_to_uint8, preprocess, preprocess_one
from heartvit_edge.spec.model import Preprocessing

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# (height, width): square, wide, high, one side at or just off the target, tiny, extreme.
SIZES = ((8, 8), (32, 32), (33, 32), (35, 71), (120, 47), (7, 31), (200, 9), (64, 64))


def picture(height, width):
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def settings(**changes):
    given = {"img_size": 32, "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}
    return Preprocessing(**(given | IMAGENET | changes))


def timms(image, preprocessing):
    transform = create_transform(
        (3, preprocessing.img_size, preprocessing.img_size),
        is_training=False,
        **preprocessing.model_dump(exclude={"img_size"}),
    )
    return transform(Image.fromarray(image)).numpy()


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_an_image_becomes_what_timms_transform_makes_of_it(crop_mode, crop_pct, interpolation):
    for img_size in (32, 45):
        given = settings(img_size=img_size, crop_mode=crop_mode, crop_pct=crop_pct, interpolation=interpolation)
        for height, width in SIZES:
            image = picture(height, width)
            found = preprocess_one(image, given)
            assert found.shape == (3, img_size, img_size)
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, timms(image, given), err_msg=f"{img_size} {height}x{width}")


@pytest.mark.parametrize("img_size", [112, 224])
def test_a_photograph_sized_image_becomes_what_timms_transform_makes_of_it(img_size):
    given = settings(img_size=img_size, crop_pct=0.875)
    image = picture(375, 500)
    np.testing.assert_array_equal(preprocess_one(image, given), timms(image, given))


def test_a_batch_holds_the_images_in_order_and_the_last_may_be_short():
    images = [picture(10, width) for width in range(10, 15)]
    batches = list(preprocess(images, settings(), 2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    for found, image in zip(np.concatenate(batches), images, strict=True):
        np.testing.assert_array_equal(found, timms(image, settings()))


def test_no_more_than_one_batch_is_decoded_ahead():
    read = []
    batches = preprocess((read.append(i) or picture(8, 8) for i in range(10)), settings(), 3)
    next(batches)
    assert read == [0, 1, 2]


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1, found 0"):
        next(preprocess([picture(8, 8)], settings(), 0))


def test_denormalising_gives_the_square_back_to_the_last_bit():
    image = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3).astype(np.uint8)  # every value from 0 to 255
    given = settings(crop_pct=1.0)
    one = preprocess_one(image, given)
    np.testing.assert_array_equal(denormalise_to_uint8(one, given), image)
    np.testing.assert_array_equal(denormalise_to_uint8(np.stack([one, one]), given), np.stack([image, image]))


def test_denormalising_clips_what_no_image_can_be():
    assert denormalise_to_uint8(np.full((3, 2, 2), 1e6, np.float32), settings()).min() == 255
    assert denormalise_to_uint8(np.full((3, 2, 2), -1e6, np.float32), settings()).max() == 0
