"""Scorers by name: each says what the tokens, heads and MLP units of a batch of images are worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional

from heartvit_edge.errors import InputError
from heartvit_edge.model.forward import embed, forward, run_block
from heartvit_edge.sensitivity.fisher import exact_diagonal, monte_carlo_diagonal
from heartvit_edge.sensitivity.gates import GateLayout
from heartvit_edge.sensitivity.hessian import hutchinson_diagonal
from heartvit_edge.sensitivity.loss import cross_entropy
from heartvit_edge.spec.sensitivity import Scorer

DEFAULT_PROBES = 8


@dataclass(frozen=True)
class Batch:
    """What a scorer is given.

    Attributes:
        model: The dense model.
        layout: Which components are scored.
        images: Normalised, shape (B, 3, H, W), on the model's device.
        labels: Class indices (B,); None where the images have none.
        num_probes: Draws an image for stochastic estimators.
        generators: Source of each image's draws, on the CPU; exact scorers read none.
    """

    model: VisionTransformer
    layout: GateLayout
    images: Tensor
    labels: Tensor | None
    num_probes: int
    generators: Sequence[torch.Generator]


@dataclass(frozen=True)
class Scores:
    """What a scorer answers; None where it does not score a component or has no standard error.

    Attributes:
        tokens: Shape (B, sites, num_patches).
        heads: Shape (B, depth, num_heads).
        units: Shape (B, depth, unit_groups).
        tokens_stderr: Standard error of the estimator, as ``tokens``.
        heads_stderr: As ``heads``.
        units_stderr: As ``units``.
    """

    tokens: Tensor | None = None
    heads: Tensor | None = None
    units: Tensor | None = None
    tokens_stderr: Tensor | None = None
    heads_stderr: Tensor | None = None
    units_stderr: Tensor | None = None


@dataclass(frozen=True)
class ScorerInfo:
    """A scorer and what its scores mean.

    Attributes:
        score: Maps a batch to scores.
        in_nats: Whether a score is a predicted loss in nats.
        stochastic: Whether it spends ``num_probes`` draws and gives standard errors.
        scale_tokens: Whether its token gates scale tokens instead of removing keys.
        by_gates: Whether it scores tokens, heads and MLP units alike; otherwise tokens alone or heads alone.
        labelled: Whether it reads labels where the images have them.
        estimator: How the scores come about, in words.
    """

    score: Callable[[Batch], Scores]
    estimator: str
    in_nats: bool = False
    stochastic: bool = False
    scale_tokens: bool = False
    by_gates: bool = False
    labelled: bool = False


def _from_gates(layout: GateLayout, values: Tensor, stderr: Tensor | None = None) -> Scores:
    """Split scores over all gates (B, num_gates) into tokens, heads and units."""
    tokens, heads, units = layout.split(values)
    errors = layout.split(stderr) if stderr is not None else (None, None, None)
    with_units = layout.unit_groups > 0
    return Scores(tokens, heads, units if with_units else None, errors[0], errors[1], errors[2] if with_units else None)


def _gated_logits(batch: Batch, gates: Tensor) -> Tensor:
    return forward(batch.model, batch.images, batch.layout.gates(gates))


def _removal_gate(batch: Batch) -> Scores:
    gates = batch.layout.ones(batch.images)
    return _from_gates(batch.layout, exact_diagonal(functional.log_softmax(_gated_logits(batch, gates), dim=1), gates))


def _fisher_mc(batch: Batch) -> Scores:
    gates = batch.layout.ones(batch.images)
    log_probs = functional.log_softmax(_gated_logits(batch, gates), dim=1)
    return _from_gates(batch.layout, *monte_carlo_diagonal(log_probs, gates, batch.num_probes, batch.generators))


def _labels(batch: Batch, logits: Tensor) -> Tensor:
    """Return the labels, or the model's own answers where there are none."""
    return batch.labels if batch.labels is not None else logits.detach().argmax(dim=1)


