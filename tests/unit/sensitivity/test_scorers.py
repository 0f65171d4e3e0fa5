"""Every scorer against naive loops over the model's own weights and activations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes.small_scores import DOUBLE, double_dense, generators, labelled_loss_of
from fakes.tiny_vit import images
from scipy.special import softmax

from heartvit_edge.errors import InputError
from heartvit_edge.model.forward import embed, forward
from heartvit_edge.sensitivity.fisher import exact_diagonal, monte_carlo_diagonal
from heartvit_edge.sensitivity.gates import GateLayout
from heartvit_edge.sensitivity.scorers import SCORERS, Batch
from heartvit_edge.spec.sensitivity import ScoreSettings

SITES = (1, 3)
GROUPS = 8
BATCH = images(3, seed=5, dtype=DOUBLE)
LABELS = torch.tensor([0, 2, 4])


def run(scorer, variant="plain", *, labels=LABELS, seed=0, batch=BATCH, unit_groups=GROUPS):
    """Return a scorer's answer on the three images."""
    dense = double_dense(variant)
    layout = GateLayout(dense.shape, SITES, unit_groups, SCORERS[scorer].scale_tokens)
    return SCORERS[scorer].score(Batch(dense.module, layout, batch, labels, 4, generators(len(batch), seed)))


def attention(model, site):
    """Return the attention weights (B, heads, N, N) of the block before a site, worked out head by head in numpy."""
    tokens = embed(model, BATCH)
    for block in model.blocks[: site - 1]:
        tokens = block(tokens)
    block = model.blocks[site - 1]
    normed = block.norm1(tokens).numpy()
    weight, bias = block.attn.qkv.weight.numpy(), block.attn.qkv.bias.numpy()
    width, size = model.embed_dim, model.embed_dim // 4
    weights = []
    for head in range(4):
        rows = slice(head * size, (head + 1) * size)
        query = normed @ weight[:width][rows].T + bias[:width][rows]
        key = normed @ weight[width : 2 * width][rows].T + bias[width : 2 * width][rows]
        weights.append(softmax(query @ key.transpose(0, 2, 1) / size**0.5, axis=-1))
    return np.stack(weights, axis=1)


