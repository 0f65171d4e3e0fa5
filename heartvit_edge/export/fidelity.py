"""How close a graph in another precision comes to the FP32 graph, and whether that is close enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.errors import CheckError
from heartvit_edge.export.activation_ranges import Feed
from heartvit_edge.spec.precision import Fidelity
from heartvit_edge.spec.route import Run

MIN_COSINE_FP16 = 0.9999
"""Least mean cosine between the logits of an FP16 graph and those of the FP32 graph, of images with the same tokens."""

MIN_OVERLAP_FP16 = 0.9
"""Least share of the tokens that an FP16 graph keeps which the FP32 graph keeps too."""


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return log p, shape (B, C), of logits (B, C)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def kl_nats(reference: NDArray[Any], logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return KL(reference || other) of each image, shape (B,), of logits (B, C) each; rounding below 0 is 0."""
    log_p, log_q = log_softmax(reference), log_softmax(logits)
    return np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0)


def compare(reference: Run, other: Run, feeds: Sequence[Feed], name: str) -> Fidelity:
    """Return how close a graph comes to another with the same inputs and outputs.

    Args:
        reference: Runs the FP32 graph: logits, then the kept patches of each site.
        other: Runs the one in another precision.
        feeds: Batches of real inputs.
        name: What the message calls the other.

    Raises:
        CheckError: If a logit of the other graph is not finite.
    """
    cosines: list[float] = []
    losses: list[float] = []
    same: list[bool] = []
    overlaps: list[float] = []
    agreeing = 0
    for feed in feeds:
        (expected, *kept), (found, *kept_here) = (run(feed).values() for run in (reference, other))
        if not np.isfinite(found).all():
            raise CheckError(
                f"{name}: the logits are not all finite, in FP32 they are",
                hint="values leave the range of the lower precision: export without it",
            )
        cosines += _cosines(expected, found).tolist()
        losses += kl_nats(expected, found).tolist()
        agreeing += int((expected.argmax(axis=1) == found.argmax(axis=1)).sum())
        rows = np.ones(len(expected), dtype=bool)
        for ours, theirs in zip(kept_here, kept, strict=True):
            rows &= (ours == theirs).all(axis=1)
            overlaps += [np.isin(one, other).mean() for one, other in zip(ours, theirs, strict=True)]
        same += rows.tolist()
    alike = [cosine for cosine, here in zip(cosines, same, strict=True) if here]
    return Fidelity(
        num_images=len(cosines),
        cosine=float(np.mean(cosines)),
        same_tokens_cosine=float(np.mean(alike)) if alike else None,
        kl_nats=float(np.mean(losses)),
        num_agreeing=agreeing,
        num_other_tokens=same.count(False),
        kept_overlap=float(np.mean(overlaps)) if overlaps else 1.0,
    )


def check_half(fidelity: Fidelity, name: str, *, few: bool = False) -> None:
    """Return only if an FP16 graph is close enough to FP32.

    Where two scores are all but equal, rounding decides which token stays, and the logits differ with good reason:
    logits are compared on the images that keep the same tokens, and the tokens by how many are the same.

    Args:
        fidelity: How close it is.
        name: What the message calls it.
        few: Whether the images are so few that each may keep another token by a hair; then tokens alone are held to.

    Raises:
        CheckError: If the mean cosine is below ``MIN_COSINE_FP16``, or the tokens overlap by less than
            ``MIN_OVERLAP_FP16``.
    """
    hint = "export without --precision fp16"
    if fidelity.kept_overlap < MIN_OVERLAP_FP16:
        raise CheckError(
            f"{name}: {fidelity.kept_overlap:.1%} of the tokens that it keeps are those that FP32 keeps, expected "
            f"{MIN_OVERLAP_FP16:.0%}",
            hint=hint,
        )
    alike = fidelity.same_tokens_cosine
    if alike is None and few:
        return
    if alike is None or alike < MIN_COSINE_FP16:
        found = "unknown" if alike is None else f"{alike:.6f}"
        raise CheckError(
            f"{name}: the mean cosine between its logits and those in FP32 is {found} on the "
            f"{fidelity.num_images - fidelity.num_other_tokens} images that keep the same tokens, expected "
            f"{MIN_COSINE_FP16} or more",
            hint=hint,
        )


def _cosines(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cosine of each pair of rows, in -1 .. 1; two rows of zeros have 1."""
    one, other = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    equal = (one == other).all(axis=1)
    cosines = np.divide((one * other).sum(axis=1), norms, out=np.zeros(len(one)), where=norms > 0)
    return np.where(equal, 1.0, cosines.clip(-1, 1))
