"""The random gate is even over positions, differs by image, and does not hang on rounding or on a patch's own worth."""

from __future__ import annotations

import pytest
import torch
from fakes.tiny_vit import images, make_vit, plan_of

from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.random_gate import RandomGate
from heartvit_edge.model.forward import keep_tokens
from heartvit_edge.model.zoo import _shape


@pytest.fixture(scope="module")
def plan():
    """A plan of the tiny ViT with 16 patches, which keeps 8 at block 1 and 3 at block 3."""
    return plan_of(_shape(make_vit()), {1: 1 + 8, 3: 1 + 3})


@pytest.fixture(scope="module")
def tokens():
    """Tokens of 2,000 images, whose mean varies from image to image."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2000, 17, 32, generator=generator) + torch.randn(2000, 1, 32, generator=generator)


def kept(scores, count=8):
    """Return which positions are among the best, as 0 and 1."""
    return torch.zeros_like(scores).scatter(1, scores.topk(count, dim=1).indices, 1.0)


def test_every_position_is_kept_about_as_often_as_any_other(plan, tokens):
    share = kept(RandomGate(plan)(1, tokens, None)).mean(dim=0)
    assert ((share - 0.5).abs() < 0.1).all()


def test_images_differ_in_what_is_kept(plan, tokens):
    masks = kept(RandomGate(plan)(1, tokens, None))
    overlap = (masks[:1000] * masks[1000:]).sum(dim=1).mean() / 8
    assert overlap == pytest.approx(0.5, abs=0.05)  # of independent draws of half


def test_the_same_image_keeps_the_same_and_another_seed_or_site_does_not(plan, tokens):
    scores = RandomGate(plan)(1, tokens, None)
    assert torch.equal(scores, RandomGate(plan)(1, tokens, None))
    assert ((scores >= 0) & (scores < 1)).all()
    for other in (RandomGate(plan, seed=1)(1, tokens, None), RandomGate(plan)(3, tokens[:, :9], None)):
        assert not torch.equal(kept(other, 3)[:, :8], kept(scores, 3)[:, :8])


def test_scores_have_nothing_to_do_with_the_patches_norms(plan, tokens):
    scores = RandomGate(plan)(1, tokens, None)
    norms = tokens[:, 1:].norm(dim=2)
    paired = torch.stack([scores.flatten(), norms.flatten()])
    assert torch.corrcoef(paired)[0, 1].abs() < 0.02  # 32,000 pairs


def test_rounding_to_half_precision_moves_few_tokens(plan, tokens):
    gate = RandomGate(plan)
    exact, rounded = (kept(gate(1, given, None)) for given in (tokens, tokens.half().float()))
    assert (exact * rounded).sum(dim=1).mean() / 8 > 0.99


def test_each_site_chooses_among_the_tokens_that_are_left():
    dense, shape = make_vit("registers"), _shape(make_vit("registers"))
    plan = plan_of(shape, {1: 5 + 8, 3: 5 + 3})
    model = GatedViT(dense, plan, RandomGate(plan))
    entering = []
    model.gate.register_forward_pre_hook(lambda _, given: entering.append(given[1]))
    _, first, second = model(images(4))
    scores = RandomGate(plan)(1, entering[0], None)
    assert first.tolist() == scores.topk(8, dim=1).indices.sort(dim=1).values.tolist()
    positions = RandomGate(plan)(3, entering[1], None).topk(3, dim=1).indices.sort(dim=1).values
    assert second.tolist() == first.gather(1, positions).tolist()
    assert entering[1].shape == keep_tokens(entering[0], first.long(), 5).shape
