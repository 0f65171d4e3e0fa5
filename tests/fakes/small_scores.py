"""What scoring starts from, small: a tiny dense model in either precision, image sets, gates as a function."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from fakes.tiny_vit import IMG_SIZE, NUM_CLASSES, load_tiny, make_vit
from torch import Tensor

from heartvit_edge.data.images import ImageSet, subset
from heartvit_edge.data.listing import Listing
from heartvit_edge.model.forward import forward
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.sensitivity.draws import SCORING, image_generator
from heartvit_edge.sensitivity.gates import GateLayout

DOUBLE = torch.float64


@cache
def tiny_dense() -> DenseModel:
    """Return the plain tiny model, float32; the same object each time, to be read only."""
    with tempfile.TemporaryDirectory() as folder:
        return load_tiny(Path(folder))


@cache
def double_dense(variant: str = "plain") -> DenseModel:
    """Return a variant in float64; the same object each time, to be read only."""
    module = make_vit(variant, dtype=DOUBLE)
    mlp = module.blocks[0].mlp
    dimensions = {
        "num_prefix_tokens": module.num_prefix_tokens,
        "mlp_in_dim": mlp.fc1.out_features,
        "mlp_hidden_dim": mlp.fc2.in_features,
    }
    plain = tiny_dense()
    return replace(plain, module=module, shape=plain.shape.model_copy(update=dimensions))


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    """Return one source of draws an image."""
    return [image_generator(seed, SCORING, index) for index in range(count)]


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Return noise, shape (count, 32, 32, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, IMG_SIZE, IMG_SIZE, 3), dtype=np.uint8)


def image_set(count: int, seed: int = 0, *, labelled: bool = True) -> ImageSet:
    """Return an image set of noise."""
    pixels = pictures(count, seed)
    labels = np.random.default_rng(seed + 100).integers(0, NUM_CLASSES, count) if labelled else None
    return subset(Listing(f"noise-{seed}", count, labels, (), lambda index: pixels[index]), None, 0)


def logits_of(dense: DenseModel, layout: GateLayout, image: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the map from one image's gates (P,) to its logits (C,), for ``torch.func``."""
    return lambda gates: forward(dense.module, image[None], layout.gates(gates[None]))[0]


def kl_of(dense: DenseModel, layout: GateLayout, image: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the map from one image's gates (P,) to KL(dense || gated), in nats, written out."""
    logits = logits_of(dense, layout, image)
    probs = dense.module(image[None])[0].softmax(0).detach()

    def kl(gates: Tensor) -> Tensor:
        return (probs * (probs.log() - logits(gates).softmax(0).log())).sum()

    return kl


def labelled_loss_of(dense: DenseModel, layout: GateLayout, image: Tensor, label: int) -> Callable[[Tensor], Tensor]:
    """Return the map from one image's gates (P,) to -log p(label), written out."""
    logits = logits_of(dense, layout, image)
    return lambda gates: -logits(gates).softmax(0)[label].log()


def hessian_of(loss: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """Return the dense Hessian (size, size) of a loss at gates of one."""
    return dense_hessian(loss, torch.ones(size, dtype=DOUBLE))


def dense_hessian(loss: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """Return the dense Hessian (P, P) of a loss at a point (P,), by forward over reverse differentiation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own forward mode calls torch.jit.script
        return torch.func.hessian(loss)(point).detach()
