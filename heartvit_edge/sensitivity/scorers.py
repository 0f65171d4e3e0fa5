"""Scorers by name: each says what the tokens, heads and MLP units of a batch of images are worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional

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
        generator: Source of every draw, on the CPU.
    """

    model: VisionTransformer
    layout: GateLayout
    images: Tensor
    labels: Tensor | None
    num_probes: int
    generator: torch.Generator


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
        estimator: How the scores come about, in words.
    """

    score: Callable[[Batch], Scores]
    in_nats: bool
    stochastic: bool
    scale_tokens: bool
    estimator: str


def _from_gates(layout: GateLayout, values: Tensor, stderr: Tensor | None = None) -> Scores:
    """Split scores over all gates (B, num_gates) into tokens, heads and units."""
    tokens, heads, units = layout.split(values)
    errors = layout.split(stderr) if stderr is not None else (None, None, None)
    with_units = layout.unit_groups > 0
    return Scores(tokens, heads, units if with_units else None, errors[0], errors[1], errors[2] if with_units else None)


def _gated_logits(batch: Batch, gates: Tensor) -> Tensor:
    return forward(batch.model, batch.images, batch.layout.gates(gates))


def _ones(batch: Batch) -> Tensor:
    return batch.layout.ones(len(batch.images)).to(batch.images.device).detach().requires_grad_()


def _removal_gate(batch: Batch) -> Scores:
    gates = _ones(batch)
    return _from_gates(batch.layout, exact_diagonal(functional.log_softmax(_gated_logits(batch, gates), dim=1), gates))


def _fisher_mc(batch: Batch) -> Scores:
    gates = _ones(batch)
    log_probs = functional.log_softmax(_gated_logits(batch, gates), dim=1)
    return _from_gates(batch.layout, *monte_carlo_diagonal(log_probs, gates, batch.num_probes, batch.generator))


def _labels(batch: Batch, logits: Tensor) -> Tensor:
    """Return the labels, or the model's own answers where there are none."""
    return batch.labels if batch.labels is not None else logits.detach().argmax(dim=1)


def _heart_literal(batch: Batch) -> Scores:
    def loss(gates: Tensor) -> Tensor:
        logits = _gated_logits(batch, gates)
        return cross_entropy(_labels(batch, logits), logits)

    return _from_gates(batch.layout, *hutchinson_diagonal(loss, _ones(batch), batch.num_probes, batch.generator))


def _taylor(batch: Batch) -> Scores:
    gates = _ones(batch)
    logits = _gated_logits(batch, gates)
    (slope,) = torch.autograd.grad(cross_entropy(_labels(batch, logits), logits).sum(), gates)
    return _from_gates(batch.layout, slope.abs())


@torch.no_grad()
def _token_features(batch: Batch, read: Callable[[Tensor, Tensor], Tensor]) -> Scores:
    """Score the tokens entering each site from (tokens, last block's attention weights), both with prefix tokens."""
    prefix = batch.model.num_prefix_tokens
    tokens = embed(batch.model, batch.images)
    found = []
    for index, block in enumerate(batch.model.blocks):
        tokens, weights = run_block(block, tokens)
        if index + 1 in batch.layout.sites:
            found.append(read(tokens, weights)[:, prefix:])
    return Scores(tokens=torch.stack(found, dim=1))


def _class_attention(batch: Batch) -> Scores:
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
    values = torch.rand(len(batch.images), batch.layout.num_gates, generator=batch.generator)
    return _from_gates(batch.layout, values.to(batch.images.device))


SCORERS: dict[Scorer, ScorerInfo] = {
    "removal-gate": ScorerInfo(
        _removal_gate, True, False, False, "exact Fisher diagonal of the removal gates: one backward pass a class"
    ),
    "fisher-mc": ScorerInfo(
        _fisher_mc, True, True, False, "Monte-Carlo Fisher diagonal of the removal gates: one backward pass a draw"
    ),
    "heart-literal": ScorerInfo(
        _heart_literal,
        True,
        True,
        True,
        "half z^T H z of the labelled loss by Pearlmutter products with Hutchinson signs (may be negative)",
    ),
    "taylor": ScorerInfo(
        _taylor, False, False, False, "magnitude of the labelled loss's first derivative by the removal gate"
    ),
    "class-attention": ScorerInfo(
        _class_attention, False, False, False, "attention of the class token in the block before, mean over heads"
    ),
    "attention-received": ScorerInfo(
        _attention_received, False, False, False, "attention received in the block before, mean over queries and heads"
    ),
    "token-norm": ScorerInfo(_token_norm, False, False, False, "Euclidean norm of the token"),
    "magnitude": ScorerInfo(_magnitude, False, False, False, "Frobenius norm of the head's weights"),
    "random": ScorerInfo(_random, False, False, False, "uniform random numbers"),
}
