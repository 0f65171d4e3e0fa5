"""Image folders and npz files: what is found, what is refused, what is drawn, and what it hashes to."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from heartvit_edge.data.images import check_labels, list_images, load_images, subset
from heartvit_edge.errors import InputError


def picture(seed, height=6, width=5):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def flat_folder(path, num_images):
    for index in range(num_images):
        save(path / f"{index:03}.png", picture(index))
    return path


def corrupt(path):
    path.write_bytes(path.read_bytes()[:40])


@pytest.fixture
def class_folder(tmp_path):
    """Three classes whose sorted order is not the order of creation, one with a nested folder."""
    root = tmp_path / "pets"
    names = ["dog/b.png", "dog/a.png", "cat/2/z.jpg", "cat/y.PNG", "ant/x.webp", "cat/10/z.png"]
    for index, name in enumerate(names):
        save(root / name, picture(index))
    (root / "cat" / "notes.txt").write_text("not an image")
    return root


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_a_class_folder_reads_as_torchvisions_imagefolder_does(class_folder):
    found, expected = load_images(class_folder), ImageFolder(class_folder)
    assert found.classes == tuple(expected.classes) == ("ant", "cat", "dog")
    assert found.labels.tolist() == expected.targets
    assert found.labels.dtype == np.int64
    for index, (image, _) in enumerate(expected):
        np.testing.assert_array_equal(found.read(index), np.asarray(image))


def test_classes_that_are_given_name_the_folders_by_name_and_may_be_more(class_folder):
    found = load_images(class_folder, classes=["dog", "eel", "cat", "ant"])
    assert found.labels.tolist() == [3, 2, 2, 2, 0, 0]
    assert found.classes == ("dog", "eel", "cat", "ant")


def test_a_folder_that_is_no_given_class_is_named(class_folder):
    with pytest.raises(InputError, match=r"folder 'ant', expected folders named after the 2 classes: cat, dog"):
        load_images(class_folder, classes=["cat", "dog"])


def test_a_flat_folder_has_no_labels_and_the_order_of_its_names(tmp_path):
    found = load_images(flat_folder(tmp_path / "flat", 3))
    assert (found.labels, found.classes, found.name) == (None, (), "flat")
    for index, image in enumerate(found):
        np.testing.assert_array_equal(image, picture(index))
    assert found.ref().labelled is False


def test_images_beside_class_folders_are_left_out_aloud(class_folder):
    save(class_folder / "cover.png", picture(9))
    messages = []
    assert len(load_images(class_folder, warn=messages.append)) == 6
    assert len(messages) == 1
    assert "left out 1 images" in messages[0]
    assert "cover.png" in messages[0]


def test_an_empty_class_folder_is_refused_by_name(class_folder):
    (class_folder / "bee").mkdir()
    with pytest.raises(InputError, match="bee holds no image") as caught:
        load_images(class_folder)
    assert caught.value.hint


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_other_colour_modes_become_rgb_as_pillow_converts_them(tmp_path, mode):
    file = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.fromarray(picture(0)).convert(mode).save(file)
    found = load_images(tmp_path).read(0)
    assert found.shape == (6, 5, 3)
    np.testing.assert_array_equal(found, np.asarray(Image.open(file).convert("RGB")))


def test_an_exif_orientation_is_not_applied_as_torchvisions_loader_does_not(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(picture(0)).save(tmp_path / "x.png", exif=exif)
    assert load_images(tmp_path).read(0).shape == (6, 5, 3)


def test_a_truncated_image_is_named_skipped_and_counted(tmp_path):
    folder = flat_folder(tmp_path / "flat", 40)
    corrupt(folder / "007.png")
    messages = []
    found = load_images(folder, warn=messages.append)
    assert len(found) == 39
    np.testing.assert_array_equal(found.read(7), picture(8))
    assert len(messages) == 1
    assert "left out 1 of 40 images" in messages[0]
    assert "007.png" in messages[0]


def test_a_truncated_jpeg_whose_header_is_whole_is_found(tmp_path):
    folder = flat_folder(tmp_path / "flat", 30)
    save(folder / "a.jpg", picture(0, 200, 200))
    content = (folder / "a.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(content[: len(content) // 2])
    messages = []
    assert len(load_images(folder, warn=messages.append)) == 30
    assert "a.jpg" in messages[0]


def test_labels_stay_with_their_images_when_one_is_skipped(tmp_path):
    for index in range(25):
        save(tmp_path / "data" / f"class{index % 5}" / f"{index:02}.png", picture(index))
    corrupt(tmp_path / "data" / "class1" / "01.png")
    found = load_images(tmp_path / "data", warn=lambda _: None)
    assert np.bincount(found.labels).tolist() == [5, 4, 5, 5, 5]
    np.testing.assert_array_equal(found.read(5), picture(6))
    assert found.labels[5] == 1


@pytest.mark.parametrize(("num_corrupt", "refused"), [(5, False), (6, True)])
def test_more_than_five_percent_of_corrupt_images_are_refused(tmp_path, num_corrupt, refused):
    folder = flat_folder(tmp_path / "flat", 100)
    for index in range(num_corrupt):
        corrupt(folder / f"{index:03}.png")
    if refused:
        with pytest.raises(InputError, match=r"more than 5% of flat.*000\.png.*001\.png.*002\.png.*and 3 more"):
            load_images(folder)
    else:
        assert len(load_images(folder, warn=lambda _: None)) == 95


def test_a_corrupt_image_in_a_draw_is_replaced(tmp_path):
    folder = flat_folder(tmp_path / "flat", 60)
    clean = load_images(folder, num_images=30, seed=3)
    first = next(i for i in range(60) if np.array_equal(clean.read(0), picture(i)))
    corrupt(folder / f"{first:03}.png")
    messages = []
    found = load_images(folder, num_images=30, seed=3, warn=messages.append)
    assert len(found) == 30
    assert f"{first:03}.png" in messages[0]
    assert found.ref().sha256 != clean.ref().sha256


def test_more_images_than_can_be_decoded_are_refused(tmp_path):
    folder = flat_folder(tmp_path / "flat", 40)
    corrupt(folder / "000.png")
    with pytest.raises(InputError, match="40 images were asked for, 39 of flat can be decoded") as caught:
        load_images(folder, num_images=40, warn=lambda _: None)
    assert caught.value.hint == "--num-images 39"


def test_skipping_without_a_listener_is_a_warning_not_silence(tmp_path):
    folder = flat_folder(tmp_path / "flat", 40)
    corrupt(folder / "000.png")
    with pytest.warns(UserWarning, match=r"000\.png"):
        load_images(folder)


def test_an_image_that_vanishes_later_is_named(tmp_path):
    found = load_images(flat_folder(tmp_path / "flat", 2))
    (tmp_path / "flat" / "001.png").unlink()
    with pytest.raises(InputError, match=r"001\.png"):
        found.read(1)


def test_a_missing_path_is_refused_with_a_hint(tmp_path):
    with pytest.raises(InputError, match=r"there is no .*nowhere") as caught:
        load_images(tmp_path / "nowhere")
    assert "folder" in caught.value.hint


def test_a_single_image_is_refused_with_a_hint(tmp_path):
    with pytest.raises(InputError, match=r"x\.png is neither a folder nor an npz file"):
        load_images(save(tmp_path / "x.png", picture(0)))


def test_an_empty_folder_is_refused_and_the_suffixes_are_listed(tmp_path):
    (tmp_path / "readme.txt").write_text("no image")
    with pytest.raises(InputError, match="holds no image") as caught:
        load_images(tmp_path)
    assert ".png" in caught.value.hint


def test_an_npz_gives_its_images_labels_and_classes(tmp_path):
    images = np.stack([picture(seed) for seed in range(4)])
    path = write_npz(
        tmp_path / "set.npz", images=images, labels=np.array([1, 0, 1, 2], np.uint8), classes=["a", "b", "c"]
    )
    found = load_images(path)
    assert (found.name, found.classes, len(found)) == ("set.npz", ("a", "b", "c"), 4)
    assert found.labels.tolist() == [1, 0, 1, 2]
    np.testing.assert_array_equal(np.stack(list(found)), images)


def test_an_npz_may_hold_images_alone(tmp_path):
    found = load_images(write_npz(tmp_path / "set.npz", images=picture(0)[None]))
    assert (found.labels, found.classes) == (None, ())


def test_an_npz_and_a_folder_of_the_same_pixels_have_the_same_hash(tmp_path):
    folder = flat_folder(tmp_path / "flat", 5)
    path = write_npz(tmp_path / "set.npz", images=np.stack([picture(seed) for seed in range(5)]))
    assert load_images(folder).ref().sha256 == load_images(path).ref().sha256


IMAGES = np.zeros((3, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": IMAGES}, "holds pictures, expected an array 'images'"),
        ({"images": IMAGES.astype(np.float32)}, r"'images' .* is float32 of shape \(3, 4, 4, 3\), expected uint8"),
        ({"images": IMAGES[..., 0]}, r"is uint8 of shape \(3, 4, 4\), expected uint8 of shape \(N, H, W, 3\)"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, r"shape \(3, 3, 4, 4\), expected"),
        ({"images": IMAGES[:0]}, r"shape \(0, 4, 4, 3\)"),
        ({"images": IMAGES, "labels": [0, 1]}, r"'labels' .* of shape \(2,\), expected integers of shape \(3,\)"),
        ({"images": IMAGES, "labels": [0.0, 1.0, 2.0]}, "'labels' .* is float64"),
        ({"images": IMAGES, "labels": [0, -1, 2]}, "'labels' .* holds -1 at position 1, expected 0 or more"),
        ({"images": IMAGES, "labels": [0, 1, 2], "classes": ["a", "b"]}, "holds 2 at position 2, expected 0 to 1"),
        ({"images": IMAGES, "classes": [[1]]}, r"'classes' .* is int64 of shape \(1, 1\), expected a list of names"),
    ],
)
def test_an_npz_of_the_wrong_content_is_refused(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message):
        load_images(write_npz(tmp_path / "set.npz", **arrays))


def test_pickled_content_is_refused_and_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("pickle was loaded",))

    path = write_npz(tmp_path / "set.npz", images=np.array([Bomb()], dtype=object))
    with pytest.raises(InputError, match="not an npz file of plain arrays"):
        load_images(path)


@pytest.mark.parametrize("cut", [0, 10, 400])
def test_a_damaged_npz_is_refused(tmp_path, cut):
    path = write_npz(tmp_path / "set.npz", images=IMAGES)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"set\.npz"):
        load_images(path)


def test_a_bare_array_under_the_name_npz_is_refused(tmp_path):
    with (tmp_path / "set.npz").open("wb") as file:
        np.save(file, IMAGES)
    with pytest.raises(InputError, match="one bare array"):
        load_images(tmp_path / "set.npz")


def test_classes_of_an_npz_that_differ_from_the_models_are_refused(tmp_path):
    path = write_npz(tmp_path / "set.npz", images=IMAGES, labels=[0, 1, 1], classes=["b", "a"])
    with pytest.raises(InputError, match=r"are b, a \(2\), expected a, b \(2\)"):
        load_images(path, classes=["a", "b"])


@pytest.fixture
def hundred(tmp_path):
    images = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return load_images(write_npz(tmp_path / "set.npz", images=images, labels=np.arange(100)))


def test_a_subset_is_ascending_without_repeats_and_keeps_labels_with_images(hundred):
    found = subset(hundred, 20, 7)
    assert len(found) == 20
    assert found.labels.tolist() == sorted(set(found.labels.tolist()))
    assert [int(image[0, 0, 0]) for image in found] == found.labels.tolist()


def test_the_same_seed_draws_the_same_images_and_another_seed_others(hundred):
    assert subset(hundred, 20, 7).ref() == subset(hundred, 20, 7).ref()
    assert subset(hundred, 20, 7).labels.tolist() != subset(hundred, 20, 8).labels.tolist()
    assert subset(hundred, 20, 7).ref().sha256 != subset(hundred, 20, 8).ref().sha256


def test_drawing_while_loading_is_loading_and_then_drawing(hundred, tmp_path):
    assert load_images(tmp_path / "set.npz", num_images=20, seed=7).ref() == subset(hundred, 20, 7).ref()


@pytest.mark.parametrize("num_images", [None, 100])
def test_taking_all_images_keeps_their_order_and_records_no_seed(hundred, num_images):
    found = subset(hundred, num_images, 7)
    assert found.labels.tolist() == list(range(100))
    assert found.ref().seed is None
    assert found.ref() == hundred.ref()


@pytest.mark.parametrize("num_images", [0, -1, 101])
def test_a_draw_of_no_image_or_of_too_many_is_refused(hundred, num_images):
    with pytest.raises(InputError, match=f"{num_images} images were asked for, set.npz has 100"):
        subset(hundred, num_images, 0)


def test_a_draw_that_skips_goes_on_where_the_other_ended(hundred):
    whole, first = subset(hundred, 30, 7).labels.tolist(), subset(hundred, 20, 7).labels.tolist()
    found = subset(hundred, 10, 7, skip=20)
    assert sorted({*whole} - {*first}) == found.labels.tolist()
    assert [int(image[0, 0, 0]) for image in found] == found.labels.tolist()
    assert found.ref().seed == 7
    assert subset(hundred, 10, 7, skip=21).labels.tolist() != found.labels.tolist()


def test_a_draw_that_skips_may_take_all_that_are_left(hundred):
    first = subset(hundred, 70, 7).labels.tolist()
    for num_images in (None, 30):
        rest = subset(hundred, num_images, 7, skip=70)
        assert sorted([*first, *rest.labels.tolist()]) == list(range(100))
        assert rest.ref().seed == 7


@pytest.mark.parametrize(
    ("num_images", "skip", "left", "hint"),
    [
        (31, 70, 30, "ask for 1 to 30: --num-images 30"),
        (0, 70, 30, "ask for 1 to 30: --num-images 30"),
        (1, 100, 0, "give more images"),
        (None, 101, 0, "give more images"),
    ],
)
def test_more_images_than_are_left_after_skipping_are_refused(hundred, num_images, skip, left, hint):
    with pytest.raises(InputError, match=f"{num_images or 0} images were asked for, set.npz has {left} left") as caught:
        subset(hundred, num_images, 0, skip=skip)
    assert caught.value.hint == hint


def test_a_corrupt_image_among_those_skipped_is_an_image_of_neither_draw(tmp_path):
    folder = flat_folder(tmp_path / "flat", 60)
    listing = list_images(folder)
    clean = subset(listing, 20, 3)
    first = next(i for i in range(60) if np.array_equal(clean.read(0), picture(i)))
    corrupt(folder / f"{first:03}.png")
    drawn, further, rest = (
        {image.tobytes() for image in subset(listing, count, 3, skip=skip, warn=lambda _: None)}
        for count, skip in ((20, 0), (20, 20), (None, 40))
    )
    assert (len(drawn), len(further), len(rest)) == (20, 20, 19)
    assert len(drawn | further | rest) == 59


def test_a_negative_seed_is_refused(hundred):
    with pytest.raises(InputError, match="seed must be 0 or more, found -1"):
        subset(hundred, 5, -1)


def test_the_hash_changes_with_one_pixel_the_order_and_the_shape(tmp_path):
    images = np.stack([picture(seed) for seed in range(3)])
    changed = images.copy()
    changed[1, 2, 3, 0] ^= 1
    variants = [images, changed, images[::-1], images.reshape(3, 5, 6, 3)]
    hashes = [load_images(write_npz(tmp_path / f"{i}.npz", images=v)).ref().sha256 for i, v in enumerate(variants)]
    assert len(set(hashes)) == 4


def test_a_position_outside_the_set_is_an_index_error(hundred):
    for index in (-1, 100):
        with pytest.raises(IndexError, match="outside the 100 images"):
            hundred.read(index)


def test_memory_does_not_grow_with_the_images_of_a_folder(tmp_path):
    for index in range(24):
        save(tmp_path / "big" / f"{index:02}.png", np.full((256, 256, 3), index, np.uint8))
    load_images(tmp_path / "big", num_images=1)  # what is imported once
    tracemalloc.start()
    for _ in load_images(tmp_path / "big"):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 256 * 256 * 3  # the images together are twice that


def test_a_listing_decodes_nothing(tmp_path):
    folder = flat_folder(tmp_path / "flat", 3)
    for file in folder.iterdir():
        corrupt(file)
    assert list_images(folder).num_images == 3


def test_progress_counts_up_to_the_images_wanted(hundred):
    told = []
    subset(hundred, 3, 0, progress=lambda done, wanted: told.append((done, wanted)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_labels_outside_the_models_classes_are_refused_with_the_label_and_the_classes(hundred):
    check_labels(hundred, 100)
    with pytest.raises(InputError, match=r"label 99, the model has 10 classes: 0 to 9"):
        check_labels(hundred, 10)


def test_the_class_folder_of_a_label_outside_the_model_is_named(class_folder):
    with pytest.raises(InputError, match=r"label 2 \(dog\), the model has 2 classes"):
        check_labels(load_images(class_folder), 2)


def test_images_without_labels_fit_any_model(tmp_path):
    check_labels(load_images(flat_folder(tmp_path / "flat", 2)), 1)
