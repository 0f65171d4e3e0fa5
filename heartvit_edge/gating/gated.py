"""The pruned model that is exported: heads and MLP units sliced away, tokens dropped on the way by a gate."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from heartvit_edge.gating.gate import AttentionGate, GateName
from heartvit_edge.model.forward import classify, embed, keep_tokens, run_block
from heartvit_edge.model.surgery import keep_heads, keep_units
from heartvit_edge.spec.plan import BlockPlan, PruningPlan

BlockRunner = Callable[..., tuple[Tensor, Tensor]]
"""Runs a block as ``model.forward.run_block`` does, with its arguments and results."""


class GatedViT(nn.Module):
    """A ViT that carries out a pruning plan; every shape but the batch is static.

    Attributes:
        backbone: The dense model without the removed heads and MLP units.
        gate: Returns, for a site, its tokens and the attention weights of the block before, what each patch token is
            worth there (``AttentionGate.forward``); None where the plan drops none.
        num_keep: Site to the number of patch tokens kept from that block on.
    """

    def __init__(self, dense: VisionTransformer, plan: PruningPlan, gate: GateName | nn.Module | None) -> None:
        """Copy the dense model and slice its heads and MLP units away.

        Args:
            dense: The plan's model; it is left as it is.
            plan: What each block keeps.
            gate: What chooses tokens, by name or as a module, which becomes part of this one; None where the plan drops
                none.

        Raises:
            InputError: If the gate reads a class token that the model does not have.
            ValueError: If the plan drops tokens and no gate is given, or drops them before block 0.
        """
        super().__init__()
        if plan.sites and gate is None:
            raise ValueError("a plan that drops tokens needs a gate, found none")
        if 0 in plan.sites:
            raise ValueError("a gate reads the attention of the block before its site, and block 0 has none")
        self.gate = AttentionGate(gate, dense) if isinstance(gate, str) else gate
        self.backbone = keep_heads(dense, [block.kept_heads for block in plan.blocks])
        if plan.unit_groups:
            self.backbone = keep_units(self.backbone, [kept_units(block, plan) for block in plan.blocks])
        self.num_keep = {site: count - plan.shape.num_prefix_tokens for site, count in plan.sites.items()}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the logits (B, num_classes), then for each site the kept patches (B, K), int32, ascending.

        Patches are numbered on the dense grid, row-major, whatever an earlier site dropped.

        Args:
            images: Normalised, shape (B, 3, H, W).
        """
        tokens, kept_at_sites = self.run_blocks(images)
        return (classify(self.backbone, tokens), *kept_at_sites)

    def run_blocks(self, images: Tensor, run: BlockRunner = run_block) -> tuple[Tensor, list[Tensor]]:
        """Return the last block's tokens (B, N, C), and for each site the kept patches as ``forward`` does.

        Args:
            images: Normalised, shape (B, 3, H, W).
            run: What runs a block; training gives one that keeps no activations.
        """
        prefix = self.backbone.num_prefix_tokens
        tokens = embed(self.backbone, images)
        weights: Tensor | None = None
        patches: Tensor | None = None
        kept_at_sites = []
        for index, block in enumerate(self.backbone.blocks):
            if index in self.num_keep and self.gate is not None and weights is not None:
                scores = self.gate(index, tokens, weights)
                count = self.num_keep[index]
                best = scores.topk(count, dim=1).indices
                kept = best.topk(count, dim=1, largest=False).values  # ascending; a traced sort has no constant length
                tokens = keep_tokens(tokens, kept, prefix)
                patches = kept if patches is None else patches.gather(1, kept)
                kept_at_sites.append(patches.to(torch.int32))
            tokens, weights = run(block, tokens)
        return tokens, kept_at_sites


def kept_units(block: BlockPlan, plan: PruningPlan) -> list[int]:
    """Return the MLP hidden units that a block keeps, ascending: those of its groups, each a run of neighbours."""
    count = plan.shape.mlp_hidden_dim
    if block.kept_units is None:
        return list(range(count))
    length = count // plan.unit_groups
    return [unit for group in block.kept_units for unit in range(group * length, (group + 1) * length)]
