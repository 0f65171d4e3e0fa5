"""Structural removal of heads and MLP hidden units, by slicing the rows and columns that carry them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from timm.layers import GluMlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


def keep_heads(model: VisionTransformer, kept: Sequence[Sequence[int]]) -> VisionTransformer:
    """Return a copy of the model in which each block has only the kept heads.

    The head width stays; rows of ``qkv`` and columns of ``proj`` go. The output equals that of the model with the
    other heads' gates at 0.

    Args:
        model: A plain ViT.
        kept: For each block, indices of the heads to keep, ascending, at least one.

    Raises:
        ValueError: If a block keeps no head, or the number of blocks differs.
    """
    pruned = copy.deepcopy(model)
    for block, heads in zip(pruned.blocks, kept, strict=True):
        if not heads:
            raise ValueError("a block must keep at least one head, found none")
        attn = block.attn
        if len(heads) == attn.num_heads:
            continue
        within = torch.arange(attn.head_dim)
        columns = (torch.tensor(list(heads))[:, None] * attn.head_dim + within).flatten()
        rows = torch.cat([part * attn.num_heads * attn.head_dim + columns for part in range(3)])
        attn.qkv = _slice_linear(attn.qkv, rows=rows)
        attn.proj = _slice_linear(attn.proj, columns=columns)
        attn.num_heads = len(heads)
        attn.attn_dim = len(heads) * attn.head_dim
    return pruned


def keep_units(model: VisionTransformer, kept: Sequence[Sequence[int]]) -> VisionTransformer:
    """Return a copy of the model in which each block's MLP has only the kept hidden units.

    Args:
        model: A plain ViT.
        kept: For each block, indices of the hidden units to keep, ascending, at least one.

    Raises:
        ValueError: If a block keeps no unit, or the number of blocks differs.
    """
    pruned = copy.deepcopy(model)
    for block, units in zip(pruned.blocks, kept, strict=True):
        if not units:
            raise ValueError("a block must keep at least one hidden unit, found none")
        mlp = block.mlp
        columns = torch.tensor(list(units))
        rows = torch.cat([columns, mlp.fc2.in_features + columns]) if isinstance(mlp, GluMlp) else columns
        mlp.fc1 = _slice_linear(mlp.fc1, rows=rows)
        mlp.fc2 = _slice_linear(mlp.fc2, columns=columns)
    return pruned


def _slice_linear(linear: nn.Linear, *, rows: Tensor | None = None, columns: Tensor | None = None) -> nn.Linear:
    """Return a linear layer with only some rows (outputs) or columns (inputs); a column slice keeps the bias whole."""
    weight: Tensor = linear.weight.detach()
    bias: Tensor | None = linear.bias
    if rows is not None:
        weight = weight[rows]
        bias = bias[rows] if bias is not None else None
    if columns is not None:
        weight = weight[:, columns]
    sliced = nn.Linear(
        weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device, dtype=weight.dtype
    )
    sliced.weight = nn.Parameter(weight.clone(), requires_grad=linear.weight.requires_grad)
    if bias is not None:
        sliced.bias = nn.Parameter(bias.detach().clone(), requires_grad=linear.weight.requires_grad)
    return sliced
