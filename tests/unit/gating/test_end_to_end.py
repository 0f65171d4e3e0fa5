"""A gate goes on learning from what the plan loses with its choice."""

from __future__ import annotations

import pytest
import torch
from fakes.small_scores import image_set, tiny_dense
from fakes.tiny_vit import plan_of

from heartvit_edge.gating.end_to_end import EndToEndSettings, train_end_to_end
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.learn import answers_of
from heartvit_edge.gating.token_gate import make_token_gate
from heartvit_edge.sensitivity.plan_images import load_plan_images
from heartvit_edge.spec.sensitivity import ScoreSettings

SETTINGS = EndToEndSettings(epochs=20, learning_rate=3e-3)


@pytest.fixture(scope="module")
def taught():
    return load_plan_images(tiny_dense(), image_set(24), ScoreSettings(sites=(1, 2, 3)), batch_size=8)


def model():
    dense = tiny_dense()
    plan = plan_of(dense.shape, {1: 12, 3: 5}, {0: [0, 2]}, source=dense.source)
    torch.manual_seed(0)
    return GatedViT(dense.module, plan, make_token_gate(plan)).eval()


def weights(gated):
    return torch.cat([value.detach().flatten() for value in gated.gate.parameters()])


def test_the_loss_of_the_images_learnt_from_falls_and_the_backbone_stays(taught):
    gated = model()
    before = answers_of(gated, taught)
    backbone = [value.clone() for value in gated.backbone.parameters()]
    seen = []
    train_end_to_end(gated, taught, SETTINGS, seen.append)
    assert sum(seen) == 20 * 24
    assert answers_of(gated, taught).kl_nats < 0.9 * before.kl_nats
    assert all(torch.equal(*pair) for pair in zip(backbone, gated.backbone.parameters(), strict=True))
    assert not any(value.requires_grad for value in gated.backbone.parameters())


def test_no_epochs_change_nothing(taught):
    gated = model()
    before = weights(gated)
    train_end_to_end(gated, taught, EndToEndSettings(epochs=0))
    assert torch.equal(weights(gated), before)


def test_the_seed_draws_the_order(taught):
    found = []
    for seed in (0, 0, 1):
        gated = model()
        train_end_to_end(gated, taught, EndToEndSettings(epochs=2, learning_rate=3e-3, seed=seed))
        found.append(weights(gated))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_every_site_learns(taught):
    gated, before = model(), model()
    train_end_to_end(gated, taught, EndToEndSettings(epochs=1))
    for site in (1, 3):
        after, first = (one.gate.network(site).score.weight for one in (gated, before))
        assert not torch.equal(after, first)
