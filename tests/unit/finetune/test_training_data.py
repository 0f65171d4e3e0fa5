"""Inputs and their order depend on the seed and the epoch, and on nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from fakes.small_finetune import image_parts
from PIL import Image
from timm.data import create_transform

from heartvit_edge.data.preprocess import preprocess_one
from heartvit_edge.finetune.data import TrainingImages, epoch_batches, make_loader


def batches_of(num_images=50, epoch=1, seed=0, *, batch_size=4, accumulate=2, num_processes=3):
    """Return each process's batches."""
    return [
        epoch_batches(
            num_images,
            epoch,
            seed,
            batch_size=batch_size,
            accumulate=accumulate,
            num_processes=num_processes,
            rank=rank,
        )
        for rank in range(num_processes)
    ]


@pytest.fixture
def images(data):
    return image_parts(data)[0]


def inputs(images, dense, augmentation="light", seed=0):
    return TrainingImages(images, dense.preprocessing, augmentation, seed)


def test_an_epoch_shows_each_image_at_most_once_and_as_many_as_fill_its_steps():
    shares = batches_of()
    seen = [index for share in shares for batch in share for _, index in batch]
    assert len(seen) == len(set(seen)) == 48  # 2 steps of 4 x 2 x 3
    assert all(len(share) == 4 for share in shares)
    assert {epoch for share in shares for batch in share for epoch, _ in batch} == {1}


def test_three_processes_see_in_a_step_what_one_sees_with_three_times_the_batch():
    shares = batches_of(accumulate=1)
    (alone,) = batches_of(batch_size=12, accumulate=1, num_processes=1)
    together = [[key for share in shares for key in share[step]] for step in range(len(alone))]
    assert together == alone


def test_the_order_differs_between_epochs_and_seeds_and_is_the_same_again():
    assert batches_of() == batches_of()
    (one,), (two,), (other,) = (batches_of(epoch=e, seed=s, num_processes=1) for e, s in ((1, 0), (2, 0), (1, 1)))
    assert [i for batch in one for _, i in batch] != [i for batch in two for _, i in batch]
    assert one != other


def test_without_augmentation_an_input_is_the_evaluation_s(images, dense):
    found, label = inputs(images, dense, "none")[3, 5]
    np.testing.assert_array_equal(found.numpy(), preprocess_one(images.read(5), dense.preprocessing))
    assert label == images.labels[5]


def test_light_augmentation_is_timm_s_crop_of_at_least_half_with_a_flip(images, dense):
    preprocessing = dense.preprocessing
    transform = create_transform(
        32,
        is_training=True,
        scale=(0.5, 1.0),
        color_jitter=None,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    drawn = int(np.random.SeedSequence((7, 2, 5)).generate_state(1)[0])
    random.seed(drawn)
    torch.manual_seed(drawn)
    torch.testing.assert_close(
        inputs(images, dense, seed=7)[2, 5][0], transform(Image.fromarray(images.read(5))), rtol=0, atol=0
    )


@pytest.mark.parametrize("augmentation", ["crop", "light", "strong"])
def test_an_input_is_the_same_whatever_was_drawn_before_and_leaves_the_generators_alone(images, dense, augmentation):
    training = inputs(images, dense, augmentation)
    first = training[1, 4][0]
    training[1, 5]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    torch.testing.assert_close(training[1, 4][0], first, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])


@pytest.mark.parametrize("augmentation", ["crop", "light", "strong"])
def test_an_augmented_input_differs_between_epochs_images_and_seeds(images, dense, augmentation):
    training = inputs(images, dense, augmentation)
    found = [training[1, 4][0], training[2, 4][0], training[1, 5][0], inputs(images, dense, augmentation, 1)[1, 4][0]]
    for index, one in enumerate(found):
        assert one.shape == (3, 32, 32)
        assert all(not torch.equal(one, other) for other in found[:index])


# Forking beside torch's threads is what worker processes do; newer Pythons warn of it.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_worker_processes_prepare_the_same_batches_in_the_same_order(images, dense):
    training = inputs(images, dense, "strong")
    (keys,) = batches_of(len(images), batch_size=8, accumulate=1, num_processes=1)
    alone, shared = (list(make_loader(training, keys, workers)) for workers in (0, 2))
    assert len(alone) == len(shared) == 3
    for (one, labels), (other, other_labels) in zip(alone, shared, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(labels, other_labels)
