"""A gate with weights: a small network a site that foresees what each token is worth."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.plan import PruningPlan

HIDDEN = 128
"""Hidden units of each site's network, where the limit on MACs leaves room for as many."""
MOST_MACS = 0.01
"""Largest share of the dense model's MACs that a plan's gates may take together."""


class TokenGate(nn.Module):
    """One network a site, from the tokens that enter it to a score of each patch token.

    Attention is no input, so that every block's can be fused in an engine; it made the choice worse, besides
    (docs/gates.md).

    Attributes:
        networks: Site, as text, to its network.
    """

    def __init__(self, shape: ModelShape, sites: Iterable[int], hidden: int = HIDDEN) -> None:
        """Draw the weights anew.

        Args:
            shape: The dense model.
            sites: Blocks before which tokens go.
            hidden: Hidden units of each network.
        """
        super().__init__()
        self.num_prefix = shape.num_prefix_tokens
        self.networks = nn.ModuleDict(
            {str(site): SiteNetwork(shape.embed_dim, hidden, has_prefix=self.num_prefix > 0) for site in sites}
        )

    def network(self, site: int) -> SiteNetwork:
        """Return the network of a site."""
        found = self.networks[str(site)]
        assert isinstance(found, SiteNetwork)
        return found

    def forward(self, site: int, tokens: Tensor, _weights: Tensor | None = None) -> Tensor:
        """Return what each patch token is worth, shape (B, N - num_prefix); higher is kept.

        Args:
            site: Block before which tokens go.
            tokens: What enters it, shape (B, N, C).
        """
        scores: Tensor = self.network(site)(tokens, num_prefix=self.num_prefix)
        return scores


class SiteNetwork(nn.Module):
    """Two hidden layers on each patch token, the first fed by the image's summary too."""

    def __init__(self, embed_dim: int, hidden: int, *, has_prefix: bool) -> None:
        """Draw the weights anew."""
        super().__init__()
        self.norm = nn.LayerNorm(embed_dim)
        self.patch = nn.Linear(embed_dim, hidden)
        self.summary = nn.Linear(embed_dim * (1 + has_prefix), hidden, bias=False)
        self.hidden = nn.Linear(hidden, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, tokens: Tensor, *, num_prefix: int) -> Tensor:
        """Return scores (B, P) of tokens (B, num_prefix + P, C)."""
        tokens = self.norm(tokens)
        patches = tokens[:, num_prefix:]
        summary = patches.mean(dim=1)
        if num_prefix:
            summary = torch.cat([tokens[:, 0], summary], dim=1)
        first = functional.gelu(self.patch(patches) + self.summary(summary)[:, None])
        second = first + functional.gelu(self.hidden(first))
        scores: Tensor = self.score(second).squeeze(-1)
        return scores


def gate_macs(shape: ModelShape, patches: Iterable[int], hidden: int) -> int:
    """Return the multiply-accumulates of a gate for one image.

    Args:
        shape: The dense model.
        patches: Patch tokens that enter each site.
        hidden: Hidden units of each network.
    """
    summary = shape.embed_dim * (1 + (shape.num_prefix_tokens > 0))
    return sum(hidden * (count * (shape.embed_dim + hidden + 1) + summary) for count in patches)


def make_token_gate(plan: PruningPlan) -> TokenGate:
    """Return a gate for a plan, its networks as large as ``HIDDEN`` and ``MOST_MACS`` allow, in steps of eight.

    Raises:
        ValueError: If the plan drops no tokens, or drops them before block 0.
    """
    if not plan.sites or 0 in plan.sites:
        raise ValueError(f"a gate needs sites after block 0, found {sorted(plan.sites)}")
    patches = entering(plan)
    limit = MOST_MACS * plan.dense_macs
    hidden = next((size for size in range(HIDDEN, 8, -8) if gate_macs(plan.shape, patches, size) <= limit), 8)
    return TokenGate(plan.shape, plan.sites, hidden)


def entering(plan: PruningPlan) -> list[int]:
    """Return the patch tokens that enter each site of a plan."""
    return [plan.blocks[site - 1].num_tokens - plan.shape.num_prefix_tokens for site in plan.sites]
