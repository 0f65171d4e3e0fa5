"""Gates that scale an activation give 1/2 z^T H z of the Hessian at that very activation."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from fakes.small_scores import DOUBLE, dense_hessian, double_dense, generators, hessian_of, labelled_loss_of
from fakes.tiny_vit import images

from heartvit_edge.model.forward import RemovalGates, continue_forward, embed
from heartvit_edge.sensitivity.gates import GateLayout
from heartvit_edge.sensitivity.scorers import SCORERS, Batch

DENSE = double_dense()
MODEL = DENSE.module
SITE, BLOCK, LABEL = 2, 1, 3
IMAGE = images(1, seed=4, dtype=DOUBLE)
LAYOUT = GateLayout(DENSE.shape, (SITE,), scale_tokens=True)
PATCHES, HEADS, TOKENS = 16, 4, 17


def loss_from(tokens, block):
    """Return -log p(label) of tokens (1, N, C) that enter a block, by timm's own blocks from there on."""
    for one in MODEL.blocks[block:]:
        tokens = one(tokens)
    return -MODEL.forward_head(MODEL.norm(tokens)).softmax(1)[0, LABEL].log()


def entering(block):
    tokens = embed(MODEL, IMAGE)
    for one in MODEL.blocks[:block]:
        tokens = one(tokens)
    return tokens


@cache
def token_hessian():
    """Return the patch tokens at the site, flat, and the dense Hessian with respect to them, unfused so that it is."""
    tokens = entering(SITE)
    flat = tokens[0, 1:].flatten()

    def loss(values):
        joined = torch.cat([tokens[:, :1], values.unflatten(0, (1, PATCHES, -1))], dim=1)
        return -continue_forward(MODEL, joined, SITE, RemovalGates()).softmax(1)[0, LABEL].log()

    torch.testing.assert_close(loss(flat), loss_from(tokens, SITE), rtol=1e-9, atol=1e-12)
    return flat.detach(), dense_hessian(loss, flat)


@cache
def head_hessian():
    """Return the heads' outputs in a block (N, heads * head_dim), and the dense Hessian with respect to them."""
    block, tokens = MODEL.blocks[BLOCK], entering(BLOCK)
    held = []
    handle = block.attn.proj.register_forward_hook(lambda _, inputs, __: held.append(inputs[0]))
    block(tokens)
    handle.remove()
    flat = held[0].flatten()

    def loss(values):
        after = tokens + block.ls1(block.attn.proj(values.view_as(held[0])))
        after = after + block.ls2(block.mlp(block.norm2(after)))
        return -continue_forward(MODEL, after, BLOCK + 1, RemovalGates()).softmax(1)[0, LABEL].log()

    torch.testing.assert_close(loss(flat), loss_from(tokens, BLOCK), rtol=1e-9, atol=1e-12)
    return flat.detach(), dense_hessian(loss, flat)


def literal_tokens():
    """Return 1/2 z_j^T H_jj z_j of each patch token, shape (PATCHES,)."""
    flat, hessian = token_hessian()
    own = torch.block_diag(*[torch.ones(len(flat) // PATCHES, len(flat) // PATCHES)] * PATCHES).bool()
    return (flat * ((hessian * own) @ flat)).unflatten(0, (PATCHES, -1)).sum(1) / 2


def literal_heads():
    """Return 1/2 z_h^T H_hh z_h of each head of the block, over all tokens, shape (HEADS,)."""
    flat, hessian = head_hessian()
    owner = torch.arange(HEADS).repeat_interleave(len(flat) // TOKENS // HEADS).repeat(TOKENS)
    own = owner[:, None] == owner[None, :]
    product = flat * ((hessian * own) @ flat)
    return torch.stack([product[owner == head].sum() for head in range(HEADS)]) / 2


@cache
def gate_diagonal():
    """Return half the diagonal of the dense Hessian with respect to the scaling gates, as tokens and heads."""
    loss = labelled_loss_of(DENSE, LAYOUT, IMAGE[0], LABEL)
    tokens, heads, _ = LAYOUT.split(hessian_of(loss, LAYOUT.num_gates).diagonal()[None] / 2)
    return tokens[0, 0], heads[0, BLOCK]


def test_the_curvature_of_a_scaling_gate_is_the_literal_formula_at_the_token():
    torch.testing.assert_close(gate_diagonal()[0], literal_tokens(), rtol=1e-8, atol=1e-12)
    assert literal_tokens().min() < 0 < literal_tokens().max()


def test_the_curvature_of_a_head_gate_is_the_literal_formula_at_the_heads_output():
    torch.testing.assert_close(gate_diagonal()[1], literal_heads(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("labelled", [True, False])
def test_the_scorer_converges_to_the_literal_formula(labelled):
    copies = 48
    batch = IMAGE.expand(copies, -1, -1, -1)
    label = torch.full((copies,), LABEL)
    own = int(MODEL(IMAGE).argmax())
    scores = SCORERS["heart-literal"].score(
        Batch(MODEL, LAYOUT, batch, label if labelled else None, 30, generators(copies))
    )
    wanted_tokens, wanted_heads = literal_tokens(), literal_heads()
    if not labelled:
        loss = labelled_loss_of(DENSE, LAYOUT, IMAGE[0], own)
        tokens, heads, _ = LAYOUT.split(hessian_of(loss, LAYOUT.num_gates).diagonal()[None] / 2)
        wanted_tokens, wanted_heads = tokens[0, 0], heads[0, BLOCK]
    for found, wanted in ((scores.tokens[:, 0], wanted_tokens), (scores.heads[:, BLOCK], wanted_heads)):
        stderr = found.std(dim=0) / copies**0.5
        assert ((found.mean(dim=0) - wanted).abs() <= 4 * stderr).all()
        assert stderr.mean() < 0.15 * wanted.abs().mean()


def test_one_product_with_all_tokens_at_once_mixes_them():
    flat, hessian = token_hessian()
    joint = (flat * (hessian @ flat)).unflatten(0, (PATCHES, -1)).sum(1) / 2
    alone = literal_tokens()
    assert ((joint - alone).abs() / alone.abs()).median() > 0.1
    assert (joint.sign() != alone.sign()).any()
