r"""The gated forward with its hard choice relaxed, so that a gate's weights receive a gradient.

No token leaves. At a site each patch gets a removal gate between 0 and 1, as in ``model.forward``:

    m_j = sigmoid((s_j - c) / (T * std(s)))

with s the gate's scores of that image and c half-way between the K-th and the (K+1)-th largest. log m is added to the
logits of the patch's key in every later block, and the gates of several sites multiply. As T goes to 0, m becomes the
hard choice, and the logits those of ``GatedViT`` for whatever reads prefix tokens or the gates' weighted mean.

A later site's gate sees, as in the hard forward, the patches that earlier sites kept; the others keep the removal gate
that they left with.

Source:
    Removal gates are our own derivation (docs/method.md); a sigmoid around the K-th score as a relaxed top-k is common
    in soft token selection. Scores are measured in standard deviations, so that T means the same for every gate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from heartvit_edge.gating.gated import BlockRunner, GatedViT
from heartvit_edge.model.forward import classify, embed, keep_tokens, run_block


def relaxed_logits(model: GatedViT, images: Tensor, temperature: float, run: BlockRunner = run_block) -> Tensor:
    """Return the logits (B, num_classes) of the gated model with relaxed removal at its sites.

    Args:
        model: The gated model; its plan drops tokens.
        images: Normalised, shape (B, 3, H, W).
        temperature: T above, in standard deviations of an image's scores, above 0.
        run: What runs a block.

    Raises:
        ValueError: If the temperature is not above 0, or the model has no gate.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, found {temperature}")
    if model.gate is None or not model.num_keep:
        raise ValueError("the plan drops no tokens, so that there is nothing to relax")
    prefix = model.backbone.num_prefix_tokens
    tokens = embed(model.backbone, images)
    batch, num_patches = tokens.shape[0], tokens.shape[1] - prefix
    log_gate: Tensor | None = None
    alive = torch.arange(num_patches, device=tokens.device).expand(batch, -1)  # (B, K) as the hard forward has them
    weights: Tensor | None = None
    for index, block in enumerate(model.backbone.blocks):
        if index in model.num_keep and weights is not None:
            scores = model.gate(index, keep_tokens(tokens, alive, prefix), among(weights, alive, prefix))
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            if log_gate is None:
                log_gate = scores.new_zeros(batch, num_patches)
            count = model.num_keep[index]
            log_gate = log_gate.scatter_add(1, alive, log_keep(scores, count, temperature))
            alive = alive.gather(1, scores.topk(count, dim=1).indices.sort(dim=1).values)
        key_bias = None if log_gate is None else functional.pad(log_gate, (prefix, 0))
        tokens, weights = run(block, tokens, key_bias)
    return classify(model.backbone, tokens, None if log_gate is None else log_gate.exp())


def log_keep(scores: Tensor, count: int, temperature: float) -> Tensor:
    """Return the logarithm of each patch's removal gate, shape (B, N).

    Args:
        scores: What each patch is worth, shape (B, N); higher is kept.
        count: Patches to keep, 1 <= count < N.
        temperature: In standard deviations of an image's scores, above 0.
    """
    best = scores.topk(count + 1, dim=1).values
    threshold = best[:, -2:].mean(dim=1, keepdim=True)
    spread = scores.var(dim=1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny).sqrt()
    return functional.logsigmoid((scores - threshold) / (temperature * spread))


def among(weights: Tensor, alive: Tensor, prefix: int) -> Tensor:
    """Return the attention weights among the prefix tokens and the patches alive, (B, heads, N', N') of (.., N, N)."""
    kept = functional.pad(alive + prefix, (prefix, 0))
    kept[:, :prefix] = torch.arange(prefix, device=alive.device)
    heads = weights.shape[1]
    rows = kept[:, None, :, None].expand(-1, heads, -1, weights.shape[-1])
    columns = kept[:, None, None, :].expand(-1, heads, kept.shape[1], -1)
    return weights.gather(2, rows).gather(3, columns)


def has_weights(gate: nn.Module | None) -> bool:
    """Return whether there is something in a gate to train."""
    return gate is not None and any(True for _ in gate.parameters())
