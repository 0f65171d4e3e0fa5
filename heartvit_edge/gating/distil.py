"""A gate learns from scores: one network a site, each by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from heartvit_edge.gating.examples import SiteExamples, scores_of
from heartvit_edge.gating.token_gate import TokenGate

FEWEST_STEPS = 11
"""Steps that the schedule is laid out for where there are fewer: a rise of one step and less has no slope."""


@dataclass(frozen=True)
class DistilSettings:
    """How a gate learns from scores.

    Attributes:
        epochs: Passes over the examples.
        batch_size: Images a step.
        learning_rate: The largest, of a one-cycle schedule.
        weight_decay: Of AdamW.
        regression: Weight of the squared error of the logarithm of the score, beside the ranking.
        seed: Of the order of images.
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    regression: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class SiteQuality:
    """How well a gate ranks at one site, on examples it did not learn from.

    Attributes:
        mass_kept: Share of the scores' sum that the patches kept by the gate hold, mean over images.
        best_mass_kept: The same for the patches of the largest scores: the most there is.
    """

    mass_kept: float
    best_mass_kept: float


def distil(
    gate: TokenGate,
    lots: Sequence[Mapping[int, SiteExamples]],
    settings: DistilSettings,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Train the gate's networks, each on the examples of its site; afterwards a score is a logarithm of nats.

    Args:
        gate: Its weights are changed; it stays on its device.
        lots: Site to its examples, once or more; lots may differ in tokens. What the gate meets at run time comes last:
            to that its scores are calibrated.
        settings: How.
        advance: Told of images done; there are epochs x sites x images of them, but for what fills no batch.
    """
    for site in lots[-1]:
        _distil_site(gate, site, [lot[site] for lot in lots], settings, advance)
        _calibrate(gate, site, lots[-1][site])


def _distil_site(
    gate: TokenGate, site: int, lots: Sequence[SiteExamples], settings: DistilSettings, advance: Callable[[int], None]
) -> None:
    network, parameter = gate.network(site), next(gate.parameters())
    logs = [log_nats(examples.scores) for examples in lots]
    every = torch.cat([one.flatten() for one in logs])
    mean, spread = every.mean(), every.std()
    steps = settings.epochs * sum(len(examples) // min(settings.batch_size, len(examples)) for examples in lots)
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=max(steps, FEWEST_STEPS), pct_start=0.1
    )
    draws = torch.Generator().manual_seed(settings.seed)
    network.train()
    for _ in range(settings.epochs):
        for lot, rows in _batches(lots, settings.batch_size, draws):
            found = network(lots[lot].tokens[rows].to(parameter), num_prefix=gate.num_prefix)
            target = ((logs[lot][rows] - mean) / spread).to(parameter)
            loss = ranking_loss(found, lots[lot].scores[rows].to(parameter))
            loss = loss + settings.regression * ((found / 2 - target) ** 2).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(len(rows))
    network.eval()


def _batches(lots: Sequence[SiteExamples], batch_size: int, draws: torch.Generator) -> list[tuple[int, Tensor]]:
    """Return whole batches of one lot each, as its position and rows, in an order drawn over all lots."""
    found = []
    for lot, examples in enumerate(lots):
        size = min(batch_size, len(examples))
        rows = torch.randperm(len(examples), generator=draws).split(size)
        found += [(lot, part) for part in rows if len(part) == size]
    if len(lots) == 1:
        return found
    return [found[position] for position in torch.randperm(len(found), generator=draws).tolist()]


def ranking_loss(found: Tensor, scores: Tensor) -> Tensor:
    """Return the cross-entropy of the softmax of what was found against the square roots of the scores, normalised.

    Args:
        found: The gate's scores, shape (B, P).
        scores: Nats, shape (B, P), non-negative.

    Source:
        Cao et al. (2007), "Learning to Rank: From Pairwise Approach to Listwise Approach" (ListNet, top one). The
        square root is our own choice: without it a few tokens are all that counts.
    """
    share = scores.clamp_min(0).sqrt()
    share = share / share.sum(dim=1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
    return -(share * functional.log_softmax(found, dim=1)).sum(dim=1).mean()


def log_nats(scores: Tensor) -> Tensor:
    """Return the logarithms of scores, of which none is less than a millionth of a millionth of a nat."""
    return scores.clamp_min(1e-12).log()


def _calibrate(gate: TokenGate, site: int, examples: SiteExamples) -> None:
    """Scale and shift the last layer so that a score is the logarithm of nats, by least squares; no order changes."""
    found, logs = scores_of(gate, site, examples).double(), log_nats(examples.scores).double()
    centred = found - found.mean()
    slope = float((centred * (logs - logs.mean())).sum() / (centred**2).sum().clamp_min(1e-30))
    slope = max(slope, 1e-3)  # a gate that learnt nothing keeps its order all the same
    shift = float(logs.mean() - slope * found.mean())
    layer = gate.network(site).score
    with torch.no_grad():
        layer.weight.mul_(slope)
        layer.bias.mul_(slope).add_(shift)


def site_quality(gate: TokenGate, site: int, examples: SiteExamples, num_keep: int) -> SiteQuality:
    """Return how well a gate ranks the examples of a site where ``num_keep`` patches stay."""
    found = scores_of(gate, site, examples)
    total = examples.scores.sum(dim=1).clamp_min(1e-30)

    def kept(order: Tensor) -> float:
        rows = order.topk(num_keep, dim=1).indices
        return float((examples.scores.gather(1, rows).sum(dim=1) / total).mean())

    return SiteQuality(kept(found), kept(examples.scores))
