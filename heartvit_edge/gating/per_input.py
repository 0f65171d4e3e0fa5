"""Tokens by the image: a learned gate's scores are nats, so each image keeps as few as a loss allows.

At a site the gate foresees what losing each token costs. The tokens foreseen to cost least go, as many as together cost
no more than the site's threshold. What together they cost is the sum of their nats, corrected by a ``CountRule``.

The forward is one of masks: every token stays and those gone lose their weight as a key, which is exactly dropping them
for whatever reads prefix tokens or the gates' weighted mean. It says what a runtime with a graph for each count would
answer, and counts the multiply-accumulates that such a runtime would spend; it saves none itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from heartvit_edge.allocation.cost import plan_macs
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.learn import hidden_units
from heartvit_edge.gating.token_gate import TokenGate, gate_macs
from heartvit_edge.model.forward import classify, embed, keep_tokens, run_block
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.sensitivity.plan_images import PlanImages
from heartvit_edge.spec.plan import PruningPlan

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class CountRule:
    """What dropping a set costs, by its tokens' nats: ``sum / all ** relative * (plan / K) ** rigidity``.

    Here ``all`` are the nats of all the image's tokens at the site, ``plan`` the plan's count there, and K the tokens
    left. The sum alone keeps a loss where sets cost what their tokens do. They cost more: where an image's tokens all
    cost next to nothing, dropping nearly all of them costs far more than their sum.

    Attributes:
        relative: From 0, nats, to 1, shares of what all the image's tokens cost.
        rigidity: From 0, counts as the nats have them, upwards: the larger, the nearer to the plan's own counts.
    """

    relative: float = 0.0
    rigidity: float = 0.0


NATS = CountRule()
"""A set costs the sum of what its tokens cost."""


@dataclass(frozen=True)
class PerInput:
    """What a model answers and keeps, image by image.

    Attributes:
        logits: Shape (B, num_classes).
        counts: Site to the patch tokens that each image keeps from there on, shape (B,), int64.
        dropped_nats: Site to the nats foreseen for what the image loses there, shape (B,).
    """

    logits: Tensor
    counts: dict[int, Tensor]
    dropped_nats: dict[int, Tensor]


@dataclass(frozen=True)
class Measured:
    """What thresholds cost and save on images.

    Attributes:
        thresholds: Site to what tokens dropped there may cost, by the rule: nats to the power 1 - ``relative``.
        rule: What a set of tokens costs.
        losses: KL(dense || this) of each image, in nats, shape (N,).
        agrees: Whether the first class is the dense model's, shape (N,).
        counts: Site to the patch tokens that each image keeps, shape (N,).
        macs: Multiply-accumulates of each image in a runtime that drops them, the gate's among them, shape (N,).
    """

    thresholds: dict[int, float]
    rule: CountRule
    losses: NDArray[np.float64]
    agrees: NDArray[np.bool_]
    counts: dict[int, NDArray[np.int64]]
    macs: NDArray[np.int64]

    @property
    def loss_nats(self) -> float:
        """Mean loss."""
        return float(self.losses.mean())

    @property
    def loss_stderr_nats(self) -> float:
        """Standard error of the mean loss over images."""
        return float(self.losses.std(ddof=1) / math.sqrt(len(self.losses)))

    def quantiles(self, site: int, shares: Sequence[float] = QUANTILES) -> tuple[float, ...]:
        """Return the patch tokens kept at a site that so large shares of the images do not exceed."""
        return tuple(float(count) for count in np.quantile(self.counts[site], shares))


@torch.no_grad()
def masked_forward(
    model: GatedViT, images: Tensor, thresholds: Mapping[int, float], rule: CountRule = NATS
) -> PerInput:
    """Return what the model answers where each image keeps the fewest tokens within the thresholds, at least one.

    The gate reads at each site what it would read had the others been dropped before.

    Args:
        model: Its gate is a ``TokenGate`` that was distilled, so that a score is a logarithm of nats.
        images: Normalised, shape (B, 3, H, W).
        thresholds: Each of the plan's sites to what the dropped may cost there, not negative.
        rule: What a set of tokens costs.

    Raises:
        ValueError: If the gate or the sites are others, or tokens are not dropped.
    """
    gate = model.gate
    if not isinstance(gate, TokenGate) or model.reduction != "drop":
        raise ValueError("tokens are counted by the image where a learned gate drops them")
    if set(thresholds) != set(model.num_keep):
        raise ValueError(f"thresholds are for sites {sorted(thresholds)}, the plan's are {sorted(model.num_keep)}")
    prefix = model.backbone.num_prefix_tokens
    tokens = embed(model.backbone, images)
    alive = tokens.new_ones(len(images), tokens.shape[1] - prefix, dtype=torch.bool)
    key_bias: Tensor | None = None
    counts, dropped = {}, {}
    for index, block in enumerate(model.backbone.blocks):
        if index in thresholds:
            nats = _foreseen(gate, index, tokens, alive, prefix)
            alive, dropped[index] = _within(nats, alive, thresholds[index], rule, model.num_keep[index])
            counts[index] = alive.sum(dim=1)
            gone = tokens.new_zeros(alive.shape).masked_fill(~alive, -math.inf)
            key_bias = functional.pad(gone, (prefix, 0))
        tokens, _ = run_block(block, tokens, key_bias)
    return PerInput(classify(model.backbone, tokens, alive.to(tokens)), counts, dropped)


def _foreseen(gate: TokenGate, site: int, tokens: Tensor, alive: Tensor, prefix: int) -> Tensor:
    """Return the nats that losing each patch costs, shape (B, P); 0 for those gone.

    Images that keep as many run together, on what they keep alone.
    """
    nats = tokens.new_zeros(alive.shape)
    counts = alive.sum(dim=1)
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero()[:, 0]
        kept = alive[rows].nonzero()[:, 1].view(len(rows), count)
        scores = gate(site, keep_tokens(tokens[rows], kept, prefix))
        nats[rows] = nats[rows].scatter(1, kept, scores.exp())
    return nats


def _within(nats: Tensor, alive: Tensor, threshold: float, rule: CountRule, planned: int) -> tuple[Tensor, Tensor]:
    """Return which patches stay, shape (B, P), and the nats foreseen for those that go now, shape (B,)."""
    ascending, order = nats.masked_fill(~alive, math.inf).sort(dim=1)  # those gone have 0 nats
    last = alive.sum(dim=1, keepdim=True) - 1
    left = last - torch.arange(nats.shape[1], device=nats.device)  # with this one and all cheaper ones gone
    cost = ascending.cumsum(dim=1) * (planned / left.clamp_min(1)) ** rule.rigidity
    goes = (cost <= threshold * _unit(nats, rule)) & (left > 0)  # the dearest stays
    lost = ascending.masked_fill(~goes, 0.0).sum(dim=1)
    return alive & ~torch.zeros_like(alive).scatter(1, order, goes), lost


def _unit(nats: Tensor, rule: CountRule) -> Tensor:
    """Return what a threshold of one allows each image, shape (B, 1), by the nats of its tokens, shape (B, P)."""
    return nats.sum(dim=1, keepdim=True) ** rule.relative


def measure(
    model: GatedViT,
    plan: PruningPlan,
    images: PlanImages,
    thresholds: Mapping[int, float],
    rule: CountRule = NATS,
) -> Measured:
    """Return what thresholds cost and save on images.

    Args:
        model: As in ``masked_forward``.
        plan: What the model was made from.
        images: At least two, on the model's device.
        thresholds: As in ``masked_forward``.
        rule: As there.
    """
    losses, agrees = [], []
    counts: dict[int, list[Tensor]] = {site: [] for site in thresholds}
    for batch, answers in zip(images.batches, images.logits, strict=True):
        found = masked_forward(model, batch, thresholds, rule)
        losses.append(kl_to_dense(answers, found.logits).double())
        agrees.append(found.logits.argmax(dim=1) == answers.argmax(dim=1))
        for site, kept in found.counts.items():
            counts[site].append(kept)
    by_site = {site: torch.cat(kept).cpu().numpy() for site, kept in counts.items()}
    return Measured(
        dict(thresholds),
        rule,
        torch.cat(losses).cpu().numpy(),
        torch.cat(agrees).cpu().numpy(),
        by_site,
        _macs(model, plan, by_site),
    )


def _macs(model: GatedViT, plan: PruningPlan, counts: Mapping[int, NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the multiply-accumulates of each image, by its counts."""
    assert isinstance(model.gate, TokenGate)
    sites = sorted(counts)
    rows = np.stack([counts[site] for site in sites], axis=1)  # (N, sites)
    each, inverse = np.unique(rows, axis=0, return_inverse=True)
    found = []
    for row in each.tolist():
        kept = dict(zip(sites, row, strict=True))
        patches, blocks = plan.shape.num_patches, []
        for index, block in enumerate(plan.blocks):
            patches = kept.get(index, patches)
            blocks.append(block.model_copy(update={"num_tokens": plan.shape.num_prefix_tokens + patches}))
        own = gate_macs(plan.shape, [plan.shape.num_patches, *row][:-1], hidden_units(model.gate))
        found.append(plan_macs(plan.shape, blocks, plan.unit_groups) + own)
    return np.array(found, dtype=np.int64)[inverse.reshape(-1)]


