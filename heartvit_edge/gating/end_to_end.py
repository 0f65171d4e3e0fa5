"""A gate that learnt from scores goes on learning from what its choice costs: all sites together, by the loss itself.

A score says what one token's removal costs, the others staying. Which tokens go together, and what later sites make of
that, no score says; the loss of the pruned model does. Its gradient reaches the gate straight through the hard choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.relaxed import log_hard, relaxed_logits
from heartvit_edge.gating.token_gate import TokenGate
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.sensitivity.plan_images import PlanImages

WARM_UP = 10
"""Steps in which the learning rate rises."""
CLIP = 1.0
"""Largest norm of the gradient."""


@dataclass(frozen=True)
class EndToEndSettings:
    """How a gate learns from the loss.

    Attributes:
        epochs: Passes over the images; 0: none.
        learning_rate: The largest, of Adam; it rises for some steps and then falls linearly to 0.
        temperature: Of the sigmoid whose slope the choice gets, in standard deviations of an image's scores.
        seed: Of the order of batches.
    """

    epochs: int = 2
    learning_rate: float = 5e-5
    temperature: float = 0.3
    seed: int = 0


DEFAULT_END = EndToEndSettings()


def train_end_to_end(
    model: GatedViT, images: PlanImages, settings: EndToEndSettings, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Train a gate's weights by KL(dense || pruned), as the plan has it; afterwards its scores have no unit.

    Args:
        model: A gated model, on the images' device; the weights of its gate are changed.
        images: What it learns from, a batch a step.
        settings: How.
        advance: Told of images done; there are epochs x images of them.
    """
    assert isinstance(model.gate, TokenGate)
    weights = list(model.gate.parameters())
    optimizer = torch.optim.Adam(weights, settings.learning_rate)
    total = settings.epochs * len(images.batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM_UP) * (1 - step / max(total, 1))
    )
    draws = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        for position in torch.randperm(len(images.batches), generator=draws).tolist():
            batch, dense = images.batches[position], images.logits[position]
            logits = relaxed_logits(model, batch, settings.temperature, removal=log_hard)
            optimizer.zero_grad(set_to_none=True)
            kl_to_dense(dense, logits).mean().backward()
            torch.nn.utils.clip_grad_norm_(weights, CLIP)
            optimizer.step()
            schedule.step()
            advance(len(batch))
