r"""One functional forward of a plain ViT, in pieces, with removal gates.

Every other stage runs the dense model's own modules through these functions; no class is patched. A *removal gate*
m is 1 where a component stays and 0 where it is gone, and the forward is differentiable in between:

* a token's gate multiplies its attention weight as a key in every block from its site on, by adding log m to the
  logits of its column: softmax_j(a_ij + log m_j) = m_j e^{a_ij} / sum_k m_k e^{a_ik};
* a head's gate multiplies the head's output before the projection;
* a gate of MLP hidden units multiplies their activations before the second linear layer.

At m = 1 this is the model's own forward. At m = 0 it is exactly the forward without the component, for outputs that
read the prefix tokens; average pooling is weighted by the tokens' gates, so that it holds there too.

Source:
    Token, head and unit gates are our own derivation (docs/method.md); a gate on heads before the projection is the
    one of Michel et al. (2019), "Are Sixteen Heads Really Better than One?".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from timm.layers import Attention, GluMlp, Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn


@dataclass(frozen=True)
class RemovalGates:
    """Gates of one batch; what is not named stays whole.

    Attributes:
        tokens: Site (block index) to gates of the patch tokens from that block on, shape (B or 1, num_patches) each.
        heads: Block index to gates of its heads, shape (B or 1, num_heads) each.
        units: Block index to gates of groups of MLP hidden units, shape (B or 1, groups) each, where groups divides
            the number of hidden units and a group is a run of neighbours.
        token_scale: Block index to factors of the patch tokens that enter it, shape (B or 1, num_patches) each: not
            removal (a key of zero keeps its softmax mass), but the direction of the literal z^T H z.
    """

    tokens: Mapping[int, Tensor] = field(default_factory=dict)
    heads: Mapping[int, Tensor] = field(default_factory=dict)
    units: Mapping[int, Tensor] = field(default_factory=dict)
    token_scale: Mapping[int, Tensor] = field(default_factory=dict)


def embed(model: VisionTransformer, images: Tensor) -> Tensor:
    """Return the tokens that enter block 0, shape (B, N, C), of normalised images (B, 3, H, W)."""
    return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))


def attend(
    attn: Attention,
    tokens: Tensor,
    key_bias: Tensor | None = None,
    head_gate: Tensor | None = None,
    *,
    open_length: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the attention's output (B, N, C) and its weights (B, heads, N, N), by explicit matrix products.

    Written out because fused attention gives no weights and has no second derivative.

    Args:
        attn: A timm ``Attention``, possibly with heads removed.
        tokens: Normalised input, shape (B, N, C).
        key_bias: Added to every query's logits, shape (B or 1, N).
        head_gate: Multiplies each head's output, shape (B or 1, heads).
        open_length: Whether a traced graph takes any number of tokens; else its one unknown is the batch.
    """
    qkv = attn.qkv(tokens)
    length = -1 if open_length else int(tokens.shape[1])  # -1 for the batch then, the one unknown of a traced graph
    qkv = qkv.reshape(qkv.shape[0] if open_length else -1, length, 3, attn.num_heads, attn.head_dim)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, head_dim)
    query, key = attn.q_norm(query) * attn.scale, attn.k_norm(key)
    logits = query @ key.transpose(-2, -1)
    if key_bias is not None:
        logits = logits + key_bias[:, None, None, :]
    weights = logits.softmax(dim=-1)
    heads = weights @ value  # (B, heads, N, head_dim)
    if head_gate is not None:
        heads = heads * head_gate[:, :, None, None]
    heads = heads.transpose(1, 2)
    joined = heads.reshape(heads.shape[0] if open_length else -1, length, attn.num_heads * attn.head_dim)
    return attn.proj(joined), weights