@pytest.mark.parametrize("variant", ["plain", "registers", "distilled"])
def test_class_attention_is_the_mean_attention_of_the_class_token_to_each_patch(variant):
    found = run("class-attention", variant).tokens
    model = double_dense(variant).module
    for order, site in enumerate(SITES):
        weights = attention(model, site)
        for image in range(3):
            for patch in range(16):
                expected = sum(weights[image, head, 0, model.num_prefix_tokens + patch] for head in range(4)) / 4
                assert float(found[image, order, patch]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("variant", ["plain", "average pooling without class token"])
def test_attention_received_is_the_mean_over_queries_and_heads(variant):
    found = run("attention-received", variant).tokens
    model = double_dense(variant).module
    for order, site in enumerate(SITES):
        expected = attention(model, site).mean(axis=(1, 2))[:, model.num_prefix_tokens :]
        np.testing.assert_allclose(found[:, order], expected, rtol=1e-9)


def test_class_attention_is_refused_without_a_class_token():
    with pytest.raises(InputError, match="this model has none") as caught:
        run("class-attention", "average pooling without class token")
    assert caught.value.hint == "--scorer attention-received"


def test_token_norm_is_the_length_of_what_enters_the_site():
    model, held = double_dense().module, {}
    handles = [
        block.register_forward_hook(lambda _, inputs, __, index=index: held.update({index: inputs[0]}))
        for index, block in enumerate(model.blocks)
    ]
    model(BATCH)
    for handle in handles:
        handle.remove()
    found = run("token-norm").tokens
    for order, site in enumerate(SITES):
        np.testing.assert_allclose(found[:, order], np.linalg.norm(held[site][:, 1:].numpy(), axis=-1), rtol=1e-9)


def test_magnitude_is_the_norm_of_the_weights_that_carry_a_head():
    found = run("magnitude").heads
    for block, module in enumerate(double_dense().module.blocks):
        for head in range(4):
            total = 0.0
            for row in range(3 * 32):
                if row % 32 // 8 == head:
                    total += float((module.attn.qkv.weight[row] ** 2).sum())
            for column in range(32):
                if column // 8 == head:
                    total += float((module.attn.proj.weight[:, column] ** 2).sum())
            assert found[:, block, head].tolist() == pytest.approx([total**0.5] * 3, rel=1e-9)


@pytest.mark.parametrize("labelled", [True, False])
def test_taylor_is_the_slope_of_the_labelled_loss_by_finite_differences(labelled):
    dense = double_dense()
    layout = GateLayout(dense.shape, SITES, GROUPS)
    labels = LABELS if labelled else dense.module(BATCH).argmax(1)
    scores = run("taylor", labels=LABELS if labelled else None)
    found = torch.cat([part.flatten(1) for part in (scores.tokens, scores.heads, scores.units)], dim=1)
    step = 1e-5
    for row in range(3):
        loss = labelled_loss_of(dense, layout, BATCH[row], int(labels[row]))
        for index in range(0, layout.num_gates, 5):
            ahead = torch.ones(layout.num_gates, dtype=DOUBLE)
            ahead[index] += step
            behind = 2 - ahead
            slope = float(loss(ahead) - loss(behind)) / (2 * step)
            assert float(found[row, index]) == pytest.approx(abs(slope), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("scorer", ["removal-gate", "fisher-mc"])
def test_a_fisher_scorer_hands_out_the_diagonal_of_its_estimator(scorer):
    dense = double_dense()
    layout = GateLayout(dense.shape, SITES, GROUPS)
    gates = layout.ones(BATCH)
    log_probs = forward(dense.module, BATCH, layout.gates(gates)).log_softmax(1)
    if scorer == "removal-gate":
        values, errors = exact_diagonal(log_probs, gates), None
    else:
        values, errors = monte_carlo_diagonal(log_probs, gates, 4, generators(3))
    found = run(scorer)
    for name, start, stop in (("tokens", 0, 32), ("heads", 32, 48), ("units", 48, 48 + 4 * GROUPS)):
        torch.testing.assert_close(getattr(found, name).flatten(1), values[:, start:stop])
        given = getattr(found, f"{name}_stderr")
        if errors is None:
            assert given is None
        else:
            torch.testing.assert_close(given.flatten(1), errors[:, start:stop])


def test_gates_stand_in_the_order_sites_then_heads_then_unit_groups():
    layout = GateLayout(double_dense().shape, SITES, GROUPS)
    gates = layout.gates(torch.arange(layout.num_gates, dtype=DOUBLE)[None])
    assert layout.num_gates == 2 * 16 + 4 * 4 + 4 * GROUPS
    assert {site: values[0, [0, 15]].tolist() for site, values in gates.tokens.items()} == {1: [0, 15], 3: [16, 31]}
    assert [values[0].tolist() for values in gates.heads.values()] == np.arange(32, 48).reshape(4, 4).tolist()
    assert [values[0].tolist() for values in gates.units.values()] == np.arange(48, 80).reshape(4, GROUPS).tolist()
    assert gates.token_scale == {}
    scaling = GateLayout(double_dense().shape, SITES, scale_tokens=True).gates(torch.ones(1, 48))
    assert (set(scaling.token_scale), scaling.tokens, scaling.units) == ({1, 3}, {}, {})


def test_the_slope_of_a_unit_group_is_the_sum_over_its_units():
    whole = run("taylor", unit_groups=128).units
    dense = double_dense()
    layout = GateLayout(dense.shape, SITES, 128)
    gates = layout.ones(BATCH)
    loss = torch.nn.functional.cross_entropy(forward(dense.module, BATCH, layout.gates(gates)), LABELS, reduction="sum")
    (slope,) = torch.autograd.grad(loss, gates)
    units = slope[:, 48:].reshape(3, 4, 128)
    torch.testing.assert_close(whole, units.abs())
    torch.testing.assert_close(run("taylor").units, units.reshape(3, 4, GROUPS, 16).sum(-1).abs())


def test_random_scores_are_uniform_and_follow_the_seed():
    first, again, other = run("random"), run("random"), run("random", seed=1)
    values = torch.cat([first.tokens.flatten(), first.heads.flatten(), first.units.flatten()])
    assert 0 <= values.min() < 0.05 < 0.95 < values.max() < 1
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, other.tokens)
    assert not torch.equal(first.tokens[0], first.tokens[1])


EVERYTHING = {"tokens": (3, 2, 16), "heads": (3, 4, 4), "units": (3, 4, GROUPS)}


@pytest.mark.parametrize("scorer", SCORERS)
def test_each_scorer_answers_for_what_it_says_it_scores(scorer):
    info, found = SCORERS[scorer], run(scorer)
    scored = {"magnitude": {"heads"}}.get(scorer, set(EVERYTHING) if info.by_gates else {"tokens"})
    for name, shape in EVERYTHING.items():
        values, errors = getattr(found, name), getattr(found, f"{name}_stderr")
        assert (values is not None) == (name in scored)
        assert values is None or (values.shape == shape and values.isfinite().all())
        assert (errors is not None) == (name in scored and info.stochastic)
        assert errors is None or (errors.shape == shape and (errors >= 0).all())
    assert run(scorer, unit_groups=0).units is None


def test_the_table_of_scorers_has_every_name_that_settings_take():
    names = ScoreSettings.model_json_schema()["properties"]["scorer"]["enum"]
    assert set(SCORERS) == set(names)
