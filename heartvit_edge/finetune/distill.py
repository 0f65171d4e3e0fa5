"""What the pruned model is taught: the dense model's answers, and a gate's through the relaxed removal."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from heartvit_edge.gating.gated import BlockRunner, GatedViT
from heartvit_edge.gating.relaxed import has_weights, relaxed_logits
from heartvit_edge.model.forward import run_block
from heartvit_edge.spec.finetune import FinetuneRecipe


class Answer(NamedTuple):
    """What a model makes of a batch; None where it was not asked for.

    Attributes:
        logits: Shape (B, num_classes), of the hard forward.
        tokens: Final tokens after the last norm, shape (B, N, C).
        patches: Which patches these are, shape (B, N - num_prefix); None where they are all.
        feature: What the classifier's last layer reads, shape (B, C).
        relaxed: Logits of the relaxed forward, shape (B, num_classes).
    """

    logits: Tensor | None
    tokens: Tensor | None
    patches: Tensor | None
    feature: Tensor | None
    relaxed: Tensor | None


class Student(nn.Module):
    """A gated model with the forwards that train it, in one module, as data parallelism wants it.

    Attributes:
        model: The gated model; its parameters require gradients where they are trained.
    """

    def __init__(
        self, model: GatedViT, *, gates_only: bool = False, teach_gate: bool = True, grad_checkpointing: bool = False
    ) -> None:
        """Say what is trained: all but the gate unless ``gates_only``, and a gate's weights where ``teach_gate``."""
        super().__init__()
        self.model = model
        self._hard, self._relaxed = not gates_only, teach_gate and has_weights(model.gate)
        self._run: BlockRunner = (
            partial(checkpoint, run_block, use_reentrant=False) if grad_checkpointing else run_block
        )
        model.backbone.requires_grad_(self._hard)
        if model.gate is not None:
            model.gate.requires_grad_(teach_gate)

    def forward(self, images: Tensor, temperature: float) -> Answer:
        """Return what is needed to train.

        Args:
            images: Normalised, shape (B, 3, H, W).
            temperature: Of the relaxed removal, in standard deviations of the scores.
        """
        answer = answer_of(self.model, images, self._run) if self._hard else Answer(None, None, None, None, None)
        if self._relaxed:
            answer = answer._replace(relaxed=relaxed_logits(self.model, images, temperature, self._run))
        return answer


def answer_of(model: GatedViT, images: Tensor, run: BlockRunner = run_block) -> Answer:
    """Return a model's hard answer to normalised images (B, 3, H, W)."""
    tokens, kept, _ = model.run_blocks(images, run)
    tokens = model.backbone.norm(tokens)
    return Answer(
        logits=model.backbone.forward_head(tokens),
        tokens=tokens,
        patches=kept[-1] if kept else None,
        feature=model.backbone.forward_head(tokens, pre_logits=True),
        relaxed=None,
    )


def weighted_terms(
    answer: Answer, dense: Answer, labels: Tensor, recipe: FinetuneRecipe, num_prefix: int
) -> dict[str, Tensor]:
    """Return the terms of the loss by name, each a mean over the batch times its weight; their sum is the loss.

    Args:
        answer: The student's.
        dense: The dense model's, without gradients.
        labels: Shape (B,); read where the recipe gives them a weight.
        recipe: The weights, and the temperature.
        num_prefix: Tokens before the patches.
    """
    terms: dict[str, Tensor] = {}
    assert dense.logits is not None and dense.tokens is not None and dense.feature is not None
    learnt = answer.relaxed if answer.logits is None else answer.logits
    assert learnt is not None  # what gates alone are trained by has weights in its gate
    if answer.logits is not None:
        terms["kl"] = softened_kl(dense.logits, answer.logits, recipe.temperature)
    if answer.relaxed is not None:
        terms["gate_kl"] = recipe.gate_weight * softened_kl(dense.logits, answer.relaxed, recipe.temperature)
    if recipe.label_weight:
        terms["label"] = recipe.label_weight * functional.cross_entropy(learnt, labels)
    if recipe.token_weight and answer.tokens is not None:
        target = dense.tokens[:, num_prefix:]
        if answer.patches is not None:
            target = target.gather(1, answer.patches.long().unsqueeze(-1).expand(-1, -1, target.shape[-1]))
        terms["token"] = recipe.token_weight * relative_error(answer.tokens[:, num_prefix:], target)
    if recipe.feature_weight and answer.feature is not None:
        terms["feature"] = recipe.feature_weight * relative_error(answer.feature, dense.feature)
    return terms


def relative_error(found: Tensor, expected: Tensor) -> Tensor:
    """Return the mean squared error as a share of the mean square expected."""
    return (found - expected).square().mean() / expected.square().mean()


def softened_kl(dense: Tensor, found: Tensor, temperature: float) -> Tensor:
    """Return T^2 times the mean KL(dense || found) of logits over T, in nats.

    Written with log-sum-exp, by which the gradient is the difference of two softmaxes that are computed alike: it is
    exactly zero where the logits are the same. An optimiser that divides by the gradient's size would make steps of
    what rounding leaves, and carry a control away that has nothing to learn.

    Args:
        dense: Shape (B, C), without gradients.
        found: Shape (B, C).
        temperature: T, above 0.

    Source:
        Hinton et al. (2015), "Distilling the Knowledge in a Neural Network", section 2.
    """
    dense, found = dense.float() / temperature, found.float() / temperature
    total = dense.logsumexp(dim=1, keepdim=True)
    expected = ((dense - total).exp() * (dense - found)).sum(dim=1)
    return temperature**2 * (expected - total.squeeze(1) + found.logsumexp(dim=1)).mean()
