"""The Fisher diagonal of the gates: against the dense Hessian of the KL divergence, and its Monte-Carlo estimate."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
from fakes.small_scores import DOUBLE, double_dense, generators, hessian_of, kl_of
from fakes.tiny_vit import images
from torch.nn import functional

from heartvit_edge.model.forward import forward
from heartvit_edge.sensitivity.fisher import exact_diagonal, low_rank_diagonal, monte_carlo_diagonal
from heartvit_edge.sensitivity.gates import GateLayout

VARIANTS = ["plain", "distilled", "average pooling", "SwiGLU, layer scale, registers", "query and key norm"]
SITES = (1, 2, 3)
GROUPS = 4


def gated(variant, batch):
    """Return a model's layout, the gates of a batch and the log-probabilities that they lead to."""
    dense = double_dense(variant)
    layout = GateLayout(dense.shape, SITES, GROUPS)
    gates = layout.ones(batch)
    return dense, layout, gates, functional.log_softmax(forward(dense.module, batch, layout.gates(gates)), dim=1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_exact_diagonal_is_half_that_of_the_dense_hessian_of_the_kl(variant):
    batch = images(2, dtype=DOUBLE)
    dense, layout, gates, log_probs = gated(variant, batch)
    found = exact_diagonal(log_probs, gates)
    assert found.shape == (2, 3 * 16 + 4 * 4 + 4 * GROUPS)
    for row, image in zip(found, batch, strict=True):
        hessian = hessian_of(kl_of(dense, layout, image), layout.num_gates)
        torch.testing.assert_close(row, hessian.diagonal() / 2, rtol=1e-9, atol=1e-13)
        assert torch.linalg.eigvalsh(hessian).min() > -1e-12
    assert found.min() >= 0
    assert (found > 1e-9).double().mean() > 0.95


@pytest.mark.parametrize("rank", [9, 20])
def test_all_eigenvectors_but_one_give_the_exact_diagonal(rank):
    batch = images(2, dtype=DOUBLE)
    _, _, gates, log_probs = gated("plain", batch)
    assert log_probs.shape[1] <= 10
    exact = exact_diagonal(log_probs, gates)
    _, _, gates, log_probs = gated("plain", batch)
    torch.testing.assert_close(low_rank_diagonal(log_probs, gates, rank), exact, rtol=1e-9, atol=1e-15)


def test_fewer_eigenvectors_give_less_and_each_further_one_adds():
    batch = images(2, dtype=DOUBLE)
    found = []
    for rank in (1, 2, 3):
        _, _, gates, log_probs = gated("plain", batch)
        found.append(low_rank_diagonal(log_probs, gates, rank))
    _, _, gates, log_probs = gated("plain", batch)
    found.append(exact_diagonal(log_probs, gates))
    for fewer, more in pairwise(found):
        assert (more - fewer).min() > -1e-15
        assert fewer.sum() < more.sum()


def test_one_eigenvector_of_two_classes_is_the_whole():
    gates = torch.ones(1, 3, dtype=DOUBLE, requires_grad=True)
    logits = torch.stack([(gates * torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE)).sum(1), torch.zeros(1)], dim=1)
    log_probs = functional.log_softmax(logits.double(), dim=1)
    share = log_probs.detach().exp()[0, 0]
    expected = share * (1 - share) * torch.tensor([[1.0, 4.0, 0.25]], dtype=DOUBLE) / 2
    torch.testing.assert_close(low_rank_diagonal(log_probs, gates, 1), expected)


def test_the_kl_has_no_slope_at_gates_of_one():
    image = images(1, dtype=DOUBLE)[0]
    dense = double_dense()
    layout = GateLayout(dense.shape, SITES, GROUPS)
    ones = torch.ones(layout.num_gates, dtype=DOUBLE)
    kl = kl_of(dense, layout, image)
    assert torch.func.grad(kl)(ones).abs().max() < 1e-13
    assert torch.func.grad(kl)(0.9 * ones).abs().max() > 1e-3


@cache
def repeated(copies, draws):
    """Return the exact diagonal (P,) of one image, and estimate and standard error of equal copies of it (B, P)."""
    batch = images(1, dtype=DOUBLE).expand(copies, -1, -1, -1)
    _, _, gates, log_probs = gated("plain", batch)
    mean, stderr = monte_carlo_diagonal(log_probs, gates, draws, generators(copies))
    _, _, gates, log_probs = gated("plain", batch[:1])
    return exact_diagonal(log_probs, gates)[0], mean.detach(), stderr.detach()


def test_the_monte_carlo_mean_converges_to_the_exact_diagonal():
    exact, mean, _ = repeated(64, 60)
    stderr = mean.std(dim=0) / 64**0.5
    assert stderr.mean() < 0.05 * exact.mean()
    within = (mean.mean(dim=0) - exact).abs() <= 4 * stderr
    assert within.double().mean() >= 0.99


def test_the_monte_carlo_standard_error_is_the_spread_of_repeated_estimates():
    _, mean, stderr = repeated(64, 60)
    ratio = (stderr.square().mean(dim=0) / mean.var(dim=0)).sqrt()
    assert 0.85 < ratio.median() < 1.15
    assert ratio.min() > 0.6
    assert ratio.max() < 1.6


def test_draws_belong_to_an_image_wherever_it_stands_in_a_batch():
    batch = images(3, dtype=DOUBLE)
    _, _, gates, log_probs = gated("plain", batch)
    together, _ = monte_carlo_diagonal(log_probs, gates, 4, generators(3))
    _, _, gates, log_probs = gated("plain", batch[2:])
    alone, _ = monte_carlo_diagonal(log_probs, gates, 4, generators(3)[2:])
    torch.testing.assert_close(alone[0], together[2], rtol=1e-9, atol=1e-14)
    _, _, gates, log_probs = gated("plain", batch[2:])
    other, _ = monte_carlo_diagonal(log_probs, gates, 4, generators(3, seed=1)[2:])
    assert not torch.allclose(other[0], together[2], rtol=1e-3)


def test_one_draw_is_refused_since_it_has_no_standard_error():
    _, _, gates, log_probs = gated("plain", images(1, dtype=DOUBLE))
    with pytest.raises(ValueError, match="at least 2, found 1"):
        monte_carlo_diagonal(log_probs, gates, 1, generators(1))
