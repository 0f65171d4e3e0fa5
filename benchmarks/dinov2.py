"""The model and images that the benchmarks share: DINOv2 ViT-S/14 with a CIFAR-10 head, from the development data."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from heartvit_edge.data.images import ImageSet, load_images, subset
from heartvit_edge.data.listing import Listing
from heartvit_edge.data.preprocess import preprocess
from heartvit_edge.model.zoo import DenseModel, load_dense

NAME = "vit_small_patch14_dinov2"
SITES = (3, 6, 9)


def load_model(shared: Path, img_size: int = 112) -> DenseModel:
    """Return the dense model from the folder of the development data."""
    files = (shared / "dinov2_vits14_fp16.safetensors", shared / "cifar10_head_112px.safetensors")
    return load_dense(NAME, weights=files, img_size=img_size)


def draw(shared: Path, split: str, num_images: int, seed: int) -> ImageSet:
    """Return that many images of a split, ``train`` or ``eval``."""
    return load_images(shared / f"cifar10_{split}.npz", num_images=num_images, seed=seed)


def train_but(shared: Path, others: ImageSet) -> ImageSet:
    """Return every training image that is none of the others."""
    images, known = load_images(shared / "cifar10_train.npz"), {image.tobytes() for image in others}
    left = [index for index in range(len(images)) if images.read(index).tobytes() not in known]
    labels = None if images.labels is None else images.labels[left]
    return subset(Listing(images.name, len(left), labels, images.classes, lambda n: images.read(left[n])), None, 0)


def inputs(dense: DenseModel, images: ImageSet) -> Tensor:
    """Return all images as one tensor (N, 3, S, S)."""
    return torch.cat([torch.from_numpy(batch) for batch in preprocess(images, dense.preprocessing, 64)])
