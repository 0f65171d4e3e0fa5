"""Closed-form multiply-accumulates and weights of a ViT under a plan.

Counted are the matrix products: patch embedding, qkv, attention logits, attention times values, projection, MLP and
classifier. Normalisations, softmax, activations and additions are not multiply-accumulates and are left out, as in
every published count for these models. Gates that read attention weights add none.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.plan import BlockPlan

ALL = Fraction(1)


def attention_macs(shape: ModelShape, num_tokens: int, num_heads: int) -> int:
    """Return the MACs of one block's attention: qkv, logits, weighted values, projection."""
    width = num_heads * shape.head_dim
    return num_tokens * attention_params(shape, num_heads) + 2 * num_tokens**2 * width


def attention_params(shape: ModelShape, num_heads: int) -> int:
    """Return the weights of one block's qkv and projection, biases left out."""
    return 4 * shape.embed_dim * num_heads * shape.head_dim


def mlp_macs(shape: ModelShape, num_tokens: int, share: Fraction = ALL) -> int:
    """Return the MACs of one block's MLP, of whose hidden units a share stays."""
    return num_tokens * mlp_params(shape, share)


def mlp_params(shape: ModelShape, share: Fraction = ALL) -> int:
    """Return the weights of one block's MLP, biases left out."""
    return shape.embed_dim * int((shape.mlp_in_dim + shape.mlp_hidden_dim) * share)


def block_macs(shape: ModelShape, num_tokens: int, num_heads: int, share: Fraction = ALL) -> int:
    """Return the MACs of one block with that many tokens (prefix included), heads, and share of its hidden units."""
    return attention_macs(shape, num_tokens, num_heads) + mlp_macs(shape, num_tokens, share)


def fixed_macs(shape: ModelShape) -> int:
    """Return the MACs that no plan moves: patch embedding and classifier."""
    patches = shape.num_patches * shape.patch_size**2 * shape.in_chans * shape.embed_dim
    return patches + _classifier(shape)


def fixed_params(shape: ModelShape) -> int:
    """Return the weights that no plan moves: patch embedding and classifier, biases and embeddings left out."""
    return shape.patch_size**2 * shape.in_chans * shape.embed_dim + _classifier(shape)


def _classifier(shape: ModelShape) -> int:
    classifiers = 2 if shape.pool == "token+distillation" else 1
    return classifiers * shape.embed_dim * shape.num_classes


def kept_share(block: BlockPlan, unit_groups: int) -> Fraction:
    """Return the share of a block's MLP hidden units that stays, of that many groups."""
    return ALL if block.kept_units is None else Fraction(len(block.kept_units), unit_groups)


def plan_macs(shape: ModelShape, blocks: Sequence[BlockPlan], unit_groups: int = 0) -> int:
    """Return the MACs of one image's forward under a plan."""
    return fixed_macs(shape) + sum(
        block_macs(shape, block.num_tokens, len(block.kept_heads), kept_share(block, unit_groups)) for block in blocks
    )


def plan_params(shape: ModelShape, blocks: Sequence[BlockPlan], unit_groups: int = 0) -> int:
    """Return the weights of the matrix products under a plan; times the bytes of one, what a forward must read."""
    return fixed_params(shape) + sum(
        attention_params(shape, len(block.kept_heads)) + mlp_params(shape, kept_share(block, unit_groups))
        for block in blocks
    )


def dense_macs(shape: ModelShape) -> int:
    """Return the MACs of one image's dense forward."""
    return fixed_macs(shape) + shape.depth * block_macs(shape, shape.num_tokens, shape.num_heads)


def dense_params(shape: ModelShape) -> int:
    """Return the weights of the dense model's matrix products."""
    return fixed_params(shape) + shape.depth * (attention_params(shape, shape.num_heads) + mlp_params(shape))