@torch.no_grad()
def foreseen_by_plan(model: GatedViT, images: PlanImages, rule: CountRule = NATS) -> dict[int, float]:
    """Return, by site, the mean of what is foreseen for what the plan's own counts drop there.

    Thresholds in proportion to these spread a loss over the sites as the plan does. At the plan's counts rigidity says
    nothing.

    Args:
        model: As in ``masked_forward``.
        images: On the model's device.
        rule: As in ``masked_forward``.

    Raises:
        ValueError: If the model's gate did not learn.
    """
    if not isinstance(model.gate, TokenGate):
        raise ValueError("only a learned gate's scores are nats")
    seen: dict[int, list[Tensor]] = {site: [] for site in model.num_keep}

    def note(_gate: object, given: tuple[int, Tensor, Tensor], scores: Tensor) -> None:
        site, gone = given[0], scores.shape[1] - model.num_keep[given[0]]
        lost = scores.topk(gone, dim=1, largest=False).values.exp().sum(dim=1)
        seen[site].append(lost / _unit(scores.exp(), rule)[:, 0])

    hook = model.gate.register_forward_hook(note)
    try:
        for batch in images.batches:
            model(batch)
    finally:
        hook.remove()
    return {site: float(torch.cat(nats).mean()) for site, nats in seen.items()}
