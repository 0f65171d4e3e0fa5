"""The plan that loses least among a few, told on images that none of them was made on.

Of many plans measured on some dozens of images, the best there is partly the luckiest. Few candidates on many other
images leave little room for luck, and what the winner loses there is an honest prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.allocation.neighbours import Blocks, RanPlan

RunPlan = Callable[[Blocks], RanPlan]
"""Runs a plan on some images, tokens chosen again at each site."""
SURE = 2.0
"""Standard errors of the paired difference by which a plan must lose more than the leader to leave early."""


def race(candidates: Sequence[Blocks], parts: Sequence[RunPlan]) -> tuple[Blocks, NDArray[np.float64]]:
    """Return the candidate of least mean loss, and its loss on each image in nats, shape (N,).

    Candidates run on one part of the images after the other; those that surely lose more than the leader leave.

    Args:
        candidates: Different plans.
        parts: Run a plan on parts of the images.
    """
    losses = {blocks: np.empty(0) for blocks in candidates}
    for part in parts:
        losses = {blocks: np.concatenate([before, part(blocks).losses]) for blocks, before in losses.items()}
        leader = min(losses.values(), key=lambda found: float(found.mean()))
        losses = {blocks: found for blocks, found in losses.items() if not surely_more(found - leader)}
    return min(losses.items(), key=lambda pair: float(pair[1].mean()))


def cheapest_within(
    candidates: Sequence[Blocks], parts: Sequence[RunPlan], max_loss: float
) -> tuple[Blocks, NDArray[np.float64]]:
    """Return the first candidate whose mean loss keeps a limit, standard error included, and its losses, shape (N,).

    Where none does, it is the one of least mean loss among those that ran longest.

    Args:
        candidates: Different plans, cheapest first.
        parts: Run a plan on parts of the images.
        max_loss: Largest mean loss, in nats.
    """
    tried: list[tuple[Blocks, NDArray[np.float64]]] = []
    for blocks in candidates:
        found = np.empty(0)
        for part in parts:
            found = np.concatenate([found, part(blocks).losses])
            if surely_more(found - max_loss):
                break
        tried.append((blocks, found))
        mean, error = mean_and_stderr(found)
        if mean + error <= max_loss:
            return blocks, found
    return min(tried, key=lambda pair: (-len(pair[1]), float(pair[1].mean())))


def surely_more(differences: NDArray[np.float64]) -> bool:
    """Return whether the mean of paired differences exceeds zero by more than ``SURE`` standard errors."""
    mean, error = mean_and_stderr(differences)
    return mean > SURE * error and mean > 0


def mean_and_stderr(losses: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean over images and its standard error, in nats; of one image alone the error is its size."""
    mean, count = float(losses.mean()), len(losses)
    return mean, float(losses.std(ddof=1) / count**0.5) if count > 1 else abs(mean)
