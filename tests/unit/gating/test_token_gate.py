"""A gate with weights: what it reads, how large it may be, and that it takes its place in the gated model."""

from __future__ import annotations

import math

import pytest
import torch
from fakes.tiny_vit import images, make_vit, plan_of

from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.token_gate import MOST_MACS, TokenGate, attention_features, gate_macs, make_token_gate
from heartvit_edge.model.zoo import _shape

DOUBLE = torch.float64
VARIANTS = ["plain", "registers", "distilled", "average pooling without class token"]


@pytest.fixture(scope="module")
def weights():
    """Attention weights of 2 images, 3 heads, 2 prefix and 5 patch tokens."""
    logits = torch.randn(2, 3, 7, 7, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    return logits.softmax(dim=-1)


def made(variant, patches_at, heads=None):
    torch.manual_seed(0)
    dense = make_vit(variant, dtype=DOUBLE)
    shape = _shape(dense)
    plan = plan_of(shape, {site: shape.num_prefix_tokens + count for site, count in patches_at.items()}, heads)
    return dense, plan, make_token_gate(plan).to(DOUBLE)


def test_attention_features_are_logarithms_of_what_a_patch_receives_and_exchanges_with_the_class_token(weights):
    found = attention_features(weights, 2)
    assert found.shape == (2, 5, 9)
    for head in range(3):
        for patch in range(5):
            received = sum(weights[1, head, query, 2 + patch].item() for query in range(7)) / 7
            for column, share in (
                (head, received),
                (3 + head, weights[1, head, 0, 2 + patch].item()),
                (6 + head, weights[1, head, 2 + patch, 0].item()),
            ):
                assert found[1, patch, column].item() == pytest.approx(math.log(7 * share))


def test_uniform_attention_is_a_feature_of_zero_for_any_number_of_tokens():
    for count in (3, 9):
        found = attention_features(torch.full((1, 2, count, count), 1 / count, dtype=DOUBLE), 1)
        assert found.abs().max() < 1e-12


def test_no_attention_at_all_is_a_number():
    assert attention_features(torch.zeros(1, 2, 4, 4), 1).isfinite().all()


def test_without_a_class_token_there_is_only_what_patches_receive(weights):
    assert attention_features(weights, 0).shape == (2, 7, 3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gated_model_keeps_the_patches_that_the_gate_scores_highest(variant):
    dense, plan, gate = made(variant, {1: 12, 3: 5})
    model = GatedViT(dense, plan, gate).eval()
    seen = []
    gate.register_forward_hook(lambda _module, given, scores: seen.append((given[0], scores)))
    with torch.no_grad():
        _, first, second = model(images(3, dtype=DOUBLE))
    (site, scores), (later, rest) = seen
    assert (site, later, scores.shape, rest.shape) == (1, 3, (3, 16), (3, 12))
    for row in range(3):
        best = sorted(sorted(range(16), key=lambda patch: -scores[row, patch].item())[:12])
        assert first[row].tolist() == best
        assert second[row].tolist() == sorted(
            best[patch] for patch in sorted(range(12), key=lambda patch: -rest[row, patch].item())[:5]
        )


def test_every_weight_gets_a_gradient_and_none_is_shared_between_sites():
    _, plan, gate = made("plain", {1: 12, 3: 5})
    tokens, attention = torch.randn(2, 17, plan.shape.embed_dim, dtype=DOUBLE), torch.rand(2, 4, 17, 17, dtype=DOUBLE)
    (gate(1, tokens, attention) ** 2).sum().backward()
    for name, value in gate.named_parameters():
        assert (value.grad is not None) == name.startswith("networks.1."), name


def test_a_block_without_some_heads_has_fewer_features():
    _, _, gate = made("plain", {2: 9}, {1: [0, 2]})
    assert gate.networks["2"].attention.in_features == 6


def _counted(gate, tokens, attention, site):
    """Return the multiply-accumulates of the linear layers, by their inputs' sizes."""
    total = []
    hooks = [
        layer.register_forward_hook(lambda own, given, _: total.append(given[0].numel() * own.out_features))
        for layer in gate.modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    gate(site, tokens, attention)
    for hook in hooks:
        hook.remove()
    return sum(total)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_macs_are_those_of_the_linear_layers(variant):
    dense = make_vit(variant)
    shape = _shape(dense)
    gate = TokenGate(shape, {2: 3}, hidden=24)
    count = shape.num_prefix_tokens + 11
    counted = _counted(gate, torch.randn(1, count, shape.embed_dim), torch.rand(1, 3, count, count), 2)
    assert gate_macs(shape, {2: 3}, {2: 11}, 24) == counted


def test_a_gate_takes_no_more_than_a_hundredth_of_the_dense_macs_where_eight_hidden_units_do():
    _, plan, gate = made("plain", {1: 12, 3: 5})
    hidden = gate.networks["1"].hidden.in_features
    assert hidden % 8 == 0
    larger = gate_macs(plan.shape, {1: 4, 3: 4}, {1: 16, 3: 12}, hidden + 8)
    assert hidden == 128 or larger > MOST_MACS * plan.dense_macs


@pytest.mark.parametrize("sites", [{}, {0: 9}])
def test_a_plan_without_sites_or_with_one_at_block_0_has_no_gate(sites):
    with pytest.raises(ValueError, match="sites after block 0"):
        made("plain", sites)
