"""Training of the demo's dense model: a small timm ViT on handwritten digits, on a CPU, in about a minute."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from heartvit_edge.spec.files import new_file
from heartvit_edge.spec.model import Preprocessing

MODEL_NAME = "vit_tiny_patch16_224"
MODEL_KWARGS = {"patch_size": 4, "embed_dim": 64, "depth": 6, "num_heads": 4}
IMG_SIZE = 32
NUM_CLASSES = 10

# timm's data config of the model at 32 px, so that `export` prepares images as the training did.
PREPROCESSING = Preprocessing(
    img_size=IMG_SIZE,
    interpolation="bicubic",
    crop_pct=0.9,
    crop_mode="center",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)

BATCH_SIZE = 32
PEAK_LR = 1e-3
WEIGHT_DECAY = 0.05
MAX_TURN_DEGREES = 10.0
MAX_SHIFT = 0.1  # of the image's side


@dataclass(frozen=True)
class TrainedDigits:
    """A trained model and how the training went.

    Attributes:
        module: In evaluation mode.
        epoch_losses: Mean cross-entropy over each epoch, in nats, against labels smoothed by 0.1.
        test_accuracy: Share of the test images whose label is the largest logit, in [0, 1].
    """

    module: VisionTransformer
    epoch_losses: tuple[float, ...]
    test_accuracy: float


def train_digits_vit(
    train: tuple[NDArray[np.float32], NDArray[np.int64]],
    test: tuple[NDArray[np.float32], NDArray[np.int64]],
    *,
    epochs: int,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> TrainedDigits:
    """Train the demo's ViT with AdamW, a warm-up and cosine schedule, and small turns and shifts of the images.

    The same seed gives the same weights on the same machine. The test images are only read after the last epoch.

    Args:
        train: Images preprocessed with ``PREPROCESSING``, shape (N, 3, 32, 32), and labels 0 to 9, shape (N,).
        test: The same for the images that are held out.
        epochs: Passes over the training images, at least one.
        seed: Of the initial weights, the order of the images and their turns and shifts.
        progress: Told (epochs done, mean loss of the last) after each epoch.

    Raises:
        ValueError: If ``epochs`` is below one.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, found {epochs}")
    images, labels = torch.from_numpy(train[0]), torch.from_numpy(train[1])
    module = _create(seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=PEAK_LR, weight_decay=WEIGHT_DECAY)
    num_steps = epochs * math.ceil(len(images) / BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_fraction(step, num_steps))
    generator = torch.Generator().manual_seed(seed)
    epoch_losses: list[float] = []
    for _ in range(epochs):
        losses = []
        for batch in _batches(len(images), generator):
            logits = module(_turn_and_shift(images[batch], generator))
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        epoch_losses.append(sum(losses) / len(losses))
        if progress is not None:
            progress(len(epoch_losses), epoch_losses[-1])
    module.eval()
    return TrainedDigits(module, tuple(epoch_losses), _accuracy(module, test[0], test[1]))


def write_weights(module: nn.Module, path: Path, *, force: bool = False) -> None:
    """Store the module's tensors as safetensors under timm's names.

    Raises:
        InputError: If ``path`` exists and ``force`` is not set, or its folder cannot be written.
    """
    with new_file(path, force=force) as temporary:
        save_file(module.state_dict(), temporary)


def _create(seed: int) -> VisionTransformer:
    """Return the untrained model.

    1,297 images are few for a ViT. Weights scaled to its narrow layers (timm's "jax" scheme) and positions that start
    as two-dimensional sines and cosines, large enough to be seen beside the patches, save it most of the epochs.
    """
    with torch.random.fork_rng(devices=[]):  # timm draws the initial weights from torch's global generator
        torch.manual_seed(seed)
        module = timm.create_model(
            MODEL_NAME, img_size=IMG_SIZE, num_classes=NUM_CLASSES, weight_init="jax", **MODEL_KWARGS
        )
    positions = build_sincos2d_pos_embed(list(module.patch_embed.grid_size), dim=module.embed_dim, temperature=100.0)
    with torch.no_grad():
        module.pos_embed[0, module.num_prefix_tokens :] = 2 * positions
    return module


def _lr_fraction(step: int, num_steps: int) -> float:
    """Return the share of the peak learning rate: linear over the first tenth of the steps, then half a cosine to 0."""
    warm_up = max(num_steps // 10, 1)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(num_steps - warm_up, 1)))


def _batches(num_images: int, generator: torch.Generator) -> Iterator[Tensor]:
    yield from torch.randperm(num_images, generator=generator).split(BATCH_SIZE)


def _turn_and_shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn each image by up to 10 degrees and shift it by up to a tenth of its side; shape (B, 3, S, S) in and out."""
    draws = torch.rand(3, len(images), generator=generator) * 2 - 1
    angle = draws[0] * math.radians(MAX_TURN_DEGREES)
    shift = draws[1:] * 2 * MAX_SHIFT  # affine_grid's image is 2 wide
    rows = torch.stack([angle.cos(), -angle.sin(), shift[0], angle.sin(), angle.cos(), shift[1]], dim=1)
    grid = F.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


@torch.inference_mode()
def _accuracy(module: nn.Module, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    predicted = torch.cat([module(batch).argmax(dim=1) for batch in torch.from_numpy(images).split(250)])
    return (predicted == torch.from_numpy(labels)).double().mean().item()
