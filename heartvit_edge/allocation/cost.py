"""Closed-form multiply-accumulates of a ViT under a plan.

Counted are the matrix products: patch embedding, qkv, attention logits, attention times values, projection, MLP and
classifier. Normalisations, softmax, activations and additions are not multiply-accumulates and are left out, as in
every published count for these models.
"""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.plan import BlockPlan


def attention_macs(shape: ModelShape, num_tokens: int, num_heads: int) -> int:
    """Return the MACs of one block's attention: qkv, logits, weighted values, projection."""
    width = num_heads * shape.head_dim
    return num_tokens * shape.embed_dim * 3 * width + 2 * num_tokens**2 * width + num_tokens * width * shape.embed_dim


def mlp_macs(shape: ModelShape, num_tokens: int) -> int:
    """Return the MACs of one block's MLP."""
    return num_tokens * shape.embed_dim * (shape.mlp_in_dim + shape.mlp_hidden_dim)


def block_macs(shape: ModelShape, num_tokens: int, num_heads: int) -> int:
    """Return the MACs of one block with that many tokens (prefix included) and heads."""
    return attention_macs(shape, num_tokens, num_heads) + mlp_macs(shape, num_tokens)


def fixed_macs(shape: ModelShape) -> int:
    """Return the MACs that no plan moves: patch embedding and classifier."""
    patches = shape.num_patches * shape.patch_size**2 * shape.in_chans * shape.embed_dim
    classifiers = 2 if shape.pool == "token+distillation" else 1
    return patches + classifiers * shape.embed_dim * shape.num_classes


def plan_macs(shape: ModelShape, blocks: Sequence[BlockPlan]) -> int:
    """Return the MACs of one image's forward under a plan."""
    return fixed_macs(shape) + sum(block_macs(shape, block.num_tokens, len(block.kept_heads)) for block in blocks)


def dense_macs(shape: ModelShape) -> int:
    """Return the MACs of one image's dense forward."""
    return fixed_macs(shape) + shape.depth * block_macs(shape, shape.num_tokens, shape.num_heads)
