"""Fine-tunes that take a second: a tiny ViT, 40 noise images, and a stop at any step."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np
from fakes.tiny_vit import IMG_SIZE, NUM_CLASSES, plan_of

from heartvit_edge.data.images import ImageSet, load_images
from heartvit_edge.data.split import split
from heartvit_edge.finetune.processes import join_processes
from heartvit_edge.finetune.run import Means, finetune
from heartvit_edge.finetune.subject import Subject
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.spec.finetune import FinetuneRecipe, FinetuneRun
from heartvit_edge.spec.plan import PruningPlan

NUM_IMAGES = 40
NUM_HELD_OUT = 16
HEADS = {0: [0, 2, 3], 1: [1]}
SITES = {1: 12, 3: 6}
STEPS = 3  # an epoch: 24 images in batches of 8
RECIPE = FinetuneRecipe(
    epochs=2, batch_size=8, learning_rate=1e-3, weight_decay=0.01, augmentation="light", gate_weight=1.0
)


class StoppedHere(Exception):
    """Stands for a kill."""


def write_images(path: Path, *, labelled: bool = True) -> Path:
    """Store noise images of another size than the model's as npz."""
    pixels = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 40, 36, 3), dtype=np.uint8)
    labels = {"labels": np.arange(NUM_IMAGES) % NUM_CLASSES} if labelled else {}
    np.savez(path, images=pixels, **labels)
    return path


def image_parts(path: Path) -> tuple[ImageSet, ImageSet]:
    """Return the images to train on, and the held-out ones."""
    train, held_out = split(load_images(path), NUM_IMAGES - NUM_HELD_OUT, 0)
    assert held_out is not None
    return train, held_out


def pruning_plan(dense: DenseModel, *, limit: float = 0.5) -> PruningPlan:
    """Return a plan of the dense model with two sites and some heads removed."""
    return plan_of(dense.shape, SITES, HEADS, source=dense.source, limit=limit)


def run_small(
    dense: DenseModel,
    data: Path,
    out: Path,
    recipe: FinetuneRecipe = RECIPE,
    *,
    subjects: list[Subject] | None = None,
    control: bool = False,
    stop_after: int | None = None,
    save_every: int = 1000,
    workers: int = 0,
    told: list[str] | None = None,
    force: bool = False,
) -> FinetuneRun:
    """Fine-tune by class attention or the subjects given; raise ``StoppedHere`` after ``stop_after`` steps."""
    assert IMG_SIZE == dense.shape.img_size
    steps = 0

    @contextmanager
    def watch(_name, _total):
        def advance(_count):
            nonlocal steps
            steps += 1
            if steps == stop_after:
                raise StoppedHere

        yield advance

    train, held_out = image_parts(data)
    wanted = subjects or [Subject(pruning_plan(dense), "class-attention")]
    tell = (told if told is not None else []).append
    with join_processes("fp32", gate_has_weights=any(subject.gate_sha256 for subject in wanted)) as accelerator:
        means = Means(accelerator, workers, save_every, tell, watch)
        wanted = [*wanted, Subject(None, None)] if control else wanted
        return finetune(dense, wanted, train, held_out, recipe, out, means, force=force)
