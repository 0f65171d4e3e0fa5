r"""The Fisher information of the gates: squared first derivatives, from plain backward passes.

For L(m) = KL(p_dense || p(m)) at m = 1 the gradient is zero and the Hessian is the Fisher information
F = sum_c p_c (d log p_c / dm)(d log p_c / dm)^T, so half its diagonal is the leading term of the loss of removal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def exact_diagonal(log_probs: Tensor, gates: Tensor) -> Tensor:
    r"""Return half the Fisher diagonal, in nats, from one backward pass a class.

    Computes 1/2 sum_c p_c (d log p_c / dm_j)^2 for every image by itself.

    Args:
        log_probs: Log-probabilities (B, C), a function of the gates; row b depends on row b of the gates only.
        gates: Leaf (B, P) at one.

    Returns:
        Shape (B, P), non-negative.

    Source:
        Amari (1998), "Natural Gradient Works Efficiently in Learning", Neural Computation 10(2), definition of F.
    """
    probs = log_probs.detach().exp()
    total = torch.zeros_like(gates)
    classes = log_probs.shape[1]
    for index in range(classes):
        last = index == classes - 1
        (slope,) = torch.autograd.grad(log_probs[:, index].sum(), gates, retain_graph=not last)
        total += probs[:, index, None] * slope**2
    return total / 2


def low_rank_diagonal(log_probs: Tensor, gates: Tensor, rank: int) -> Tensor:
    r"""Return nearly half the Fisher diagonal, in nats, from ``rank`` backward passes, however many classes.

    F = J^T (diag p - p p^T) J with J the slopes of the logits. The matrix in the middle has few large eigenvalues, for
    an image is seldom undecided between many classes: of its eigenvectors the ``rank`` largest are used, so the result
    is never above the exact one. With at least C - 1 it is exact.

    Args:
        log_probs: Log-probabilities (B, C), a function of the gates; row b depends on row b of the gates only.
        gates: Leaf (B, P) at one.
        rank: Eigenvectors, at least 1.

    Returns:
        Shape (B, P), non-negative.

    Source:
        Our own derivation; docs/scores.md has what three of them keep.
    """
    probs = log_probs.detach().exp()
    values, vectors = torch.linalg.eigh(torch.diag_embed(probs) - probs[:, :, None] * probs[:, None, :])
    directions = vectors * values.clamp(min=0).sqrt()[:, None, :]  # orthogonal to ones, so log p is as good as logits
    total = torch.zeros_like(gates)
    count = min(rank, probs.shape[1])
    for index in range(count):
        along = (log_probs * directions[:, :, -1 - index]).sum()
        (slope,) = torch.autograd.grad(along, gates, retain_graph=index < count - 1)
        total += slope**2
    return total / 2


def monte_carlo_diagonal(
    log_probs: Tensor, gates: Tensor, num_samples: int, generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    r"""Return an unbiased estimate of half the Fisher diagonal and its standard error, in nats.

    Draws classes c from p and averages 1/2 (d log p_c / dm_j)^2: one backward pass a draw, however many classes.

    Args:
        log_probs: Log-probabilities (B, C), a function of the gates; row b depends on row b of the gates only.
        gates: Leaf (B, P) at one.
        num_samples: Draws an image, at least two.
        generators: Source of each image's draws, on the CPU.

    Returns:
        Mean and standard error over the draws, each (B, P).

    Raises:
        ValueError: If ``num_samples`` is below two, where no standard error exists.

    Source:
        Kunstner et al. (2019), "Limitations of the Empirical Fisher Approximation", section 2 (sampling from the
        model, not the labels).
    """
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, found {num_samples}")
    probs = log_probs.detach().exp().cpu()
    draws = torch.stack(
        [
            torch.multinomial(row, num_samples, replacement=True, generator=generator)
            for row, generator in zip(probs, generators, strict=True)
        ]
    )
    mean = torch.zeros_like(gates)
    spread = torch.zeros_like(gates)  # running sum of squared deviations (Welford)
    for index in range(num_samples):
        picked = log_probs.gather(1, draws[:, index, None].to(log_probs.device))
        (slope,) = torch.autograd.grad(picked.sum(), gates, retain_graph=index < num_samples - 1)
        sample = slope**2 / 2
        step = sample - mean
        mean += step / (index + 1)
        spread += step * (sample - mean)
    return mean, (spread / (num_samples - 1) / num_samples).sqrt()
