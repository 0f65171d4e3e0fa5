"""A gate that chooses at random, in a graph without random numbers: what every other gate must beat."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from heartvit_edge.spec.plan import PruningPlan

TURNS = 2.0
"""Standard deviation of a patch's angle over images, in turns, were their mean tokens unrelated."""


class RandomGate(nn.Module):
    """Scores that depend on the image and not on what its patches are worth.

    Each patch position has a random direction and a random offset, drawn once from a seed. The score is the projection
    of the image's normalised mean patch token on that direction, plus the offset, modulo one. So each position is as
    likely as any other to be kept, images differ in which are, and rounding moves few of them, where a hash of the
    values would change them all. Nothing of a patch itself enters its score but through the mean.
    """

    def __init__(self, plan: PruningPlan, seed: int = 0) -> None:
        """Draw directions and offsets for each site of the plan."""
        super().__init__()
        self._num_prefix = plan.shape.num_prefix_tokens
        generator = torch.Generator().manual_seed(seed)
        before = plan.shape.num_tokens
        for site, num_tokens in plan.sites.items():
            count = before - self._num_prefix
            directions = torch.randn(plan.shape.embed_dim, count, generator=generator)
            self.register_buffer(f"directions_{site}", directions * (TURNS / math.sqrt(plan.shape.embed_dim)))
            self.register_buffer(f"offsets_{site}", torch.rand(count, generator=generator))
            before = num_tokens

    def forward(self, site: int, tokens: Tensor, _weights: Tensor | None) -> Tensor:
        """Return scores in [0, 1), shape (B, N - num_prefix).

        Args:
            site: Block before which tokens go.
            tokens: What enters it, shape (B, N, C).
            _weights: Attention weights of the block before, which play no part.
        """
        mean = tokens[:, self._num_prefix :].mean(dim=1)
        turns = nn.functional.layer_norm(mean, [int(mean.shape[-1])]) @ self.get_buffer(f"directions_{site}")
        turns = turns + self.get_buffer(f"offsets_{site}")
        return turns - turns.floor()
