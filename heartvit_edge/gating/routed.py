"""A gated model in two parts: a stem that says how many tokens each image needs, and tails that keep so many."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.reduce import SMALLEST_NORM
from heartvit_edge.gating.token_gate import TokenGate
from heartvit_edge.model.forward import classify
from heartvit_edge.spec.routing import Unit

ITSELF = 2.0
"""Taken from a token's cosine to itself, so that another one is the likest."""


class Stem(nn.Module):
    """The blocks before the first site, the gate there, and how many tokens it finds that an image needs.

    Attributes:
        model: The gated model.
        threshold: Most that all which an image loses at the first site may be worth together.
        limits: The fewest and the most patch tokens that it asks for.
    """

    def __init__(self, model: GatedViT, threshold: float, limits: tuple[int, int]) -> None:
        """Take a model whose plan has sites.

        Args:
            model: The gated model.
            threshold: In the unit of ``unit_of``.
            limits: The fewest and the most patch tokens to ask for.
        """
        super().__init__()
        self.model, self.threshold, self.limits = model, threshold, limits
        grid = model.backbone.patch_embed.num_patches
        # Running sums as a matrix product, which every runtime has.
        self.register_buffer("sums", torch.ones(grid, grid).triu(), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return tokens (B, N, C), scores (B, P) unless tokens are merged, and the count that each image needs.

        The count, shape (B,) int32, is that of the fewest patch tokens such that all others are worth no more than the
        threshold together, within the limits.

        Args:
            images: Normalised, shape (B, 3, H, W).
        """
        tokens, scores = self.model.run_stem(images)
        spent = self.spent(tokens, scores)
        fits = (spent <= self.threshold).to(torch.int32).sum(dim=1)
        fewest, most = self.limits
        needed = (int(spent.shape[1]) - fits).clamp(fewest, most).to(torch.int32)
        return (tokens, needed) if scores is None else (tokens, scores, needed)

    def spent(self, tokens: Tensor, scores: Tensor | None) -> Tensor:
        """Return what losing the 1, 2, .. P patch tokens of least worth costs, shape (B, P), ascending."""
        worth = token_worth(self.model, tokens, scores)
        least = worth.topk(int(worth.shape[1]), dim=1, largest=False).values
        return least @ self.get_buffer("sums")


class Tail(nn.Module):
    """The blocks from the first site on, with constant counts.

    Attributes:
        model: The gated model.
        num_keep: Site to the patch tokens from there on.
    """

    def __init__(self, model: GatedViT, num_keep: Mapping[int, int]) -> None:
        """Take a model whose sites these are."""
        super().__init__()
        self.model, self.num_keep = model, dict(num_keep)

    def forward(self, tokens: Tensor, scores: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return what ``GatedViT.forward`` does, of what the stem hands on."""
        tokens, kept, sizes = self.model.run_tail(tokens, scores, num_keep=self.num_keep)
        return (classify(self.model.backbone, tokens, sizes), *kept)


def unit_of(model: GatedViT) -> Unit:
    """Return what a token's worth is measured in."""
    if model.gate is None:
        return "unlikeness"
    return "share of nats" if isinstance(model.gate, TokenGate) else "share of attention"


def token_worth(model: GatedViT, tokens: Tensor, scores: Tensor | None) -> Tensor:
    """Return what each patch token is worth at the first site, not negative, shape (B, P).

    Args:
        model: The gated model.
        tokens: What enters the site, shape (B, N, C).
        scores: The gate's, shape (B, P); None where tokens are merged.
    """
    unit = unit_of(model)
    if unit == "unlikeness":
        patches = tokens[:, model.backbone.num_prefix_tokens :]
        directions = patches / patches.norm(dim=-1, keepdim=True).clamp(min=SMALLEST_NORM)
        cosines = directions @ directions.transpose(1, 2) - ITSELF * torch.eye(int(patches.shape[1]))
        return (1 - cosines.topk(1, dim=2).values[:, :, 0]).clamp(min=0)
    assert scores is not None
    # Of nats, shares: small sums foresee the loss of many tokens far too low (gating.per_input).
    return scores.softmax(dim=1) if unit == "share of nats" else scores / scores.sum(dim=1, keepdim=True)
