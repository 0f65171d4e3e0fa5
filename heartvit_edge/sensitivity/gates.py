"""All gates of one image as one vector, so that one backward pass reaches every one of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heartvit_edge.model.forward import RemovalGates
from heartvit_edge.spec.model import ModelShape


@dataclass(frozen=True)
class GateLayout:
    """Where each gate stands in the vector: the sites' tokens, then the blocks' heads, then the blocks' unit groups.

    Attributes:
        shape: The dense model's dimensions.
        sites: Blocks before which tokens may be dropped, ascending.
        unit_groups: Groups of MLP hidden units a block; 0: no unit gates.
        scale_tokens: Whether token gates scale the token (the literal reading) instead of removing its key.
    """

    shape: ModelShape
    sites: tuple[int, ...]
    unit_groups: int = 0
    scale_tokens: bool = False

    @property
    def num_gates(self) -> int:
        """Length of the vector."""
        return len(self.sites) * self.shape.num_patches + self.shape.depth * (self.shape.num_heads + self.unit_groups)

    def ones(self, images: Tensor) -> Tensor:
        """Return the gates of the dense model for images (B, 3, H, W), shape (B, num_gates), a leaf of their type."""
        return torch.ones(len(images), self.num_gates, dtype=images.dtype, device=images.device, requires_grad=True)

    def split(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return views of values (B, num_gates): tokens (B, sites, num_patches), heads (B, depth, num_heads), units."""
        shape = self.shape
        sizes = [len(self.sites) * shape.num_patches, shape.depth * shape.num_heads, shape.depth * self.unit_groups]
        tokens, heads, units = values.split(sizes, dim=1)
        return (
            tokens.unflatten(1, (len(self.sites), shape.num_patches)),
            heads.unflatten(1, (shape.depth, shape.num_heads)),
            units.reshape(len(values), shape.depth, self.unit_groups),
        )

    def gates(self, vector: Tensor) -> RemovalGates:
        """Return the gates (B, num_gates) as the forward takes them."""
        tokens, heads, units = self.split(vector)
        by_site = {site: tokens[:, order] for order, site in enumerate(self.sites)}
        return RemovalGates(
            tokens={} if self.scale_tokens else by_site,
            token_scale=by_site if self.scale_tokens else {},
            heads=dict(enumerate(heads.unbind(1))),
            units=dict(enumerate(units.unbind(1))) if self.unit_groups else {},
        )
