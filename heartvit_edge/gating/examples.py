"""What a gate learns from: its inputs at each site, and the scores that it cannot compute on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.token_gate import TokenGate
from heartvit_edge.model.forward import RemovalGates, continue_forward, embed, keep_tokens, run_block
from heartvit_edge.sensitivity.draws import RESCORING, image_generator
from heartvit_edge.sensitivity.fisher import low_rank_diagonal
from heartvit_edge.sensitivity.plan_images import PlanImages
from heartvit_edge.sensitivity.precision import full_precision
from heartvit_edge.sensitivity.thinned import RESCORING_RANK

NOISE = 0.4
"""Spread of the random factors (their logarithm) on scores that choose the tokens of the next site's examples."""


@dataclass(frozen=True)
class SiteExamples:
    """Inputs and scores at one site, on the CPU.

    Attributes:
        tokens: What enters the site, shape (N, num_prefix + P, C), float16.
        scores: Nats that removing each patch token adds, shape (N, P), float32.
    """

    tokens: Tensor
    scores: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.scores)


def collect_examples(images: PlanImages, model: GatedViT, *, by_gate: bool = False) -> dict[int, SiteExamples]:
    """Return examples at each site of a plan.

    A gate errs, and its later networks see what its earlier ones left. Where there is no gate yet, tokens go from one
    site to the next as the scores have it, times random factors, which is what a gate's errors are like.

    Args:
        images: The images, and the seed of the factors; their batches stay in memory, so take some thousands at most.
        model: The gated model.
        by_gate: Let tokens go as the model's gate and reduction have it.
    """
    gate = model.gate if by_gate else None
    found: dict[int, list[SiteExamples]] = {site: [] for site in model.num_keep}
    first = 0
    with images.watch("scoring tokens for the gate", images.num_images) as advance:
        for batch in images.batches:
            draws = [image_generator(images.settings.seed, RESCORING, first + row) for row in range(len(batch))]
            for site, examples in _collect_batch(model, batch, draws, gate).items():
                found[site].append(examples)
            first += len(batch)
            advance(len(batch))
    return {site: _joined(parts) for site, parts in found.items()}


def _collect_batch(
    model: GatedViT, batch: Tensor, draws: Sequence[torch.Generator], gate: nn.Module | None
) -> dict[int, SiteExamples]:
    backbone, sizes = model.backbone, None
    with torch.no_grad():
        tokens = embed(backbone, batch)
    found = {}
    for index, block in enumerate(backbone.blocks):
        if index in model.num_keep:
            count, scores = model.num_keep[index], _scores_at(backbone, tokens, index, sizes)
            found[index] = SiteExamples(tokens.half().cpu(), scores.float().cpu())
            with torch.no_grad():
                if gate is None:
                    kept = _noisy(scores, draws).topk(count, dim=1).indices.sort(dim=1).values
                    tokens = keep_tokens(tokens, kept, backbone.num_prefix_tokens)
                else:
                    reduced = model.reduce(index, tokens, gate(index, tokens), sizes, count)
                    tokens, sizes = reduced.tokens, reduced.sizes
        with torch.no_grad():
            tokens, _ = run_block(block, tokens, model.key_bias(tokens, sizes))
    return found


def _noisy(scores: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """Return the logarithms of scores (B, P) with noise, one generator an image."""
    factors = torch.stack([torch.randn(scores.shape[1], generator=draw) for draw in draws])
    return scores.clamp_min(torch.finfo(scores.dtype).tiny).log() + NOISE * factors.to(scores)


def _scores_at(model: VisionTransformer, tokens: Tensor, site: int, sizes: Tensor | None) -> Tensor:
    """Return half the Fisher diagonal of the removal of each patch token, shape (B, P), in nats.

    A token that stands for several patches, of the sizes (B, P), goes with all of them.
    """
    with full_precision(tokens.device):
        gates = torch.ones(
            len(tokens), tokens.shape[1] - model.num_prefix_tokens, device=tokens.device, requires_grad=True
        )
        weights = gates if sizes is None else gates * sizes
        logits = continue_forward(model, tokens, site, RemovalGates(tokens={site: weights}))
        return low_rank_diagonal(logits.log_softmax(dim=1), gates, RESCORING_RANK)


def _joined(parts: Sequence[SiteExamples]) -> SiteExamples:
    return SiteExamples(
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.scores for part in parts]),
    )


@torch.no_grad()
def scores_of(gate: TokenGate, site: int, examples: SiteExamples, batch_size: int = 256) -> Tensor:
    """Return a gate's scores of the examples, shape (N, P), on the CPU."""
    network, parameter = gate.network(site), next(gate.parameters())
    found = [network(tokens.to(parameter), num_prefix=gate.num_prefix) for tokens in examples.tokens.split(batch_size)]
    return torch.cat(found).cpu()
