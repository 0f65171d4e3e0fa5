"""A small gate with weights, in the form that the gated model takes: a linear layer on tokens and class attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TrainableGate(nn.Module):
    """Scores each patch by its token and the class token's attention to it; the same layer at every site."""

    def __init__(self, dim: int, num_prefix: int, *, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_prefix = num_prefix
        self.dropout = nn.Dropout(dropout)
        self.layer = nn.Linear(dim + 1, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in self.layer.parameters():
                value.copy_(torch.randn(value.shape, generator=generator))

    def forward(self, _site: int, tokens: Tensor, weights: Tensor) -> Tensor:
        attention = weights[:, :, 0, self.num_prefix :].mean(dim=1).unsqueeze(-1)
        return self.layer(self.dropout(torch.cat([tokens[:, self.num_prefix :], attention], dim=2))).squeeze(-1)
