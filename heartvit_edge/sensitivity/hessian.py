"""Second derivatives of a loss with respect to gates, by Hessian-vector products; the Hessian is never formed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def hessian_vector_product(gradient: Tensor, gates: Tensor, vector: Tensor, *, retain: bool = True) -> Tensor:
    """Return H v for every image by itself, from a gradient that still has its graph.

    Args:
        gradient: d loss / d gates (B, P), made with ``create_graph=True``; row b depends on row b of the gates only.
        gates: Leaf (B, P).
        vector: Shape (B, P).
        retain: Whether the graph is needed again.

    Returns:
        Shape (B, P).

    Source:
        Pearlmutter (1994), "Fast Exact Multiplication by the Hessian", Neural Computation 6(1).
    """
    (product,) = torch.autograd.grad(gradient, gates, grad_outputs=vector, retain_graph=retain)
    return product


def hutchinson_diagonal(
    loss: Callable[[Tensor], Tensor], gates: Tensor, num_probes: int, generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    r"""Return an unbiased estimate of half the Hessian's diagonal and its standard error.

    Averages 1/2 v_j (H v)_j over Rademacher vectors v: E[v_j v_k] is zero for j != k, so the cross terms of a joint
    probe, which are not part of the diagonal, cancel in the mean.

    Args:
        loss: Maps gates (B, P) to one loss an image (B,).
        gates: Leaf (B, P), the point of expansion.
        num_probes: Hessian-vector products to spend, at least two.
        generators: Source of each image's probes, on the CPU.

    Returns:
        Mean and standard error over the probes, each (B, P), in units of the loss. Entries may be negative.

    Raises:
        ValueError: If ``num_probes`` is below two, where no standard error exists, or the number of generators is
            not the batch size.

    Source:
        Bekas, Kokiopoulou and Saad (2007), "An estimator for the diagonal of a matrix", with Hutchinson's probes.
    """
    if num_probes < 2:
        raise ValueError(f"num_probes must be at least 2, found {num_probes}")
    if len(generators) != len(gates):
        raise ValueError(f"expected one generator for each of {len(gates)} images, found {len(generators)}")
    size = (num_probes, gates.shape[1])
    signs = torch.stack([torch.randint(0, 2, size, generator=generator) * 2 - 1 for generator in generators], dim=1)
    (gradient,) = torch.autograd.grad(loss(gates).sum(), gates, create_graph=True)
    mean = torch.zeros_like(gates)
    spread = torch.zeros_like(gates)
    for index in range(num_probes):
        probe = signs[index].to(gates)
        product = hessian_vector_product(gradient, gates, probe, retain=index < num_probes - 1)
        sample = probe * product / 2
        step = sample - mean
        mean += step / (index + 1)
        spread += step * (sample - mean)
    return mean, (spread / (num_probes - 1) / num_probes).sqrt()


def set_cost(loss: Callable[[Tensor], Tensor], gates: Tensor, removed: Tensor) -> Tensor:
    r"""Return the exact second-order loss of removing a set of components, by one Hessian-vector product.

    Computes 1/2 v^T H v with v the indicator of the set: what is lost where all of the set goes at once, cross terms
    included. For the KL divergence at gates of one there is no first-order term.

    Args:
        loss: Maps gates (B, P) to one loss an image (B,).
        gates: Leaf (B, P), the point of expansion.
        removed: 1 where a component goes and 0 where it stays, shape (B, P).

    Returns:
        Shape (B,), in units of the loss.
    """
    (gradient,) = torch.autograd.grad(loss(gates).sum(), gates, create_graph=True)
    product = hessian_vector_product(gradient, gates, removed, retain=False)
    return (removed * product).sum(dim=1) / 2
