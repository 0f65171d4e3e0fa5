"""The gated model is the dense one with heads sliced away and the least-scored tokens dropped at each site."""

from __future__ import annotations

import itertools

import pytest
import torch
from fakes.tiny_vit import VARIANTS, images, make_vit, plan_of

from heartvit_edge.errors import InputError
from heartvit_edge.gating.gate import default_gate
from heartvit_edge.gating.gated import GatedViT, kept_units
from heartvit_edge.model.checkpoint import state_sha256
from heartvit_edge.model.forward import RemovalGates, embed, forward
from heartvit_edge.model.surgery import keep_heads
from heartvit_edge.model.zoo import _shape

DOUBLE = torch.float64
GROUPS = 8
UNITS = ((0, 1, 2, 3, 4, 5, 6), None, (3,), (0, 2, 4, 7))
HEADS = {0: [0, 2, 3], 1: [1], 2: [0, 1, 2, 3], 3: [2, 3]}


def gated(variant, patches_at, heads=None, gate=None):
    """Return a dense model and the gated one that keeps so many patches from each site on."""
    dense = make_vit(variant, dtype=DOUBLE)
    shape = _shape(dense)
    tokens = {site: shape.num_prefix_tokens + count for site, count in patches_at.items()}
    return dense, GatedViT(dense, plan_of(shape, tokens, heads), gate or default_gate(shape)).eval()


def without_units(plan):
    """Return the plan with some groups of MLP hidden units gone too."""
    blocks = [block.model_copy(update={"kept_units": units}) for block, units in zip(plan.blocks, UNITS, strict=True)]
    return plan.model_copy(update={"unit_groups": GROUPS, "blocks": tuple(blocks)})


def unit_gates():
    """Return gates that are 0 at the groups that ``UNITS`` removes."""
    kept = {block: range(GROUPS) if units is None else units for block, units in enumerate(UNITS)}
    return {b: torch.zeros(1, GROUPS, dtype=DOUBLE).index_fill(1, torch.tensor(u), 1) for b, u in kept.items()}


def attention_weights(block, tokens):
    """Return the softmax weights of one image's tokens, (heads, N, N), head by head."""
    attn, normalised = block.attn, block.norm1(tokens)[0]
    query, key, _ = attn.qkv(normalised).chunk(3, dim=-1)
    rows = []
    for head in range(attn.num_heads):
        part = slice(head * attn.head_dim, (head + 1) * attn.head_dim)
        logits = attn.q_norm(query[:, part]) @ attn.k_norm(key[:, part]).T / attn.head_dim**0.5
        rows.append(logits.softmax(dim=-1))
    return torch.stack(rows)


def dropped_by_hand(model, image, patches_at, gate):
    """Return the logits and the kept patches at each site of one image, by sorting a list of patch numbers."""
    prefix = model.num_prefix_tokens
    tokens, alive, kept = embed(model, image), list(range(16)), []
    weights = None
    for index, block in enumerate(model.blocks):
        if index in patches_at:
            towards = weights[:, :1] if gate == "class-attention" else weights
            scores = towards[:, :, prefix:].mean(dim=(0, 1)).tolist()
            best = sorted(range(len(alive)), key=lambda position: -scores[position])[: patches_at[index]]
            positions = sorted(best)
            rows = [*range(prefix), *(prefix + position for position in positions)]
            tokens, alive = tokens[:, rows], [alive[position] for position in positions]
            kept.append(alive)
        weights = attention_weights(block, tokens)
        tokens = block(tokens)
    return model.forward_head(model.norm(tokens)), kept


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_kept_patches_are_those_of_dropping_by_hand(variant):
    patches_at = {1: 11, 3: 4}
    dense, model = gated(variant, patches_at)
    batch = images(4, dtype=DOUBLE)
    logits, *kept = model(batch)
    for number in range(len(batch)):
        gate = default_gate(_shape(dense))
        expected, patches = dropped_by_hand(dense, batch[number : number + 1], patches_at, gate)
        torch.testing.assert_close(logits[number], expected[0], rtol=0, atol=1e-10)
        assert [found[number].tolist() for found in kept] == patches


@pytest.mark.parametrize("gate", ["class-attention", "attention-received"])
def test_heads_and_tokens_go_together_and_the_gate_reads_the_heads_that_stay(gate):
    patches_at = {1: 13, 2: 7, 3: 2}
    dense, model = gated("registers", patches_at, HEADS, gate)
    pruned = keep_heads(dense, list(HEADS.values()))
    batch = images(4, dtype=DOUBLE)
    logits, *kept = model(batch)
    assert (logits - dense(batch)).abs().max() > 0.1
    for number in range(len(batch)):
        expected, patches = dropped_by_hand(pruned, batch[number : number + 1], patches_at, gate)
        torch.testing.assert_close(logits[number], expected[0], rtol=0, atol=1e-10)
        assert [found[number].tolist() for found in kept] == patches