def feed_forward(mlp: Mlp | GluMlp, tokens: Tensor, unit_gate: Tensor | None = None) -> Tensor:
    """Return the MLP's output (B, N, C) for normalised tokens (B, N, C).

    Args:
        mlp: A timm ``Mlp`` or ``GluMlp``, possibly with hidden units removed.
        tokens: Shape (B, N, C).
        unit_gate: Multiplies runs of neighbouring hidden units, shape (B or 1, groups).
    """
    hidden = mlp.fc1(tokens)
    if isinstance(mlp, GluMlp):
        first, second = hidden.chunk(2, dim=-1)
        hidden = first * mlp.act(second) if mlp.gate_last else mlp.act(first) * second
    else:
        hidden = mlp.act(hidden)
    if unit_gate is not None:
        repeats = hidden.shape[-1] // unit_gate.shape[-1]
        hidden = hidden * unit_gate.repeat_interleave(repeats, dim=-1)[:, None, :]
    return mlp.fc2(hidden)


def run_block(
    block: Block,
    tokens: Tensor,
    key_bias: Tensor | None = None,
    head_gate: Tensor | None = None,
    unit_gate: Tensor | None = None,
    *,
    open_length: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return a block's output (B, N, C) and its attention weights (B, heads, N, N); the rest as in ``attend``."""
    attended, weights = attend(block.attn, block.norm1(tokens), key_bias, head_gate, open_length=open_length)
    tokens = tokens + block.ls1(attended)
    return tokens + block.ls2(feed_forward(block.mlp, block.norm2(tokens), unit_gate)), weights


def classify(model: VisionTransformer, tokens: Tensor, token_gate: Tensor | None = None) -> Tensor:
    """Return the logits (B, num_classes) of the last block's tokens (B, N, C).

    Args:
        model: The ViT.
        tokens: Output of the last block; any number of patch tokens after the prefix tokens.
        token_gate: Weights of the patch tokens in average pooling, shape (B or 1, N - num_prefix_tokens).
    """
    tokens = model.norm(tokens)
    if token_gate is None or model.global_pool != "avg":
        return model.forward_head(tokens)
    patches = tokens[:, model.num_prefix_tokens :]
    share = token_gate / token_gate.sum(dim=1, keepdim=True)
    return model.head(model.fc_norm((patches * share[:, :, None]).sum(dim=1)))


def continue_forward(model: VisionTransformer, tokens: Tensor, start: int, gates: RemovalGates) -> Tensor:
    """Return the logits (B, num_classes) of tokens (B, N, C) that enter block ``start``, under gates.

    Gates of several sites multiply. Sites before ``start`` count from ``start`` on.
    """
    prefix = model.num_prefix_tokens
    gate: Tensor | None = None
    key_bias: Tensor | None = None
    for index, block in enumerate(model.blocks):
        if index in gates.tokens:
            site_gate = gates.tokens[index]
            gate = site_gate if gate is None else gate * site_gate
            key_bias = nn.functional.pad(gate.log(), (prefix, 0))
        if index in gates.token_scale:
            scale = nn.functional.pad(gates.token_scale[index], (prefix, 0), value=1.0)
            tokens = tokens * scale[:, :, None]
        if index >= start:
            tokens, _ = run_block(block, tokens, key_bias, gates.heads.get(index), gates.units.get(index))
    return classify(model, tokens, gate)


def forward(model: VisionTransformer, images: Tensor, gates: RemovalGates | None = None) -> Tensor:
    """Return the logits (B, num_classes) of normalised images (B, 3, H, W) under gates; none given: the dense model."""
    return continue_forward(model, embed(model, images), 0, gates or RemovalGates())


def keep_tokens(tokens: Tensor, kept: Tensor, num_prefix: int) -> Tensor:
    """Return the prefix tokens and the kept patch tokens, in the order of ``kept``.

    Args:
        tokens: Shape (B, N, C).
        kept: Indices into the N - num_prefix patch tokens, shape (B, K), int64.
        num_prefix: Leading tokens that are never dropped.

    Returns:
        Shape (B, num_prefix + K, C).
    """
    index = kept.unsqueeze(-1).repeat(1, 1, int(tokens.shape[-1]))  # a traced expand looks its shape up as it runs
    return torch.cat([tokens[:, :num_prefix], tokens[:, num_prefix:].gather(1, index)], dim=1)
