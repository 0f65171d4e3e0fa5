"""Training images in an order, and with an augmentation, that depend on nothing but the seed and the epoch.

Whatever worker, process or resumed run prepares an image, and whatever model it is for, it looks the same: the control
is trained on the very inputs of the pruned model, and a killed run ends as one that was not.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from heartvit_edge.data.images import ImageSet
from heartvit_edge.data.preprocess import preprocess_one
from heartvit_edge.spec.finetune import Augmentation
from heartvit_edge.spec.model import Preprocessing

UNLABELLED = -1

# Arguments of timm's training transform.
_AUGMENTATIONS: dict[Augmentation, dict[str, object]] = {
    "crop": {"hflip": 0.0},
    "light": {},
    "strong": {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25},
}
_SCALE = (0.5, 1.0)


class TrainingImages(Dataset[tuple[Tensor, int]]):
    """The model's inputs by (epoch, image)."""

    def __init__(self, images: ImageSet, preprocessing: Preprocessing, augmentation: Augmentation, seed: int) -> None:
        """Take what the inputs depend on.

        Args:
            images: The images.
            preprocessing: timm's evaluation preprocessing of the model.
            augmentation: What is done to an image in place of it; ``none`` leaves it.
            seed: Of the augmentation.
        """
        self._images, self._preprocessing, self._seed = images, preprocessing, seed
        self._transform = None
        if augmentation != "none":
            self._transform = create_transform(
                preprocessing.img_size,
                is_training=True,
                scale=_SCALE,
                color_jitter=None,
                interpolation=preprocessing.interpolation,
                mean=preprocessing.mean,
                std=preprocessing.std,
                **_AUGMENTATIONS[augmentation],
            )

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        """Return the input (3, S, S) of an image in an epoch, and its label or -1."""
        epoch, index = key
        image = self._images.read(index)
        label = UNLABELLED if self._images.labels is None else int(self._images.labels[index])
        if self._transform is None:
            return torch.from_numpy(preprocess_one(image, self._preprocessing)), label
        with _seeded(self._seed, epoch, index):
            return self._transform(Image.fromarray(image)), label


def make_loader(
    images: TrainingImages, batches: list[list[tuple[int, int]]], workers: int
) -> DataLoader[tuple[Tensor, int]]:
    """Return a loader of those batches in order: inputs (B, 3, S, S) and labels (B,).

    Args:
        images: The inputs.
        batches: Keys of each batch.
        workers: Processes that prepare them; 0: this one. They are forked, since images are decoded by closures.
    """
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        pin_memory=torch.cuda.is_available(),
    )


def epoch_batches(
    num_images: int, epoch: int, seed: int, *, batch_size: int, accumulate: int, num_processes: int, rank: int
) -> list[list[tuple[int, int]]]:
    """Return the keys of one process's batches in an epoch, ``accumulate`` of them a step.

    The images that do not fill a last step are left out; which these are differs from epoch to epoch.

    Args:
        num_images: Training images.
        epoch: From 1.
        seed: Of the order.
        batch_size: Images a batch.
        accumulate: Batches a step, on each process.
        num_processes: Processes.
        rank: This one, 0 .. num_processes - 1.
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_images)
    steps = num_images // (batch_size * accumulate * num_processes)
    shared = order[: steps * accumulate * num_processes * batch_size].reshape(-1, num_processes, batch_size)
    return [[(epoch, int(index)) for index in batch] for batch in shared[:, rank]]


@contextmanager
def _seeded(*seed: int) -> Iterator[None]:
    """Let the body draw from the generators that timm's transforms use, seeded, and put them back as they were."""
    drawn = int(np.random.SeedSequence(seed).generate_state(1)[0])
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(drawn)
        random.seed(drawn)
        np.random.seed(drawn)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


def default_workers() -> int:
    """Return how many processes prepare images where nothing is said: up to 4, and none where there is but one CPU."""
    return min(4, (os.cpu_count() or 1) - 1)
