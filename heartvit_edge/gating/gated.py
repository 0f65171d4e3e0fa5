"""The pruned model that is exported: heads and MLP units sliced away, tokens dropped, fused or merged on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from heartvit_edge.gating.gate import AttentionGate, GateName
from heartvit_edge.gating.reduce import MERGING, REDUCTIONS, Count, Reduced, check_reduction, num_listed, reduction_at
from heartvit_edge.model.forward import classify, embed, run_block
from heartvit_edge.model.surgery import keep_heads, keep_units
from heartvit_edge.spec.plan import BlockPlan, PruningPlan
from heartvit_edge.spec.reduction import Reduction

BlockRunner = Callable[..., tuple[Tensor, Tensor]]
"""Runs a block as ``model.forward.run_block`` does, with its arguments and results."""


class GatedViT(nn.Module):
    """A ViT that carries out a pruning plan; every shape but the batch is static.

    Attributes:
        backbone: The dense model without the removed heads and MLP units.
        gate: Returns, for a site, its tokens and the attention weights of the block before, what each patch token is
            worth there (``AttentionGate.forward``); None where the plan drops none or they are merged.
        reduction: What becomes of tokens that do not go on by themselves.
        proportional: Whether attention counts a merged token as often as it stands for a patch.
        num_keep: Site to the number of patch tokens from that block on.
        num_listed: Site to the number of patches in its output.
    """

    def __init__(
        self,
        dense: VisionTransformer,
        plan: PruningPlan,
        gate: GateName | nn.Module | None,
        reduction: Reduction = "drop",
        *,
        proportional: bool = True,
    ) -> None:
        """Copy the dense model and slice its heads and MLP units away.

        Args:
            dense: The plan's model; it is left as it is.
            plan: What each block keeps.
            gate: What chooses tokens, by name or as a module, which becomes part of this one; None where the plan drops
                none or they are merged, which likeness decides.
            reduction: What becomes of the tokens that do not go on by themselves; ``join`` takes a module's scores for
                logarithms of what tokens are worth, and a named gate's for shares.
            proportional: Add the logarithm of a merged token's size to its attention logits, as ToMe does.

        Raises:
            InputError: If the gate reads a class token that the model does not have, or the reduction cannot carry out
                the plan.
            ValueError: If the plan drops tokens and no gate is given, or drops them before block 0, or a gate is given
                that nothing asks.
        """
        super().__init__()
        check_reduction(reduction, plan)
        if reduction == "merge":
            if gate is not None:
                raise ValueError("tokens are merged by their likeness, which no gate decides: expected none")
        elif plan.sites and gate is None:
            raise ValueError("a plan that drops tokens needs a gate, found none")
        elif 0 in plan.sites:
            raise ValueError("a gate reads the attention of the block before its site, and block 0 has none")
        self.gate = AttentionGate(gate, dense) if isinstance(gate, str) else gate
        self.backbone = keep_heads(dense, [block.kept_heads for block in plan.blocks])
        if plan.unit_groups:
            self.backbone = keep_units(self.backbone, [kept_units(block, plan) for block in plan.blocks])
        self.reduction, self.proportional = reduction, proportional
        self.num_keep = {site: count - plan.shape.num_prefix_tokens for site, count in plan.sites.items()}
        self.num_listed = {site: num_listed(reduction, count) for site, count in self.num_keep.items()}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the logits (B, num_classes), then for each site the patches that it keeps (B, K), int32, ascending.

        Patches are numbered on the dense grid, row-major, whatever an earlier site removed. A fused token has no
        number; a merged one has that of the patch that the others joined.

        Args:
            images: Normalised, shape (B, 3, H, W).
        """
        tokens, kept_at_sites, sizes = self.run_blocks(images)
        return (classify(self.backbone, tokens, sizes), *kept_at_sites)

    def run_blocks(
        self, images: Tensor, run: BlockRunner = run_block, num_keep: Mapping[int, Count] | None = None
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Return the last block's tokens (B, N, C), for each site the kept patches as ``forward`` does, and sizes.

        The sizes, shape (B or 1, N - num_prefix), are the patches that each patch token stands for; None for one each.

        Args:
            images: Normalised, shape (B, 3, H, W).
            run: What runs a block; training gives one that keeps no activations.
            num_keep: Other counts at the plan's sites than the plan's.
        """
        return self.run_tail(*self.run_stem(images, run), run, num_keep)

    @property
    def first_site(self) -> int:
        """The first block before which tokens go; the number of blocks where none do."""
        return min(self.num_keep, default=len(self.backbone.blocks))

    def run_stem(self, images: Tensor, run: BlockRunner = run_block) -> tuple[Tensor, Tensor | None]:
        """Return the tokens (B, N, C) that enter the first site, and what each is worth there (B, N - num_prefix).

        The worth is None where no gate chooses. The arguments are those of ``run_blocks``.
        """
        tokens = embed(self.backbone, images)
        weights: Tensor | None = None
        for block in self.backbone.blocks[: self.first_site]:
            tokens, weights = run(block, tokens, None)
        scores = None if self.gate is None or not self.num_keep else self.gate(self.first_site, tokens, weights)
        return tokens, scores

    def run_tail(
        self,
        tokens: Tensor,
        scores: Tensor | None,
        run: BlockRunner = run_block,
        num_keep: Mapping[int, Count] | None = None,
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Return what ``run_blocks`` does, of what ``run_stem`` does."""
        counts = self.num_keep if num_keep is None else num_keep
        weights: Tensor | None = None
        patches: Tensor | None = None
        sizes: Tensor | None = None
        key_bias: Tensor | None = None
        kept_at_sites = []
        for index, block in enumerate(self.backbone.blocks[self.first_site :], start=self.first_site):
            if index in self.num_keep:
                if self.gate is not None and index > self.first_site:
                    scores = self.gate(index, tokens, weights)
                reduced = self.reduce(index, tokens, scores, sizes, counts[index])
                tokens, sizes = reduced.tokens, reduced.sizes
                key_bias = self.key_bias(tokens, sizes)
                patches = reduced.kept if patches is None else patches.gather(1, reduced.kept)
                kept_at_sites.append(patches.to(torch.int32))
            tokens, weights = run(block, tokens, key_bias)
        return tokens, kept_at_sites, sizes

    def reduce(self, site: int, tokens: Tensor, scores: Tensor | None, sizes: Tensor | None, count: Count) -> Reduced:
        """Return what goes on from a site of the tokens (B, N, C) that enter it.

        Args:
            site: The block.
            tokens: What enters it.
            scores: What the gate says that each patch token is worth, shape (B, N - num_prefix).
            sizes: The sizes that the site before left; None before the first.
            count: Patch tokens to leave.
        """
        how = reduction_at(self.reduction, site, len(self.backbone.blocks))
        if how == "join" and scores is not None and isinstance(self.gate, AttentionGate):
            scores = scores.log()
        return REDUCTIONS[how](tokens, scores, sizes, count, self.backbone.num_prefix_tokens)

    def key_bias(self, tokens: Tensor, sizes: Tensor | None) -> Tensor | None:
        """Return what is added to attention logits (B, N): of merged tokens the logarithm of their sizes."""
        if sizes is None or self.reduction not in MERGING or not self.proportional:
            return None
        return torch.cat([tokens[:, : self.backbone.num_prefix_tokens, 0] * 0, sizes.log()], dim=1)


def kept_units(block: BlockPlan, plan: PruningPlan) -> list[int]:
    """Return the MLP hidden units that a block keeps, ascending: those of its groups, each a run of neighbours."""
    count = plan.shape.mlp_hidden_dim
    if block.kept_units is None:
        return list(range(count))
    length = count // plan.unit_groups
    return [unit for group in block.kept_units for unit in range(group * length, (group + 1) * length)]
