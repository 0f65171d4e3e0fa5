"""The gated forward: timm's own at gates of one, and the model without the component at gates of zero."""

from __future__ import annotations

import pytest
import torch
from fakes.tiny_vit import VARIANTS, images, make_vit

from heartvit_edge.model.forward import (
    RemovalGates,
    attend,
    classify,
    continue_forward,
    embed,
    feed_forward,
    forward,
    keep_tokens,
    run_block,
)
from heartvit_edge.model.surgery import keep_heads, keep_units

DOUBLE = torch.float64
PATCHES = 16
HEADS = 4


def gate_rows(kept, count):
    """Return one row an image: 1 where the index is kept, 0 elsewhere."""
    rows = torch.zeros(len(kept), count, dtype=DOUBLE)
    for row, indices in zip(rows, kept, strict=True):
        row[list(indices)] = 1
    return rows


def drawn(seed, rows, low, high, count=PATCHES):
    """Return for each row a sorted draw of ``low`` to ``high`` of ``count`` indices."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(low, high + 1, (rows,), generator=generator).tolist()
    return [torch.randperm(count, generator=generator)[:size].sort().values.tolist() for size in sizes]


def without_tokens(model, batch, kept_at):
    """Return the logits of timm's own blocks on each image alone, tokens cut out of the sequence before each site.

    ``kept_at`` maps a site to the patches that each image still has from there on, numbered on the dense grid.
    """
    logits = []
    for number in range(len(batch)):
        tokens = embed(model, batch[number : number + 1])
        alive = list(range(PATCHES))
        for index, block in enumerate(model.blocks):
            if index in kept_at:
                wanted = [patch for patch in alive if patch in kept_at[index][number]]
                positions = torch.tensor([[alive.index(patch) for patch in wanted]])
                tokens, alive = keep_tokens(tokens, positions, model.num_prefix_tokens), wanted
            tokens = block(tokens)
        logits.append(model.forward_head(model.norm(tokens)))
    return torch.cat(logits)


@pytest.mark.parametrize("fused", [True, False], ids=["fused attention", "written-out attention"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_at_gates_of_one_the_logits_are_timms_own(variant, fused):
    model = make_vit(variant, dtype=DOUBLE)
    for block in model.blocks:
        block.attn.fused_attn = fused
    batch = images(3, dtype=DOUBLE)
    expected = model(batch)
    ones = RemovalGates(
        tokens={1: torch.ones(3, PATCHES, dtype=DOUBLE), 3: torch.ones(1, PATCHES, dtype=DOUBLE)},
        heads={block: torch.ones(1, HEADS, dtype=DOUBLE) for block in range(4)},
        units={block: torch.ones(1, 4, dtype=DOUBLE) for block in range(4)},
        token_scale={2: torch.ones(3, PATCHES, dtype=DOUBLE)},
    )
    torch.testing.assert_close(forward(model, batch), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(forward(model, batch, ones), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_in_single_precision_the_logits_are_timms_own_to_rounding(variant):
    model = make_vit(variant)
    expected = model(images(3))
    torch.testing.assert_close(forward(model, images(3)), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_token_gate_of_zero_is_the_token_cut_out_of_the_sequence(variant):
    model, batch = make_vit(variant, dtype=DOUBLE), images(3, dtype=DOUBLE)
    kept = drawn(1, 3, 3, 12)
    gated = forward(model, batch, RemovalGates(tokens={2: gate_rows(kept, PATCHES)}))
    torch.testing.assert_close(gated, without_tokens(model, batch, {2: kept}), rtol=0, atol=1e-10)
    assert (gated - forward(model, batch)).abs().max() > 0.05


@pytest.mark.parametrize("variant", VARIANTS)
def test_gates_of_several_sites_compose_as_tokens_that_go_one_site_after_the_other(variant):
    model, batch = make_vit(variant, dtype=DOUBLE), images(3, dtype=DOUBLE)
    # What a site lets through need not be a part of what an earlier site did: a token that went stays away.
    kept = {site: drawn(site, 3, 9, 14) for site in (0, 1, 3)}
    gates = RemovalGates(tokens={site: gate_rows(rows, PATCHES) for site, rows in kept.items()})
    torch.testing.assert_close(forward(model, batch, gates), without_tokens(model, batch, kept), rtol=0, atol=1e-10)


def test_in_single_precision_zero_gates_are_removal_to_rounding():
    model, batch = make_vit("registers"), images(3)
    kept = {site: drawn(site, 3, 9, 14) for site in (1, 3)}
    gates = RemovalGates(tokens={site: gate_rows(rows, PATCHES).float() for site, rows in kept.items()})
    expected = without_tokens(model, batch, kept)
    torch.testing.assert_close(forward(model, batch, gates), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_a_token_gate_multiplies_the_tokens_weight_as_a_key():
    model = make_vit(dtype=DOUBLE)
    tokens = model.blocks[0].norm1(embed(model, images(2, dtype=DOUBLE)))
    gate = torch.rand(2, 1 + PATCHES, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    _, dense = attend(model.blocks[0].attn, tokens)
    _, gated = attend(model.blocks[0].attn, tokens, key_bias=gate.log())
    expected = dense * gate[:, None, None, :]
    torch.testing.assert_close(gated, expected / expected.sum(dim=-1, keepdim=True), rtol=1e-10, atol=0)


def test_average_pooling_weighs_each_patch_by_its_gate():
    model = make_vit("average pooling", dtype=DOUBLE)
    tokens = torch.randn(2, 1 + PATCHES, 32, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    gate = torch.rand(2, PATCHES, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    mean = torch.stack(
        [sum(g * token for g, token in zip(gate[n], tokens[n, 1:], strict=True)) / gate[n].sum() for n in range(2)]
    )
    torch.testing.assert_close(classify(model, tokens, gate), model.head(model.fc_norm(mean)), rtol=1e-10, atol=1e-12)


def test_only_the_gates_named_act_and_one_row_serves_every_image():
    model, batch = make_vit(dtype=DOUBLE), images(3, dtype=DOUBLE)
    kept = drawn(2, 1, 5, 9)
    one_row = RemovalGates(
        tokens={1: gate_rows(kept, PATCHES)},
        heads={2: torch.tensor([[1, 0, 0.5, 1]], dtype=DOUBLE)},
        units={0: torch.tensor([[0.5, 1]], dtype=DOUBLE)},
    )
    each = RemovalGates(
        tokens={1: gate_rows(kept * 3, PATCHES)},
        heads={2: torch.tensor([[1, 0, 0.5, 1]] * 3, dtype=DOUBLE)},
        units={0: torch.tensor([[0.5, 1]] * 3, dtype=DOUBLE)},
    )
    torch.testing.assert_close(forward(model, batch, one_row), forward(model, batch, each), rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_head_gate_of_zero_is_the_head_sliced_away(variant):
    model, batch = make_vit(variant, dtype=DOUBLE), images(3, dtype=DOUBLE)
    kept = {0: [1, 2], 1: [0, 1, 2, 3], 2: [3], 3: [0, 2, 3]}
    gates = RemovalGates(heads={block: gate_rows([heads], HEADS) for block, heads in kept.items()})
    expected = keep_heads(model, list(kept.values()))(batch)
    torch.testing.assert_close(forward(model, batch, gates), expected, rtol=0, atol=1e-10)
    assert (expected - model(batch)).abs().max() > 0.05


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gate_of_a_group_of_hidden_units_is_that_run_of_units_sliced_away(variant):
    model, batch = make_vit(variant, dtype=DOUBLE), images(3, dtype=DOUBLE)
    hidden = model.blocks[0].mlp.fc2.in_features
    groups = {0: [0, 3], 1: [0, 1, 2, 3], 2: [2], 3: [1, 2, 3]}
    run = hidden // 4
    kept = [[unit for group in found for unit in range(group * run, (group + 1) * run)] for found in groups.values()]
    gates = RemovalGates(units={block: gate_rows([found], 4) for block, found in groups.items()})
    expected = keep_units(model, kept)(batch)
    torch.testing.assert_close(forward(model, batch, gates), expected, rtol=0, atol=1e-10)
    assert (expected - model(batch)).abs().max() > 0.05


def test_tokens_heads_and_units_go_together():
    model, batch = make_vit("SwiGLU, layer scale, registers", dtype=DOUBLE), images(2, dtype=DOUBLE)
    hidden = model.blocks[0].mlp.fc2.in_features
    heads, units = [[0, 1], [3], [1, 2], [0, 2]], [list(range(hidden // 2))] * 4
    tokens = {1: drawn(4, 2, 8, 12), 2: drawn(5, 2, 6, 12)}
    gates = RemovalGates(
        tokens={site: gate_rows(kept, PATCHES) for site, kept in tokens.items()},
        heads={block: gate_rows([kept], HEADS) for block, kept in enumerate(heads)},
        units={block: gate_rows([[0]], 2) for block in range(4)},
    )
    expected = without_tokens(keep_units(keep_heads(model, heads), units), batch, tokens)
    torch.testing.assert_close(forward(model, batch, gates), expected, rtol=0, atol=1e-10)


def test_a_token_scale_multiplies_the_patch_tokens_that_enter_a_block_and_no_other():
    model, batch = make_vit("registers", dtype=DOUBLE), images(2, dtype=DOUBLE)
    scale = torch.rand(2, PATCHES, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    tokens = model.blocks[0](embed(model, batch)).clone()
    tokens[:, model.num_prefix_tokens :] *= scale[:, :, None]
    expected = model.forward_head(model.norm(model.blocks[1:](tokens)))
    got = forward(model, batch, RemovalGates(token_scale={1: scale}))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("start", [1, 2, 3])
def test_a_forward_continued_from_a_block_is_the_whole_forward(start):
    model, batch = make_vit("average pooling", dtype=DOUBLE), images(2, dtype=DOUBLE)
    gates = RemovalGates(tokens={3: gate_rows(drawn(6, 2, 5, 9), PATCHES)}, heads={3: gate_rows([[0, 2]], HEADS)})
    tokens = model.blocks[:start](embed(model, batch))
    got = continue_forward(model, tokens, start, gates)
    torch.testing.assert_close(got, forward(model, batch, gates), rtol=0, atol=1e-10)


def test_a_site_before_the_start_counts_from_the_start_on():
    model, batch = make_vit(dtype=DOUBLE), images(2, dtype=DOUBLE)
    tokens = model.blocks[:3](embed(model, batch))
    gate = gate_rows(drawn(7, 2, 5, 9), PATCHES)
    early = continue_forward(model, tokens, 3, RemovalGates(tokens={1: gate}))
    torch.testing.assert_close(early, continue_forward(model, tokens, 3, RemovalGates(tokens={3: gate})))


def test_the_attention_weights_of_a_block_are_the_softmax_of_its_scaled_products():
    model = make_vit("query and key norm", dtype=DOUBLE)
    block, tokens = model.blocks[0], embed(model, images(2, dtype=DOUBLE))
    _, weights = run_block(block, tokens)
    attn = block.attn
    rows = attn.qkv(block.norm1(tokens))
    for head in range(HEADS):
        part = slice(head * attn.head_dim, (head + 1) * attn.head_dim)
        query, key = attn.q_norm(rows[..., :32][..., part]), attn.k_norm(rows[..., 32:64][..., part])
        for image in range(2):
            logits = torch.stack([key[image] @ one for one in query[image]]) / attn.head_dim**0.5
            expected = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
            torch.testing.assert_close(weights[image, head], expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("variant", ["plain", "gated MLP", "SwiGLU"])
def test_the_feed_forward_is_the_modules_own(variant):
    mlp = make_vit(variant, dtype=DOUBLE).blocks[0].mlp
    tokens = torch.randn(2, 3, 32, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(feed_forward(mlp, tokens), mlp(tokens), rtol=0, atol=1e-12)


def test_the_forward_is_differentiable_in_every_gate():
    model, batch = make_vit(dtype=DOUBLE), images(1, dtype=DOUBLE)
    random = torch.Generator().manual_seed(0)
    leaves = [
        (torch.rand(1, size, dtype=DOUBLE, generator=random) * 0.5 + 0.5).requires_grad_()
        for size in (PATCHES, PATCHES, HEADS, 2, PATCHES)
    ]

    def logits(early, late, heads, units, scale):
        return forward(
            model, batch, RemovalGates({1: early, 3: late}, heads={2: heads}, units={0: units}, token_scale={2: scale})
        )

    assert torch.autograd.gradcheck(logits, leaves)
    for gradient in torch.autograd.grad(logits(*leaves)[0, 0], leaves):
        assert (gradient.abs() > 1e-6).all()


def test_kept_tokens_stand_in_the_order_asked_for_after_the_prefix():
    tokens = torch.arange(2 * 6).reshape(2, 6, 1) * 10
    found = keep_tokens(tokens, torch.tensor([[0, 3], [2, 1]]), num_prefix=2)
    assert found[:, :, 0].tolist() == [[0, 10, 20, 50], [60, 70, 100, 90]]
