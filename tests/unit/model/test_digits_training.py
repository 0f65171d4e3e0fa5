"""The demo's training, at a tiny scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from heartvit_edge.errors import InputError
from heartvit_edge.model.digits_training import (
    IMG_SIZE,
    MODEL_KWARGS,
    MODEL_NAME,
    PREPROCESSING,
    train_digits_vit,
    write_weights,
)
from heartvit_edge.model.zoo import load_dense


def dark_and_bright(num_images, seed):
    """Return noisy images, dark under label 0 and bright under label 1: learnt within a few steps."""
    labels = np.arange(num_images) % 2
    noise = np.random.default_rng(seed).normal(0, 0.3, (num_images, 3, IMG_SIZE, IMG_SIZE))
    return (noise + np.where(labels, 0.8, -0.8)[:, None, None, None]).astype(np.float32), labels


@pytest.fixture(scope="module")
def parts():
    return dark_and_bright(96, 0), dark_and_bright(40, 1)


@pytest.fixture(scope="module")
def trained(parts):
    return train_digits_vit(*parts, epochs=6, seed=0)


def test_the_loss_falls_and_dark_is_told_from_bright(trained):
    assert len(trained.epoch_losses) == 6
    assert trained.epoch_losses[-1] < 0.8 * trained.epoch_losses[0]
    assert trained.test_accuracy == 1.0


def test_the_accuracy_is_the_share_of_test_images_that_the_module_labels_right(trained, parts):
    images, labels = parts[1]
    with torch.inference_mode():
        predicted = trained.module(torch.from_numpy(images)).argmax(dim=1).numpy()
    assert trained.test_accuracy == (predicted == labels).mean()


def test_the_same_seed_trains_the_same_weights_whatever_torchs_global_seed(parts):
    def state(seed, global_seed):
        torch.manual_seed(global_seed)
        train = tuple(array[:32] for array in parts[0])
        return train_digits_vit(train, parts[1], epochs=1, seed=seed).module.state_dict()

    first, again, other = state(1, 0), state(1, 99), state(2, 0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


def test_training_leaves_torchs_global_generator_as_it_was(parts):
    before = torch.get_rng_state()
    train_digits_vit(tuple(array[:8] for array in parts[0]), parts[1], epochs=1, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_progress_is_told_once_an_epoch(parts):
    told = []
    train = tuple(array[:8] for array in parts[0])
    found = train_digits_vit(train, parts[1], epochs=3, seed=0, progress=lambda epoch, loss: told.append((epoch, loss)))
    assert told == list(enumerate(found.epoch_losses, start=1))


def test_no_epoch_is_refused(parts):
    with pytest.raises(ValueError, match="epochs must be at least 1, found 0"):
        train_digits_vit(*parts, epochs=0, seed=0)


def test_the_stored_weights_load_as_the_command_line_loads_them_with_the_same_preprocessing(trained, parts, tmp_path):
    path = tmp_path / "digits.safetensors"
    write_weights(trained.module, path)
    kwargs = [f"{key}={value}" for key, value in MODEL_KWARGS.items()]
    dense = load_dense(MODEL_NAME, weights=[path], img_size=IMG_SIZE, model_kwargs=kwargs)
    assert dense.preprocessing == PREPROCESSING
    images = torch.from_numpy(parts[1][0])
    with torch.inference_mode():
        assert torch.equal(dense.module(images), trained.module(images))


def test_existing_weights_are_kept_unless_forced(trained, tmp_path):
    path = tmp_path / "digits.safetensors"
    path.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_weights(trained.module, path)
    assert path.read_text() == "mine"
    write_weights(trained.module, path, force=True)
    assert set(load_file(path)) == set(trained.module.state_dict())
