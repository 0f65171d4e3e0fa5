"""A gate with weights: a small network a site that foresees what each token is worth."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.plan import PruningPlan

HIDDEN = 128
"""Hidden units of each site's network, where the limit on MACs leaves room for as many."""
MOST_MACS = 0.01
"""Largest share of the dense model's MACs that a plan's gates may take together."""
SMALLEST = 1e-6
"""Attention below this counts as this, so that its logarithm is finite."""


class TokenGate(nn.Module):
    """One network a site, from what the engine has at hand there to a score of each patch token.

    Attributes:
        networks: Site, as text, to its network.
        open_length: Whether a traced graph takes any number of tokens; else the number traced is a constant of it.
    """

    open_length: bool = False

    def __init__(self, shape: ModelShape, heads_before: Mapping[int, int], hidden: int = HIDDEN) -> None:
        """Draw the weights anew.

        Args:
            shape: The dense model.
            heads_before: Site to the heads that the block before it keeps.
            hidden: Hidden units of each network.
        """
        super().__init__()
        self.num_prefix = shape.num_prefix_tokens
        self.networks = nn.ModuleDict(
            {
                str(site): SiteNetwork(shape.embed_dim, heads, hidden, has_prefix=self.num_prefix > 0)
                for site, heads in heads_before.items()
            }
        )

    def network(self, site: int) -> SiteNetwork:
        """Return the network of a site."""
        found = self.networks[str(site)]
        assert isinstance(found, SiteNetwork)
        return found

    def forward(self, site: int, tokens: Tensor, weights: Tensor) -> Tensor:
        """Return what each patch token is worth, shape (B, N - num_prefix); higher is kept.

        Args:
            site: Block before which tokens go.
            tokens: What enters it, shape (B, N, C).
            weights: Attention weights of the block before, shape (B, heads, N, N).
        """
        features = attention_features(weights, self.num_prefix, open_length=self.open_length)
        scores: Tensor = self.network(site)(tokens, features, num_prefix=self.num_prefix)
        return scores


class SiteNetwork(nn.Module):
    """Two hidden layers on each patch token, the first fed by the image's summary and by attention too."""

    def __init__(self, embed_dim: int, heads: int, hidden: int, *, has_prefix: bool) -> None:
        """Draw the weights anew."""
        super().__init__()
        self.norm = nn.LayerNorm(embed_dim)
        self.patch = nn.Linear(embed_dim, hidden)
        self.summary = nn.Linear(embed_dim * (1 + has_prefix), hidden, bias=False)
        self.attention = nn.Linear(num_features(heads, has_prefix=has_prefix), hidden, bias=False)
        self.hidden = nn.Linear(hidden, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, tokens: Tensor, attention: Tensor, *, num_prefix: int) -> Tensor:
        """Return scores (B, P) of tokens (B, num_prefix + P, C) with attention features (B, P, F)."""
        tokens = self.norm(tokens)
        patches = tokens[:, num_prefix:]
        summary = patches.mean(dim=1)
        if num_prefix:
            summary = torch.cat([tokens[:, 0], summary], dim=1)
        first = functional.gelu(self.patch(patches) + self.summary(summary)[:, None] + self.attention(attention))
        second = first + functional.gelu(self.hidden(first))
        scores: Tensor = self.score(second).squeeze(-1)
        return scores


def attention_features(weights: Tensor, num_prefix: int, *, open_length: bool = False) -> Tensor:
    """Return logarithms of attention, each patch's share times the number of tokens, shape (B, P, F).

    By head: what the patch receives, mean over queries, and where there is a class token what it receives from that and
    gives to it.

    Args:
        weights: Attention weights, shape (B, heads, num_prefix + P, num_prefix + P).
        num_prefix: Leading tokens, the class token first, or none.
        open_length: As in ``TokenGate``.
    """
    found = [weights[:, :, :, num_prefix:].mean(dim=2)]
    if num_prefix:
        found += [weights[:, :, 0, num_prefix:], weights[:, :, num_prefix:, 0]]
    length = weights.shape[-1] if open_length else int(weights.shape[-1])
    return (torch.cat(found, dim=1).clamp_min(SMALLEST) * length).log().transpose(1, 2)


def num_features(heads: int, *, has_prefix: bool) -> int:
    """Return F of ``attention_features``."""
    return heads * (3 if has_prefix else 1)


def gate_macs(shape: ModelShape, heads_before: Mapping[int, int], patches: Mapping[int, int], hidden: int) -> int:
    """Return the multiply-accumulates of a gate for one image.

    Args:
        shape: The dense model.
        heads_before: Site to the heads that the block before it keeps.
        patches: Site to the patch tokens that enter it.
        hidden: Hidden units of each network.
    """
    has_prefix = shape.num_prefix_tokens > 0
    total = 0
    for site, heads in heads_before.items():
        each = shape.embed_dim + num_features(heads, has_prefix=has_prefix) + hidden + 1
        total += hidden * (patches[site] * each + shape.embed_dim * (1 + has_prefix))
    return total


def make_token_gate(plan: PruningPlan) -> TokenGate:
    """Return a gate for a plan, its networks as large as ``HIDDEN`` and ``MOST_MACS`` allow, in steps of eight.

    Raises:
        ValueError: If the plan drops no tokens, or drops them before block 0.
    """
    if not plan.sites or 0 in plan.sites:
        raise ValueError(f"a gate needs sites after block 0, found {sorted(plan.sites)}")
    heads_before = {site: len(plan.blocks[site - 1].kept_heads) for site in plan.sites}
    patches = {site: plan.blocks[site - 1].num_tokens - plan.shape.num_prefix_tokens for site in plan.sites}
    limit = MOST_MACS * plan.dense_macs
    hidden = next(
        (size for size in range(HIDDEN, 8, -8) if gate_macs(plan.shape, heads_before, patches, size) <= limit), 8
    )
    return TokenGate(plan.shape, heads_before, hidden)