def _heart_literal(batch: Batch) -> Scores:
    def loss(gates: Tensor) -> Tensor:
        logits = _gated_logits(batch, gates)
        return cross_entropy(_labels(batch, logits), logits)

    gates = batch.layout.ones(batch.images)
    return _from_gates(batch.layout, *hutchinson_diagonal(loss, gates, batch.num_probes, batch.generators))


def _taylor(batch: Batch) -> Scores:
    gates = batch.layout.ones(batch.images)
    logits = _gated_logits(batch, gates)
    (slope,) = torch.autograd.grad(cross_entropy(_labels(batch, logits), logits).sum(), gates)
    return _from_gates(batch.layout, slope.abs())


@torch.no_grad()
def _token_features(batch: Batch, read: Callable[[Tensor, Tensor], Tensor]) -> Scores:
    """Score the tokens entering each site from (tokens, last block's attention weights), both with prefix tokens."""
    prefix = batch.model.num_prefix_tokens
    tokens = embed(batch.model, batch.images)
    found = []
    for site, block in enumerate(batch.model.blocks[: batch.layout.sites[-1]], start=1):
        tokens, weights = run_block(block, tokens)
        if site in batch.layout.sites:
            found.append(read(tokens, weights)[:, prefix:])
    return Scores(tokens=torch.stack(found, dim=1))


def _class_attention(batch: Batch) -> Scores:
    if batch.model.cls_token is None:
        raise InputError(
            "scorer class-attention needs a class token, this model has none", hint="--scorer attention-received"
        )
    return _token_features(batch, lambda _, weights: weights[:, :, 0].mean(dim=1))


def _attention_received(batch: Batch) -> Scores:
    return _token_features(batch, lambda _, weights: weights.mean(dim=(1, 2)))


def _token_norm(batch: Batch) -> Scores:
    return _token_features(batch, lambda tokens, _: tokens.norm(dim=-1))


@torch.no_grad()
def _magnitude(batch: Batch) -> Scores:
    """Norm of all weights that carry a head: its rows of qkv and its columns of proj."""
    norms = []
    for block in batch.model.blocks:
        attn = block.attn
        rows = attn.qkv.weight.unflatten(0, (3, attn.num_heads, attn.head_dim)).square().sum(dim=(0, 2, 3))
        columns = attn.proj.weight.unflatten(1, (attn.num_heads, attn.head_dim)).square().sum(dim=(0, 2))
        norms.append((rows + columns).sqrt())
    return Scores(heads=torch.stack(norms).expand(len(batch.images), -1, -1))


def _random(batch: Batch) -> Scores:
    values = torch.stack([torch.rand(batch.layout.num_gates, generator=generator) for generator in batch.generators])
    return _from_gates(batch.layout, values.to(batch.images.device))


SCORERS: dict[Scorer, ScorerInfo] = {
    "removal-gate": ScorerInfo(
        _removal_gate,
        "exact Fisher diagonal of the removal gates: one backward pass a class",
        in_nats=True,
        by_gates=True,
    ),
    "fisher-mc": ScorerInfo(
        _fisher_mc,
        "Monte-Carlo Fisher diagonal of the removal gates: one backward pass a draw",
        in_nats=True,
        stochastic=True,
        by_gates=True,
    ),
    "heart-literal": ScorerInfo(
        _heart_literal,
        "half z^T H z of the labelled loss by Pearlmutter products with Hutchinson signs (may be negative)",
        in_nats=True,
        stochastic=True,
        scale_tokens=True,
        by_gates=True,
        labelled=True,
    ),
    "taylor": ScorerInfo(
        _taylor,
        "magnitude of the labelled loss's first derivative by the removal gate",
        by_gates=True,
        labelled=True,
    ),
    "class-attention": ScorerInfo(
        _class_attention, "attention of the class token in the block before, mean over heads"
    ),
    "attention-received": ScorerInfo(
        _attention_received, "attention received in the block before, mean over queries and heads"
    ),
    "token-norm": ScorerInfo(_token_norm, "Euclidean norm of the token"),
    "magnitude": ScorerInfo(_magnitude, "Frobenius norm of the head's weights"),
    "random": ScorerInfo(_random, "uniform random numbers", by_gates=True),
}
