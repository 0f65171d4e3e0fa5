"""Reductions against lists of tokens, one image at a time, and the gated model that uses them."""

from __future__ import annotations

import math

import pytest
import torch
from fakes.tiny_vit import images, make_vit, plan_of

from heartvit_edge.errors import InputError
from heartvit_edge.gating.gate import AttentionGate
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.reduce import REDUCTIONS, drop, fuse, join, merge, reduction_at
from heartvit_edge.model.forward import RemovalGates, embed, forward, run_block
from heartvit_edge.model.zoo import _shape

DOUBLE = torch.float64
PREFIX = 2


@pytest.fixture(scope="module")
def entering():
    """Tokens of 3 images, 2 prefix and 9 patch tokens of width 6, and scores of any sign."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, PREFIX + 9, 6, dtype=DOUBLE, generator=generator)
    return tokens, torch.randn(3, 9, dtype=DOUBLE, generator=generator)


def best(scores, count):
    return sorted(sorted(range(len(scores)), key=lambda position: -scores[position])[:count])


def logarithms(dense):
    """Return a gate whose scores are logarithms of class attention."""
    gate = AttentionGate("class-attention", dense)
    found = torch.nn.Identity()
    found.forward = lambda site, tokens, weights: gate(site, tokens, weights).log()
    return found


def fused_by_hand(patches, scores, num_keep):
    """Return the kept patches, the mean of the others by softmax of their scores, and which stay."""
    kept = best(scores, num_keep - 1)
    rest = [position for position in range(len(patches)) if position not in kept]
    masses = [math.exp(scores[position]) for position in rest]
    mean = sum(mass * patches[position] for mass, position in zip(masses, rest, strict=True)) / sum(masses)
    return [patches[position] for position in kept], mean, kept


def merged_by_hand(patches, num_keep, nats=None):
    """Return (token, size, position) of those left: rounds over even and odd places, likest or cheapest pairs first."""
    left = [(patch, 1, position) for position, patch in enumerate(patches)]
    while len(left) > num_keep:
        pairs = []
        for even in range(0, len(left), 2):
            likeness = {
                odd: torch.cosine_similarity(left[even][0], left[odd][0], dim=0).item()
                for odd in range(1, len(left), 2)
            }
            odd = max(likeness, key=likeness.get)
            cost = 1 if nats is None else nats[left[even][2]] * (1 - likeness[odd]) ** 2
            pairs.append((likeness[odd] if nats is None else -cost, even, odd))
        going = sorted(pairs, reverse=True)[: min(len(left) - num_keep, len(left) // 2)]
        groups = {place: [place] for place in range(len(left))}
        for _, even, odd in going:
            groups[odd] += groups.pop(even)
        joined = []
        for place, members in sorted(groups.items()):
            size = sum(left[member][1] for member in members)
            joined.append((sum(left[m][0] * left[m][1] for m in members) / size, size, left[place][2]))
        left = joined
    return left


def test_drop_keeps_prefix_tokens_and_the_best_scored_in_their_order(entering):
    tokens, scores = entering
    found = drop(tokens, scores, None, 4, PREFIX)
    for image in range(3):
        kept = best(scores[image].tolist(), 4)
        assert found.kept[image].tolist() == kept
        assert torch.equal(found.tokens[image], tokens[image, [0, 1, *(PREFIX + position for position in kept)]])
    assert found.sizes is None


def test_fuse_keeps_one_fewer_and_behind_them_the_mean_of_the_others_by_softmax(entering):
    tokens, scores = entering
    found = fuse(tokens, scores, None, 4, PREFIX)
    assert (found.tokens.shape, found.kept.shape) == ((3, PREFIX + 4, 6), (3, 3))
    assert found.sizes.tolist() == [[1, 1, 1, 6]]
    for image in range(3):
        stay, mean, kept = fused_by_hand(list(tokens[image, PREFIX:]), scores[image].tolist(), 4)
        expected = torch.stack([*tokens[image, :PREFIX], *stay, mean])
        torch.testing.assert_close(found.tokens[image], expected, rtol=0, atol=1e-12)
        assert found.kept[image].tolist() == kept


def test_a_fused_token_joins_the_next_by_the_patches_that_it_stands_for_however_it_scores(entering):
    tokens, scores = entering
    first = fuse(tokens, scores, None, 7, PREFIX)
    again = scores[:, :7].clone()
    again[:, -1] = 1e3  # the fused token's own score, which would win
    second = fuse(first.tokens, again, first.sizes, 3, PREFIX)
    assert second.sizes.tolist() == [[1, 1, 7]]
    for image in range(3):
        patches = list(first.tokens[image, PREFIX:])
        stay, mean, kept = fused_by_hand(patches[:6], again[image, :6].tolist(), 3)
        expected = torch.stack([*tokens[image, :PREFIX], *stay, (4 * mean + 3 * patches[6]) / 7])
        torch.testing.assert_close(second.tokens[image], expected, rtol=0, atol=1e-12)
        assert second.kept[image].tolist() == kept


@pytest.mark.parametrize("num_keep", [8, 7, 5, 4, 2, 1])
def test_merge_joins_the_likest_pairs_in_as_many_rounds_as_it_takes(entering, num_keep):
    tokens, _ = entering
    found = merge(tokens, None, None, num_keep, PREFIX)
    assert found.tokens.shape == (3, PREFIX + num_keep, 6)
    for image in range(3):
        left = merged_by_hand(list(tokens[image, PREFIX:]), num_keep)
        assert found.kept[image].tolist() == [position for *_, position in left]
        assert found.sizes[image].tolist() == [size for _, size, _ in left]
        expected = torch.stack([*tokens[image, :PREFIX], *(token for token, *_ in left)])
        torch.testing.assert_close(found.tokens[image], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_keep", [9, 8, 7, 5, 4, 2, 1])
def test_join_merges_those_that_are_worth_little_and_like_another(entering, num_keep):
    tokens, scores = entering
    found = join(tokens, scores, None, num_keep, PREFIX)
    for image in range(3):
        left = merged_by_hand(list(tokens[image, PREFIX:]), num_keep, scores[image].exp().tolist())
        assert found.kept[image].tolist() == [position for *_, position in left]
        assert found.sizes[image].tolist() == [size for _, size, _ in left]
        expected = torch.stack([*tokens[image, :PREFIX], *(token for token, *_ in left)])
        torch.testing.assert_close(found.tokens[image], expected, rtol=0, atol=1e-12)


def test_join_merges_as_merge_does_where_all_are_worth_the_same_and_not_elsewhere(entering):
    tokens, scores = entering
    alike, other = (join(tokens, worth, None, 7, PREFIX) for worth in (torch.zeros_like(scores), scores))
    assert torch.equal(alike.tokens, merge(tokens, None, None, 7, PREFIX).tokens)
    assert not torch.equal(other.kept, alike.kept)


def test_join_drops_in_the_first_half_of_the_blocks():
    assert [reduction_at("join", site, 12) for site in (1, 5, 6, 11)] == ["drop", "drop", "join", "join"]
    assert [reduction_at("join", site, 5) for site in (2, 3)] == ["drop", "join"]
    assert reduction_at("merge", 1, 12) == "merge"
    dense, batch = make_vit(), images(3)
    gate = logarithms(dense)
    early, late = (plan_of(_shape(dense), {site: 1 + 9}) for site in (1, 2))
    ours, theirs = (GatedViT(dense, early, gate, reduction)(batch) for reduction in ("join", "drop"))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    joined, dropped = (GatedViT(dense, late, gate, reduction)(batch)[0] for reduction in ("join", "drop"))
    assert (joined - dropped).abs().max() > 1e-3


def test_of_a_named_gate_the_shares_of_attention_are_what_tokens_are_worth():
    dense, batch = make_vit(), images(3)
    plan = plan_of(_shape(dense), {1: 1 + 12, 3: 1 + 7})
    named, (logits, *kept) = (
        GatedViT(dense, plan, gate, "join")(batch) for gate in ("class-attention", logarithms(dense))
    )
    torch.testing.assert_close(named[0], logits)
    assert all(torch.equal(one, other) for one, other in zip(named[1:], kept, strict=True))


def test_a_joined_token_counts_in_attention_as_the_tokens_that_it_stands_for():
    dense, batch = make_vit(dtype=DOUBLE), images(2, dtype=DOUBLE)
    plan = plan_of(_shape(dense), {1: 1 + 12, 2: 1 + 8, 3: 1 + 5})
    model = GatedViT(dense, plan, logarithms(dense), "join")
    biases = []

    def seen(block, tokens, key_bias):
        biases.append(None if key_bias is None else key_bias.exp())
        return run_block(block, tokens, key_bias)

    _, _, sizes = model.run_blocks(batch, seen)
    assert biases[:2] == [None, None]
    assert [bias.shape[1] for bias in biases[2:]] == [1 + 8, 1 + 5]
    for bias in biases[2:]:
        torch.testing.assert_close(bias[:, 1:].sum(dim=1), torch.full((2,), 12.0, dtype=DOUBLE))
        assert torch.equal(bias[:, 0], torch.ones(2, dtype=DOUBLE))
    torch.testing.assert_close(biases[-1][:, 1:], sizes)


def test_what_is_merged_at_a_second_site_is_the_mean_of_all_its_patches(entering):
    tokens, _ = entering
    first = merge(tokens, None, None, 5, PREFIX)
    second = merge(first.tokens, None, first.sizes, 1, PREFIX)
    assert second.sizes.tolist() == [[9]] * 3
    torch.testing.assert_close(second.tokens[:, PREFIX], tokens[:, PREFIX:].mean(dim=1), rtol=0, atol=1e-12)


def test_tokens_of_zeros_are_merged_without_a_number_that_is_none():
    found = merge(torch.zeros(1, 7, 4), None, None, 3, 1)
    assert torch.equal(found.tokens, torch.zeros(1, 4, 4))
    assert found.sizes.sum() == 6


def with_three_pairs(model, batch):
    """Let patches 1, 3 and 5 enter block 0 as those before them."""
    tokens, prefix = embed(model, batch), model.num_prefix_tokens
    pairs = tokens[:, prefix : prefix + 6 : 2].repeat_interleave(2, dim=1)
    return torch.cat([tokens[:, :prefix], pairs, tokens[:, prefix + 6 :]], dim=1)


@pytest.fixture
def _three_pairs(monkeypatch):
    monkeypatch.setattr("heartvit_edge.gating.gated.embed", with_three_pairs)
    monkeypatch.setattr("heartvit_edge.model.forward.embed", with_three_pairs)


@pytest.mark.usefixtures("_three_pairs")
@pytest.mark.parametrize("variant", ["plain", "registers", "average pooling", "average pooling without class token"])
def test_merging_equal_tokens_with_proportional_attention_is_the_dense_model(variant):
    dense, batch = make_vit(variant, dtype=DOUBLE), images(3, dtype=DOUBLE)
    shape = _shape(dense)
    plan = plan_of(shape, {2: shape.num_prefix_tokens + 13})
    expected = forward(dense, batch)
    logits, kept = GatedViT(dense, plan, None, "merge")(batch)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    assert kept.tolist() == [[1, 3, *range(5, 16)]] * 3
    plain, _ = GatedViT(dense, plan, None, "merge", proportional=False)(batch)
    assert (plain - expected).abs().max() > 1e-3


@pytest.mark.usefixtures("_three_pairs")
def test_merging_before_the_first_block_needs_no_attention():
    dense, batch = make_vit(dtype=DOUBLE), images(2, dtype=DOUBLE)
    logits, _ = GatedViT(dense, plan_of(_shape(dense), {0: 14}), None, "merge")(batch)
    torch.testing.assert_close(logits, forward(dense, batch), rtol=0, atol=1e-10)


def test_average_pooling_counts_the_fused_token_as_the_patches_that_it_stands_for():
    dense, batch = make_vit("average pooling", dtype=DOUBLE), images(2, dtype=DOUBLE)
    with torch.no_grad():
        for block in dense.blocks:  # so that tokens stay as they entered
            block.attn.proj.weight.zero_(), block.attn.proj.bias.zero_()
            block.mlp.fc2.weight.zero_(), block.mlp.fc2.bias.zero_()
    plan, entered = plan_of(_shape(dense), {2: 1 + 6}), embed(dense, batch)
    evenly = torch.nn.Identity()
    evenly.forward = lambda *_: torch.ones(2, 16, dtype=DOUBLE)
    logits, kept = GatedViT(dense, plan, evenly, "fuse")(batch)
    fused = [[patch for patch in range(16) if patch not in row] for row in kept.tolist()]
    means = torch.stack([entered[image, [1 + p for p in rest]].mean(dim=0) for image, rest in enumerate(fused)])
    staying = torch.stack([entered[image, [1 + p for p in row]] for image, row in enumerate(kept.tolist())])
    pooled = (dense.norm(staying).sum(dim=1) + 11 * dense.norm(means)) / 16
    torch.testing.assert_close(logits, dense.head(dense.fc_norm(pooled)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_each_block_has_the_tokens_of_the_plan_and_outputs_list_patches_of_the_dense_grid(reduction):
    dense, tokens = make_vit("registers"), {1: 5 + 11, 2: 5 + 7, 3: 5 + 2}
    model = GatedViT(
        dense, plan_of(_shape(dense), tokens), None if reduction == "merge" else "class-attention", reduction
    )
    seen = []
    for block in model.backbone.blocks:
        block.norm1.register_forward_pre_hook(lambda _, entering: seen.append(entering[0].shape[1]))
    _, *kept = model(images(4))
    assert seen == [21, 16, 12, 7]
    assert [found.shape[1] for found in kept] == list(model.num_listed.values())
    assert [found.shape[1] for found in kept] == ([10, 6, 1] if reduction == "fuse" else [11, 7, 2])
    for earlier, later in zip([None, *kept], kept, strict=False):
        assert later.dtype == torch.int32
        assert (later.diff(dim=1) > 0).all()
        assert ((later >= 0) & (later < 16)).all()
        if earlier is not None:
            assert all(set(after) < set(before) for before, after in zip(earlier.tolist(), later.tolist(), strict=True))


def test_fusing_keeps_what_dropping_keeps_but_for_the_last():
    dense, batch = make_vit(), images(4)
    plans = [plan_of(_shape(dense), {2: 1 + count}) for count in (7, 8)]
    _, dropped = GatedViT(dense, plans[0], "class-attention")(batch)
    logits, fused = GatedViT(dense, plans[1], "class-attention", "fuse")(batch)
    assert torch.equal(fused, dropped)
    # The prefix tokens of the block after differ: they attend to the fused token too.
    gates = torch.zeros(4, 16).scatter(1, fused.long(), 1.0)
    assert (logits - forward(dense, batch, RemovalGates(tokens={2: gates}))).abs().max() > 1e-3


def test_fuse_refuses_a_plan_that_leaves_no_patch_beside_the_fused_one():
    dense = make_vit("registers")
    plan = plan_of(_shape(dense), {1: 5 + 8, 3: 5 + 1})
    with pytest.raises(InputError, match="leaves one patch token at block 3") as caught:
        GatedViT(dense, plan, "class-attention", "fuse")
    assert caught.value.hint == "--reduction drop"
    GatedViT(dense, plan, None, "merge")(images(2))


def test_merging_takes_no_gate():
    dense = make_vit()
    with pytest.raises(ValueError, match="no gate decides"):
        GatedViT(dense, plan_of(_shape(dense), {2: 9}), "class-attention", "merge")
