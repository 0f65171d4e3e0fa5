"""Losses of a pruned forward, one number an image, in nats."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def kl_to_dense(dense_logits: Tensor, logits: Tensor) -> Tensor:
    """Return KL(dense || pruned) of each image, in nats, shape (B,).

    Args:
        dense_logits: Of the unpruned model, shape (B, C); no gradient flows to them.
        logits: Of the pruned or gated model, shape (B, C).
    """
    dense = functional.log_softmax(dense_logits.detach(), dim=1)
    return (dense.exp() * (dense - functional.log_softmax(logits, dim=1))).sum(dim=1)


def cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """Return the labelled loss of each image, in nats, shape (B,), for labels (B,) and logits (B, C)."""
    return functional.cross_entropy(logits, labels, reduction="none")
