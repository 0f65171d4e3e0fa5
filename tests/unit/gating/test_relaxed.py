"""The relaxed forward becomes the hard one as its temperature goes to 0, and lets a gradient reach the gate."""

from __future__ import annotations

import pytest
import torch
from fakes.tiny_vit import images, make_vit, plan_of
from fakes.trainable_gate import TrainableGate

from heartvit_edge.gating.gate import default_gate
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.relaxed import has_weights, log_keep, relaxed_logits
from heartvit_edge.model.zoo import _shape

DOUBLE = torch.float64
COLD = 1e-6
HEADS = {0: [0, 2, 3], 1: [1]}
VARIANTS = (
    "plain",
    "distilled",
    "registers outside the position embedding",
    "average pooling",
    "average pooling without class token",
)


def gated(variant="plain", patches_at=None, gate=None):
    """Return a gated model that keeps so many of 16 patches from each site on, and lacks some heads."""
    dense = make_vit(variant, dtype=DOUBLE)
    shape = _shape(dense)
    tokens = {site: shape.num_prefix_tokens + count for site, count in (patches_at or {1: 11, 2: 6, 3: 3}).items()}
    return GatedViT(dense, plan_of(shape, tokens, HEADS), gate or default_gate(shape)).eval()


def trainable(**kwargs):
    return gated(gate=TrainableGate(32, 1, **kwargs).to(DOUBLE))


@pytest.mark.parametrize("gate", [None, "attention-received"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_without_temperature_the_relaxed_logits_are_the_hard_ones(variant, gate):
    model, batch = gated(variant, gate=gate), images(6, dtype=DOUBLE)
    torch.testing.assert_close(relaxed_logits(model, batch, COLD), model(batch)[0], rtol=0, atol=1e-9)


def test_without_temperature_the_relaxed_logits_of_a_gate_with_weights_are_the_hard_ones():
    model, batch = trainable(), images(6, dtype=DOUBLE)
    torch.testing.assert_close(relaxed_logits(model, batch, COLD), model(batch)[0], rtol=0, atol=1e-9)


def test_a_warm_gate_keeps_something_of_every_patch():
    model, batch = gated(), images(6, dtype=DOUBLE)
    assert (relaxed_logits(model, batch, 1.0) - model(batch)[0]).abs().max() > 1e-3


def test_removal_gates_are_a_sigmoid_around_the_middle_of_the_last_kept_and_the_first_dropped():
    scores = torch.tensor([[4.0, 1.0, 2.0, 8.0]], dtype=DOUBLE)
    spread = scores.std()
    for temperature in (0.3, 1.0):
        expected = [1 / (1 + torch.exp(-(score - 3.0) / (temperature * spread))) for score in scores[0]]
        torch.testing.assert_close(log_keep(scores, 2, temperature).exp()[0], torch.stack(expected))


def test_removal_gates_do_not_depend_on_the_unit_of_the_scores():
    scores = torch.randn(3, 9, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    torch.testing.assert_close(log_keep(1e-4 * scores + 7, 4, 0.5), log_keep(scores, 4, 0.5))


def test_equal_scores_give_numbers():
    scores = torch.zeros(2, 5, requires_grad=True)
    gate = log_keep(scores, 3, 0.1)
    gate.sum().backward()
    assert gate.isfinite().all()
    assert scores.grad.isfinite().all()


def test_the_gradient_of_the_gates_weights_is_that_of_finite_differences():
    model, batch = trainable(), images(2, dtype=DOUBLE)
    model.gate.requires_grad_(True)
    weight = model.gate.layer.weight

    def loss():
        return relaxed_logits(model, batch, 0.7).square().sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    assert gradient.abs().max() > 1e-3
    step = 1e-6
    for column in (0, 15, 32):
        with torch.no_grad():
            weight[0, column] += step
            above = loss()
            weight[0, column] -= 2 * step
            below = loss()
            weight[0, column] += step
        assert gradient[0, column].item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-5)


def test_every_site_sends_a_gradient_to_the_gate():
    for site in (1, 2, 3):
        model = gated(patches_at={site: 7}, gate=TrainableGate(32, 1).to(DOUBLE))
        model.gate.requires_grad_(True)
        relaxed_logits(model, images(2, dtype=DOUBLE), 0.5).square().sum().backward()
        assert model.gate.layer.weight.grad.abs().max() > 1e-6


def test_what_cannot_be_relaxed_is_refused():
    dense = make_vit()
    with pytest.raises(ValueError, match="nothing to relax"):
        relaxed_logits(GatedViT(dense, plan_of(_shape(dense), kept_heads=HEADS), None), images(1), 1.0)
    with pytest.raises(ValueError, match="temperature must be above 0, found 0"):
        relaxed_logits(gated(), images(1, dtype=DOUBLE), 0.0)


def test_only_a_gate_with_parameters_has_weights():
    assert has_weights(TrainableGate(32, 1))
    assert not has_weights(gated().gate)
    assert not has_weights(None)
