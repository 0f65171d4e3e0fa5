"""How close a graph in another precision comes to the FP32 graph, and whether that is close enough."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.errors import CheckError
from heartvit_edge.export.activation_ranges import Feed
from heartvit_edge.export.half_rounding import open_rounded
from heartvit_edge.export.sessions import open_file
from heartvit_edge.spec.precision import Fidelity, Precision

MIN_COSINE_FP16 = 0.9999
"""Least mean cosine between the logits of an FP16 graph and those of the FP32 graph."""


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return log p, shape (B, C), of logits (B, C)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def kl_nats(reference: NDArray[Any], logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return KL(reference || other) of each image, shape (B,), of logits (B, C) each; rounding below 0 is 0."""
    log_p, log_q = log_softmax(reference), log_softmax(logits)
    return np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0)


def compare_graphs(reference: Path, other: Path, feeds: Sequence[Feed], precision: Precision) -> Fidelity:
    """Return how close a graph comes to another with the same inputs and outputs.

    FP16 is rounded after every node, as :mod:`heartvit_edge.export.half_rounding` says.

    Args:
        reference: The FP32 graph.
        other: The one in another precision.
        feeds: Batches of real inputs.
        precision: That of the other graph.

    Raises:
        CheckError: If a logit of the other graph is not finite.
    """
    sessions = (open_file(reference), (open_rounded if precision == "fp16" else open_file)(other))
    cosines: list[float] = []
    losses: list[float] = []
    same: list[bool] = []
    agreeing = 0
    for feed in feeds:
        (expected, *kept), (found, *kept_here) = (session.run(None, dict(feed)) for session in sessions)
        if not np.isfinite(found).all():
            raise CheckError(
                f"{other.stem}: the logits are not all finite, in FP32 they are",
                hint="values leave the range of the lower precision: export without it",
            )
        cosines += _cosines(expected, found).tolist()
        losses += kl_nats(expected, found).tolist()
        agreeing += int((expected.argmax(axis=1) == found.argmax(axis=1)).sum())
        rows = np.ones(len(expected), dtype=bool)
        for ours, theirs in zip(kept_here, kept, strict=True):
            rows &= (ours == theirs).all(axis=1)
        same += rows.tolist()
    alike = [cosine for cosine, here in zip(cosines, same, strict=True) if here]
    return Fidelity(
        num_images=len(cosines),
        cosine=float(np.mean(cosines)),
        min_cosine=min(alike, default=None),
        kl_nats=float(np.mean(losses)),
        num_agreeing=agreeing,
        num_other_tokens=same.count(False),
    )


def check_half(fidelity: Fidelity, name: str) -> None:
    """Return only if an FP16 graph is close enough to FP32.

    Raises:
        CheckError: If the mean cosine is below ``MIN_COSINE_FP16``.
    """
    if fidelity.cosine < MIN_COSINE_FP16:
        raise CheckError(
            f"{name}: the mean cosine between its logits and those in FP32 is {fidelity.cosine:.6f} on "
            f"{fidelity.num_images} images, expected {MIN_COSINE_FP16} or more",
            hint="export without --precision fp16",
        )


def _cosines(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cosine of each pair of rows, in -1 .. 1; two rows of zeros have 1."""
    one, other = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    equal = (one == other).all(axis=1)
    cosines = np.divide((one * other).sum(axis=1), norms, out=np.zeros(len(one)), where=norms > 0)
    return np.where(equal, 1.0, cosines.clip(-1, 1))