def test_kept_patches_are_numbered_on_the_dense_grid_ascending_and_nested():
    _, model = gated("plain", {1: 12, 2: 8, 3: 3})
    kept = model(images(16, dtype=DOUBLE))[1:]
    assert [tuple(found.shape) for found in kept] == [(16, 12), (16, 8), (16, 3)]
    for found in kept:
        assert found.dtype == torch.int32
        assert (found.diff(dim=1) > 0).all()
        assert ((found >= 0) & (found < 16)).all()
    for earlier, later in itertools.pairwise(kept):
        for before, after in zip(earlier.tolist(), later.tolist(), strict=True):
            assert set(after) < set(before)
    assert kept[2].max() > 2  # not numbers within what an earlier site left
    assert len({tuple(row) for row in kept[0].tolist()}) > 1  # the choice depends on the image


@pytest.mark.parametrize("variant", ["plain", "distilled", "average pooling"])
def test_a_plan_that_removes_nothing_is_the_dense_model(variant):
    dense = make_vit(variant, dtype=DOUBLE)
    outputs = GatedViT(dense, plan_of(_shape(dense)), None)(images(3, dtype=DOUBLE))
    assert len(outputs) == 1
    torch.testing.assert_close(outputs[0], dense(images(3, dtype=DOUBLE)), rtol=0, atol=1e-10)


def test_a_plan_without_sites_only_loses_heads():
    dense = make_vit(dtype=DOUBLE)
    outputs = GatedViT(dense, plan_of(_shape(dense), kept_heads=HEADS), None)(images(3, dtype=DOUBLE))
    expected = keep_heads(dense, list(HEADS.values()))(images(3, dtype=DOUBLE))
    assert len(outputs) == 1
    torch.testing.assert_close(outputs[0], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", ["plain", "gated MLP", "SwiGLU", "ReLU"])
def test_a_model_without_some_hidden_units_is_the_one_whose_gates_are_zero_there(variant):
    dense, batch = make_vit(variant, dtype=DOUBLE), images(3, dtype=DOUBLE)
    model = GatedViT(dense, without_units(plan_of(_shape(dense), kept_heads=HEADS)), None)
    (logits,) = model(batch)
    expected = forward(keep_heads(dense, list(HEADS.values())), batch, RemovalGates(units=unit_gates()))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    hidden = dense.blocks[0].mlp.fc2.in_features
    widths = [hidden * len(units or range(GROUPS)) // GROUPS for units in UNITS]
    assert [block.mlp.fc2.in_features for block in model.backbone.blocks] == widths


def test_hidden_units_heads_and_tokens_go_together():
    patches_at = {1: 13, 3: 5}
    dense = make_vit(dtype=DOUBLE)
    tokens = {site: 1 + count for site, count in patches_at.items()}
    model = GatedViT(dense, without_units(plan_of(_shape(dense), tokens, HEADS)), "class-attention").eval()
    logits, *kept = model(images(4, dtype=DOUBLE))
    for number, image in enumerate(images(4, dtype=DOUBLE).split(1)):
        expected, patches = dropped_by_hand(model.backbone, image, patches_at, "class-attention")
        torch.testing.assert_close(logits[number], expected[0], rtol=0, atol=1e-10)
        assert [found[number].tolist() for found in kept] == patches


def test_the_units_of_a_group_are_neighbours():
    plan = without_units(plan_of(_shape(make_vit())))
    width = 128 // GROUPS
    assert kept_units(plan.blocks[1], plan) == list(range(128))
    assert kept_units(plan.blocks[2], plan) == list(range(3 * width, 4 * width))
    found = kept_units(plan.blocks[3], plan)
    assert found == [unit for unit in range(128) if unit // width in (0, 2, 4, 7)]


def test_the_dense_model_is_left_as_it_is():
    dense = make_vit()
    before = state_sha256(dense.state_dict())
    model = GatedViT(dense, plan_of(_shape(dense), {2: 9}, HEADS), "class-attention")
    for value in model.parameters():
        value.zero_()
    assert state_sha256(dense.state_dict()) == before


def test_a_plan_that_drops_tokens_needs_a_gate():
    dense = make_vit()
    with pytest.raises(ValueError, match="needs a gate"):
        GatedViT(dense, plan_of(_shape(dense), {2: 9}), None)


def test_tokens_cannot_be_chosen_before_the_first_block():
    dense = make_vit()
    with pytest.raises(ValueError, match="block 0 has none"):
        GatedViT(dense, plan_of(_shape(dense), {0: 9}), "class-attention")


def test_a_gate_that_reads_a_missing_class_token_is_refused():
    dense = make_vit("average pooling without class token")
    with pytest.raises(InputError, match="class token"):
        GatedViT(dense, plan_of(_shape(dense), {2: 9}), "class-attention")
