"""What a plan really loses, its tokens chosen by the scores themselves or by the gate that an engine will carry.

Scores at the dense model know nothing of what an earlier site dropped, so each site's are taken again on the tokens
that enter it. Plans near the one that ran are then measured by forward passes alone, in the order of tokens that its
run gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from heartvit_edge.model.forward import RemovalGates, classify, continue_forward, embed, keep_tokens, run_block
from heartvit_edge.sensitivity.draws import RESCORING, image_generator
from heartvit_edge.sensitivity.fisher import low_rank_diagonal, monte_carlo_diagonal
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.sensitivity.plan_images import PlanImages
from heartvit_edge.sensitivity.precision import full_precision
from heartvit_edge.sensitivity.scorers import DEFAULT_PROBES
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.plan import BlockPlan

Blocks = Sequence[BlockPlan]

RESCORING_RANK = 3
"""Eigenvectors of the Fisher information from which tokens are scored again; docs/scores.md has what that costs."""


@dataclass(frozen=True)
class Thinned:
    """A plan that ran on the images, its tokens ordered again at every block.

    Attributes:
        images: The images.
        blocks: What each block kept.
        losses: KL(dense || pruned) of each image, in nats, shape (N,).
        num_agreeing: Images whose first class is the dense model's.
        order: For each batch, by block, the patch tokens' ranks there, shape (depth, B, num_patches); higher stays
            longer. Row 0 is not used, for no token goes before block 0.
    """

    images: PlanImages
    blocks: tuple[BlockPlan, ...]
    losses: NDArray[np.float64]
    num_agreeing: int
    order: tuple[Tensor, ...]

    def measure(self, variants: Sequence[Blocks]) -> NDArray[np.float64]:
        """Return the losses of other plans of the same images, by forward passes alone, shape (plans, N), in nats.

        Tokens go in this plan's order, so the variants should be near it.
        """
        if not variants:
            return np.empty((0, len(self.losses)))
        columns = []
        with self.images.watch(f"measuring {len(variants)} plans near it", self.images.num_images) as advance:
            for batch, answers, order in zip(self.images.batches, self.images.logits, self.order, strict=True):
                columns.append(self._measure_batch(batch, answers, order, variants))
                advance(len(batch))
        return np.concatenate(columns, axis=1)

    @torch.no_grad()
    def _measure_batch(
        self, batch: Tensor, answers: Tensor, order: Tensor, variants: Sequence[Blocks]
    ) -> NDArray[np.float64]:
        model, groups = self.images.dense.module, self.images.unit_groups
        shape = self.images.dense.shape
        left = torch.arange(shape.num_patches, device=batch.device).expand(len(batch), -1)
        tokens = embed(model, batch)
        entering = []  # of each block, before its tokens go
        for index, block in enumerate(self.blocks):
            entering.append((tokens, left))
            tokens, left = _cut(shape, block, tokens, left, order[index])
            tokens, _ = _run(model, block, index, tokens, groups)
        rows = []
        for variant in variants:
            changed = [index for index, pair in enumerate(zip(self.blocks, variant, strict=True)) if pair[0] != pair[1]]
            start = min(changed, default=len(self.blocks) - 1)
            tokens, left = entering[start]
            for index in range(start, len(self.blocks)):
                tokens, left = _cut(shape, variant[index], tokens, left, order[index])
                tokens, _ = _run(model, variant[index], index, tokens, groups)
            rows.append(kl_to_dense(answers, classify(model, tokens)).double().cpu().numpy())
        return np.array(rows).reshape(len(variants), len(batch))


def thin(images: PlanImages, blocks: Blocks) -> Thinned:
    """Carry out a plan on the images, each site's tokens chosen by what they are worth among the tokens still left.

    By scores that is the Fisher diagonal of the pruned model so far, with nothing dropped after the site.

    Args:
        images: The images.
        blocks: What each block keeps; the first keeps every token.
    """
    losses, orders, agreeing, first = [], [], 0, 0
    with images.watch("running a plan", images.num_images) as advance:
        for batch, answers in zip(images.batches, images.logits, strict=True):
            draws = [image_generator(images.settings.seed, RESCORING, first + row) for row in range(len(batch))]
            logits, order = _thin_batch(images, blocks, batch, draws)
            losses.append(kl_to_dense(answers, logits).double().cpu().numpy())
            agreeing += int((logits.argmax(dim=1) == answers.argmax(dim=1)).sum())
            orders.append(order)
            first += len(batch)
            advance(len(batch))
    return Thinned(images, tuple(blocks), np.concatenate(losses), agreeing, tuple(orders))


def _thin_batch(
    images: PlanImages, blocks: Blocks, batch: Tensor, draws: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Return the pruned model's logits (B, C) and the order of tokens at each block (depth, B, num_patches)."""
    model, shape = images.dense.module, images.dense.shape
    depth, prefix = len(blocks), shape.num_prefix_tokens
    order = torch.zeros(depth, len(batch), shape.num_patches, device=batch.device)
    left = torch.arange(shape.num_patches, device=batch.device).expand(len(batch), -1)
    counts = [block.num_tokens for block in blocks]
    cuts = [index for index in range(1, depth) if counts[index] < counts[index - 1]]
    with torch.no_grad():
        tokens = embed(model, batch)
    for start, end in zip([0, *cuts], [*cuts, depth], strict=True):
        tokens, left = _cut(shape, blocks[start], tokens, left, order[start])
        sites = range(start + 1, min(end, depth - 1) + 1)
        if sites and images.gate is None:
            scores = _scores_from(images, blocks, tokens, start, sites, draws)
            for row, site in enumerate(sites):
                order[site] = _reorder(order[start], left, scores[:, row])
        with torch.no_grad():
            for index in range(start, end):
                tokens, weights = _run(model, blocks[index], index, tokens, images.unit_groups)
                if images.gate is not None and index + 1 < depth:
                    order[index + 1] = _reorder(order[start], left, images.gate(weights, prefix))
    with torch.no_grad():
        return classify(model, tokens), order


