"""Tiny timm ViTs with seeded weights that leave nothing idle: attention is uneven, and every term moves the logits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.layers import GluMlp, SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from heartvit_edge.allocation.cost import dense_macs, plan_macs
from heartvit_edge.model.zoo import DenseModel, load_dense
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.model import ModelShape, ModelSource
from heartvit_edge.spec.plan import BlockPlan, PruningPlan

NAME = "vit_tiny_patch16_224"
IMG_SIZE = 32
NUM_CLASSES = 5
KWARGS: dict[str, Any] = {"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 4}

# Everything that a plain ViT may do in its own way.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": (NAME, {}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "registers": (NAME, {"reg_tokens": 4}),
    "registers outside the position embedding": (NAME, {"reg_tokens": 4, "no_embed_class": True}),
    "average pooling": (NAME, {"global_pool": "avg"}),
    "average pooling without class token": (NAME, {"global_pool": "avg", "class_token": False}),
    "average pooling, norm before": (NAME, {"global_pool": "avg", "fc_norm": False}),
    "query and key norm": (NAME, {"qk_norm": True}),
    "layer scale": (NAME, {"init_values": 1e-5}),
    "norm before the blocks": (NAME, {"pre_norm": True}),
    "no query, key and value bias": (NAME, {"qkv_bias": False}),
    "positions resampled as it runs": (NAME, {"dynamic_img_size": True}),
    "gated MLP": (NAME, {"mlp_layer": GluMlp}),
    "SwiGLU": (NAME, {"mlp_layer": SwiGLUPacked}),
    "SwiGLU, layer scale, registers": (NAME, {"mlp_layer": SwiGLUPacked, "init_values": 1e-5, "reg_tokens": 2}),
    "ReLU": (NAME, {"act_layer": "relu"}),
    "narrow MLP": (NAME, {"mlp_ratio": 1.5}),
}


def make_vit(variant: str = "plain", *, seed: int = 0, dtype: torch.dtype = torch.float32) -> VisionTransformer:
    """Return a variant in evaluation mode: 32 px, 16 patches of 8 px, 4 blocks of 4 heads, 5 classes."""
    name, kwargs = VARIANTS[variant]
    model = timm.create_model(name, img_size=IMG_SIZE, num_classes=NUM_CLASSES, **(KWARGS | kwargs))
    scramble(model, seed)
    return model.eval().requires_grad_(False).to(dtype)


@torch.no_grad()
def scramble(model: nn.Module, seed: int) -> None:
    """Draw every parameter anew, at a size at which attention is far from even and no branch is small."""
    generator = torch.Generator().manual_seed(seed)
    normal = partial(torch.randn, generator=generator)
    for name, value in model.named_parameters():
        if value.ndim >= 2 and name.endswith("weight"):
            value.copy_(normal(value.shape) * 1.5 / math.sqrt(value[0].numel()))
        elif name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "norm_pre.weight", "gamma")):
            value.copy_(1 + 0.3 * normal(value.shape))
        else:
            value.copy_(0.5 * normal(value.shape))


def images(count: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return normalised noise, shape (count, 3, 32, 32)."""
    return torch.randn(count, 3, IMG_SIZE, IMG_SIZE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plan_of(
    shape: ModelShape,
    num_tokens: Mapping[int, int] | None = None,
    kept_heads: Mapping[int, Sequence[int]] | None = None,
    *,
    source: ModelSource | None = None,
    limit: float = 0.5,
) -> PruningPlan:
    """Return a plan that keeps ``num_tokens`` (prefix included) from each site on, and some heads of some blocks."""
    blocks, count = [], shape.num_tokens
    for block in range(shape.depth):
        count = (num_tokens or {}).get(block, count)
        heads = (kept_heads or {}).get(block, range(shape.num_heads))
        blocks.append(BlockPlan(kept_heads=tuple(heads), num_tokens=count))
    return PruningPlan(
        source=source if source is not None else ModelSource(name=NAME, weights_sha256="0" * 64),
        shape=shape,
        budgets=(Budget(limit=limit),),
        blocks=tuple(blocks),
        predicted_loss_nats=0.25,
        macs=plan_macs(shape, blocks),
        dense_macs=dense_macs(shape),
        scorer="removal-gate",
        sensitivity_sha256="1" * 64,
    )


def kwargs_pairs(kwargs: Mapping[str, Any] | None = None) -> list[str]:
    """Return the arguments of ``timm.create_model`` as ``KEY=VALUE`` pairs."""
    return [f"{key}={value}" for key, value in (KWARGS | dict(kwargs or {})).items()]


def model_options(*weights: Path, kwargs: Mapping[str, Any] | None = None) -> list[str]:
    """Return the words of a command line that name the model, its size, its arguments and its weights."""
    words = [NAME, "--img-size", str(IMG_SIZE)]
    for pair in kwargs_pairs(kwargs):
        words += ["--model-kwargs", pair]
    for path in weights:
        words += ["--weights", str(path)]
    return words


def write_weights(path: Path, variant: str = "plain", *, seed: int = 0) -> Path:
    """Store a variant's tensors as safetensors and return the path."""
    save_file(make_vit(variant, seed=seed).state_dict(), path)
    return path


def load_tiny(folder: Path, variant: str = "plain", *, seed: int = 0) -> DenseModel:
    """Return a variant as ``load_dense`` gives it, from a file written to ``folder``."""
    name, kwargs = VARIANTS[variant]
    path = write_weights(folder / f"{variant.replace(' ', '_')}-{seed}.safetensors", variant, seed=seed)
    return load_dense(name, weights=[path], img_size=IMG_SIZE, model_kwargs=kwargs_pairs(kwargs))
