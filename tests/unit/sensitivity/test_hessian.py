"""Hessian-vector products, the Hutchinson diagonal and the cost of a set: against the dense Hessian."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from fakes.small_scores import DOUBLE, double_dense, generators, hessian_of, kl_of, labelled_loss_of
from fakes.tiny_vit import images

from heartvit_edge.model.forward import forward
from heartvit_edge.sensitivity.fisher import exact_diagonal
from heartvit_edge.sensitivity.gates import GateLayout
from heartvit_edge.sensitivity.hessian import hessian_vector_product, hutchinson_diagonal, set_cost
from heartvit_edge.sensitivity.loss import cross_entropy, kl_to_dense

DENSE = double_dense()
LAYOUT = GateLayout(DENSE.shape, (1, 3), unit_groups=4)
BATCH = images(2, dtype=DOUBLE)
LABELS = torch.tensor([1, 4])


def labelled(gates, batch=BATCH, labels=LABELS):
    return cross_entropy(labels, forward(DENSE.module, batch, LAYOUT.gates(gates)))


def divergence(gates, batch=BATCH):
    return kl_to_dense(DENSE.module(batch), forward(DENSE.module, batch, LAYOUT.gates(gates)))


@cache
def labelled_hessian(row):
    return hessian_of(labelled_loss_of(DENSE, LAYOUT, BATCH[row], int(LABELS[row])), LAYOUT.num_gates)


@cache
def divergence_hessian(row):
    return hessian_of(kl_of(DENSE, LAYOUT, BATCH[row]), LAYOUT.num_gates)


def test_a_hessian_vector_product_is_the_dense_hessian_times_the_vector_for_each_image():
    gates = LAYOUT.ones(BATCH)
    vector = torch.randn(gates.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(labelled(gates).sum(), gates, create_graph=True)
    product = hessian_vector_product(gradient, gates, vector)
    again = hessian_vector_product(gradient, gates, vector, retain=False)
    for row in range(2):
        torch.testing.assert_close(product[row], labelled_hessian(row) @ vector[row], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(again, product, rtol=0, atol=0)


@cache
def repeated(copies, probes):
    """Return Hutchinson's estimate and standard error of equal copies of the first image, each (copies, P)."""
    batch = BATCH[:1].expand(copies, -1, -1, -1)
    gates = LAYOUT.ones(batch)
    sources = generators(copies)
    return hutchinson_diagonal(lambda v: labelled(v, batch, LABELS[:1].expand(copies)), gates, probes, sources)


def test_hutchinson_converges_to_half_the_diagonal_of_a_labelled_loss():
    mean, _ = repeated(64, 24)
    exact = labelled_hessian(0).diagonal() / 2
    stderr = mean.std(dim=0) / 64**0.5
    assert stderr.mean() < 0.1 * exact.abs().mean()
    within = (mean.mean(dim=0) - exact).abs() <= 4 * stderr
    assert within.double().mean() >= 0.99
    assert exact.min() < 0  # the labelled loss is indefinite


def test_hutchinsons_standard_error_is_the_spread_of_repeated_estimates():
    mean, stderr = repeated(64, 24)
    ratio = (stderr.square().mean(dim=0) / mean.var(dim=0)).sqrt()
    assert 0.85 < ratio.median() < 1.15
    assert ratio.min() > 0.6
    assert ratio.max() < 1.6


def test_hutchinsons_spread_has_the_variance_of_the_closed_form():
    hessian = labelled_hessian(0)
    off_diagonal = hessian.square().sum(dim=1) - hessian.diagonal().square()
    mean, _ = repeated(64, 24)
    ratio = (mean.var(dim=0) / (off_diagonal / 4 / 24)).sqrt()
    assert 0.9 < ratio.median() < 1.1


def test_hutchinson_is_exact_on_a_diagonal_hessian():
    curvature = torch.tensor([[1.0, -2.0, 3.0]], dtype=DOUBLE)
    gates = torch.ones(1, 3, dtype=DOUBLE, requires_grad=True)
    mean, stderr = hutchinson_diagonal(lambda v: (curvature * v**2 / 2).sum(1), gates, 5, generators(1))
    torch.testing.assert_close(mean, curvature / 2)
    torch.testing.assert_close(stderr, torch.zeros_like(stderr))


def test_a_joint_probe_gives_row_sums_and_not_the_diagonal():
    gates = LAYOUT.ones(BATCH)
    (gradient,) = torch.autograd.grad(divergence(gates).sum(), gates, create_graph=True)
    joint = hessian_vector_product(gradient, gates, torch.ones_like(gates)) / 2
    hessian = divergence_hessian(0)
    torch.testing.assert_close(joint[0], hessian.sum(dim=1) / 2, rtol=1e-9, atol=1e-12)
    assert (joint[0] < 0).any()  # a row sum may be negative where every diagonal entry is positive
    assert hessian.diagonal().min() > 0
    error = (joint[0] - hessian.diagonal() / 2).abs() / (hessian.diagonal() / 2)
    assert error.median() > 0.5


def removed_sets():
    """Return sets that mix tokens of both sites, heads and unit groups, one an image, shape (2, P)."""
    removed = torch.zeros(2, LAYOUT.num_gates, dtype=DOUBLE)
    removed[0, [0, 3, 20, 33, 40, 50]] = 1
    removed[1, 1::7] = 1
    return removed


def test_the_cost_of_a_set_is_half_the_quadratic_form_of_the_dense_hessian():
    removed = removed_sets()
    found = set_cost(divergence, LAYOUT.ones(BATCH), removed)
    expected = [removed[row] @ divergence_hessian(row) @ removed[row] / 2 for row in range(2)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-13)


def test_the_cost_of_a_set_is_that_of_its_members_and_of_each_pair():
    removed = removed_sets()
    found = set_cost(divergence, LAYOUT.ones(BATCH), removed)[0]
    gates = LAYOUT.ones(BATCH)
    log_probs = forward(DENSE.module, BATCH, LAYOUT.gates(gates)).log_softmax(1)
    singles = exact_diagonal(log_probs, gates)[0]
    members = removed[0].nonzero().flatten().tolist()
    alone = float(sum(singles[j] for j in members))
    hessian = divergence_hessian(0)
    pairs = float(sum(hessian[j, k] for j in members for k in members if j < k))
    assert float(found) == pytest.approx(alone + pairs, rel=1e-9)
    assert abs(pairs) > 0.05 * alone
    one = torch.zeros_like(removed)
    one[:, members[0]] = 1
    assert float(set_cost(divergence, LAYOUT.ones(BATCH), one)[0]) == pytest.approx(
        float(singles[members[0]]), rel=1e-9
    )


def test_one_probe_and_a_missing_generator_are_refused():
    gates = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match="at least 2, found 1"):
        hutchinson_diagonal(lambda v: (v**2).sum(1), gates, 1, generators(2))
    with pytest.raises(ValueError, match="each of 2 images, found 1"):
        hutchinson_diagonal(lambda v: (v**2).sum(1), gates, 2, generators(1))
