"""Removal by slicing: the same answers as with the removed parts' weights at zero, from a smaller model."""

from __future__ import annotations

import copy

import pytest
import torch
from fakes.tiny_vit import VARIANTS, images, make_vit

from heartvit_edge.model.checkpoint import state_sha256
from heartvit_edge.model.surgery import keep_heads, keep_units

DOUBLE = torch.float64
KEPT_HEADS = [[0, 3], [0, 1, 2, 3], [2], [1, 2, 3]]


def kept_units(model):
    hidden = model.blocks[0].mlp.fc2.in_features
    return [list(range(0, hidden, 3)), list(range(hidden)), [5], list(range(hidden - 7))]


def zeroed_heads(model, kept):
    """Return a copy whose projections ignore the heads that are not kept."""
    model = copy.deepcopy(model)
    for block, heads in zip(model.blocks, kept, strict=True):
        for head in set(range(block.attn.num_heads)) - set(heads):
            block.attn.proj.weight[:, head * block.attn.head_dim : (head + 1) * block.attn.head_dim] = 0
    return model


def zeroed_units(model, kept):
    """Return a copy whose second linear layers ignore the hidden units that are not kept."""
    model = copy.deepcopy(model)
    for block, units in zip(model.blocks, kept, strict=True):
        gone = sorted(set(range(block.mlp.fc2.in_features)) - set(units))
        block.mlp.fc2.weight[:, gone] = 0
    return model


@pytest.mark.parametrize("fused", [True, False], ids=["fused attention", "written-out attention"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_without_heads_answers_as_with_their_projection_columns_at_zero(variant, fused):
    model, batch = make_vit(variant, dtype=DOUBLE), images(2, dtype=DOUBLE)
    for block in model.blocks:
        block.attn.fused_attn = fused
    got = keep_heads(model, KEPT_HEADS)(batch)
    torch.testing.assert_close(got, zeroed_heads(model, KEPT_HEADS)(batch), rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_without_hidden_units_answers_as_with_their_columns_at_zero(variant):
    model, batch = make_vit(variant, dtype=DOUBLE), images(2, dtype=DOUBLE)
    kept = kept_units(model)
    got = keep_units(model, kept)(batch)
    torch.testing.assert_close(got, zeroed_units(model, kept)(batch), rtol=0, atol=1e-10)


def test_a_block_without_heads_is_smaller_by_their_rows_and_columns_and_keeps_the_head_width():
    attn = keep_heads(make_vit(), KEPT_HEADS).blocks[0].attn
    assert (attn.num_heads, attn.head_dim, attn.attn_dim) == (2, 8, 16)
    assert (tuple(attn.qkv.weight.shape), tuple(attn.qkv.bias.shape)) == ((48, 32), (48,))
    assert (tuple(attn.proj.weight.shape), tuple(attn.proj.bias.shape)) == ((32, 16), (32,))
    assert (attn.qkv.out_features, attn.proj.in_features) == (48, 16)


def test_a_block_without_units_is_smaller_by_their_rows_and_columns():
    for variant, rows in (("plain", 2), ("SwiGLU", 4)):
        mlp = keep_units(make_vit(variant), [[0, 7]] * 4).blocks[0].mlp
        assert tuple(mlp.fc1.weight.shape) == (rows, 32)
        assert tuple(mlp.fc2.weight.shape) == (32, 2)
        assert tuple(mlp.fc2.bias.shape) == (32,)


def test_the_original_model_is_left_as_it_is_and_shares_no_memory_with_the_copy():
    model = make_vit("SwiGLU")
    before = state_sha256(model.state_dict())
    for pruned in (keep_heads(model, KEPT_HEADS), keep_units(model, kept_units(model))):
        for value in pruned.parameters():
            value.zero_()
    assert state_sha256(model.state_dict()) == before
    assert [block.attn.num_heads for block in model.blocks] == [4] * 4


def test_a_model_that_keeps_every_head_and_unit_has_the_same_weights():
    model = make_vit()
    hidden = model.blocks[0].mlp.fc2.in_features
    same = keep_units(keep_heads(model, [range(4)] * 4), [range(hidden)] * 4)
    assert state_sha256(same.state_dict()) == state_sha256(model.state_dict())


def test_the_sliced_layers_learn_only_where_the_dense_model_does():
    model = make_vit()
    assert not any(value.requires_grad for value in keep_heads(model, KEPT_HEADS).parameters())
    model.requires_grad_(True)
    assert all(value.requires_grad for value in keep_heads(model, KEPT_HEADS).parameters())
    assert all(value.requires_grad for value in keep_units(model, kept_units(model)).parameters())


@pytest.mark.parametrize(("slicing", "what"), [(keep_heads, "head"), (keep_units, "hidden unit")])
def test_a_block_that_keeps_nothing_is_refused(slicing, what):
    with pytest.raises(ValueError, match=f"at least one {what}"):
        slicing(make_vit(), [[0], [], [0], [0]])


@pytest.mark.parametrize("slicing", [keep_heads, keep_units])
def test_a_list_of_another_length_than_the_blocks_is_refused(slicing):
    with pytest.raises(ValueError, match="zip"):
        slicing(make_vit(), [[0]] * 3)