def _reorder(before: Tensor, left: Tensor, scores: Tensor) -> Tensor:
    """Return ranks (B, num_patches): those left by their scores, above those gone, which stay as they were.

    Args:
        before: Ranks at an earlier block, shape (B, num_patches).
        left: Patches still there, shape (B, K).
        scores: What they are worth, shape (B, K).
    """
    return _ranks((before - before.shape[1]).scatter(1, left, _ranks(scores)))


def _ranks(values: Tensor) -> Tensor:
    return values.argsort(dim=1).argsort(dim=1).float()


def _scores_from(
    images: PlanImages,
    blocks: Blocks,
    tokens: Tensor,
    start: int,
    sites: range,
    draws: Sequence[torch.Generator],
) -> Tensor:
    """Return scores of the patch tokens left, at each of the sites, shape (B, sites, patches left).

    Args:
        images: The images.
        blocks: The plan.
        tokens: What enters block ``start``, shape (B, N, C).
        start: Block from which the model runs.
        sites: Later blocks, with no drop in between.
        draws: Source of each image's draws.
    """
    left = int(tokens.shape[1]) - images.dense.shape.num_prefix_tokens
    with full_precision(tokens.device):
        gates = torch.ones(len(tokens), len(sites) * left, device=tokens.device, requires_grad=True)
        by_site = gates.unflatten(1, (len(sites), left))
        removed = [_gates(block, images.dense.shape.num_heads, images.unit_groups, tokens.device) for block in blocks]
        logits = continue_forward(
            images.dense.module,
            tokens,
            start,
            RemovalGates(
                tokens={site: by_site[:, row] for row, site in enumerate(sites)},
                heads={index: heads for index, (heads, _) in enumerate(removed) if heads is not None},
                units={index: units for index, (_, units) in enumerate(removed) if units is not None},
            ),
        )
        answers = logits.log_softmax(dim=1)
        if images.settings.scorer == "removal-gate":
            scores = low_rank_diagonal(answers, gates, RESCORING_RANK)
        else:
            scores, _ = monte_carlo_diagonal(answers, gates, images.settings.num_probes or DEFAULT_PROBES, draws)
    return scores.unflatten(1, (len(sites), left))


def _cut(shape: ModelShape, block: BlockPlan, tokens: Tensor, left: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens (B, num_tokens, C) that a block keeps, and which patches those are, shape (B, K)."""
    count = block.num_tokens - shape.num_prefix_tokens
    if count == left.shape[1]:
        return tokens, left
    kept = order.gather(1, left).topk(count, dim=1).indices.sort(dim=1).values
    return keep_tokens(tokens, kept, shape.num_prefix_tokens), left.gather(1, kept)


def _run(
    model: VisionTransformer, block: BlockPlan, index: int, tokens: Tensor, unit_groups: int
) -> tuple[Tensor, Tensor]:
    """Return block ``index``'s output and attention weights, without the heads and units that the plan removes.

    The weights are those of the heads that stay, shape (B, kept heads, N, N).
    """
    heads, units = _gates(block, model.blocks[index].attn.num_heads, unit_groups, tokens.device)
    output, weights = run_block(model.blocks[index], tokens, None, heads, units)
    return output, weights if heads is None else weights[:, list(block.kept_heads)]


def _gates(
    block: BlockPlan, num_heads: int, unit_groups: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Return gates of a block's heads (1, num_heads) and unit groups (1, unit_groups); None where all stay."""
    heads = None if len(block.kept_heads) == num_heads else _indicator(block.kept_heads, num_heads, device)
    units = None if block.kept_units is None else _indicator(block.kept_units, unit_groups, device)
    return heads, units


def _indicator(kept: Sequence[int], count: int, device: torch.device) -> Tensor:
    gate = torch.zeros(1, count, device=device)
    gate[0, list(kept)] = 1
    return gate
