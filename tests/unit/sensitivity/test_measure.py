"""The measured loss of a removal: the KL divergence of the model that really lacks the component."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes.small_scores import DOUBLE, double_dense
from fakes.tiny_vit import images
from scipy.special import rel_entr, softmax

from heartvit_edge.model.forward import embed
from heartvit_edge.model.surgery import keep_heads
from heartvit_edge.sensitivity.loss import cross_entropy, kl_to_dense
from heartvit_edge.sensitivity.measure import head_losses, token_losses, trace_dense

IMAGE = images(1, seed=2, dtype=DOUBLE)


def kl(dense, pruned):
    """Return KL(dense || pruned) of two vectors of logits, by scipy."""
    return rel_entr(softmax(dense.numpy()), softmax(pruned.numpy())).sum()


def without_tokens(model, site, removed):
    """Return the logits of timm's own blocks on a sequence that lacks the removed patches from the site on."""
    tokens, prefix = embed(model, IMAGE), model.num_prefix_tokens
    for index, block in enumerate(model.blocks):
        if index == site:
            kept = [*range(prefix), *(prefix + patch for patch in range(16) if not removed[patch])]
            tokens = tokens[:, kept]
        tokens = block(tokens)
    return model.forward_head(model.norm(tokens))[0]


@pytest.mark.parametrize("variant", ["plain", "average pooling without class token"])
@pytest.mark.parametrize("site", [0, 1, 3])
def test_token_losses_are_the_kl_of_sequences_without_the_tokens(variant, site):
    model = double_dense(variant).module
    removed = torch.rand(7, 16, generator=torch.Generator().manual_seed(3)) < 0.4
    removed[0] = False
    found = token_losses(model, trace_dense(model, IMAGE), site, removed, batch_size=3)
    dense = model(IMAGE)[0]
    expected = [kl(dense, without_tokens(model, site, row)) for row in removed]
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-14)
    assert found[1:].min() > 1e-6


def test_head_losses_are_the_kl_of_a_model_whose_heads_were_cut_out():
    model = double_dense().module
    removed = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0], [1, 1, 0, 1]], dtype=torch.bool)
    dense = model(IMAGE)[0]
    trace = trace_dense(model, IMAGE)
    for block in range(4):
        found = head_losses(model, trace, block, removed)
        for value, row in zip(found, removed, strict=True):
            kept = [range(4)] * 4
            kept[block] = [head for head in range(4) if not row[head]]
            assert float(value) == pytest.approx(kl(dense, keep_heads(model, kept)(IMAGE)[0]), rel=1e-8)


def test_a_dense_trace_holds_what_enters_each_block_and_the_models_own_logits():
    model = double_dense().module
    trace, held = trace_dense(model, IMAGE), []
    handles = [block.register_forward_hook(lambda _, inputs, __: held.append(inputs[0])) for block in model.blocks]
    logits = model(IMAGE)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(trace.logits, logits, rtol=1e-10, atol=1e-12)
    for found, expected in zip(trace.entering, held, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_the_losses_are_those_of_scipy_for_each_image():
    generator = torch.Generator().manual_seed(0)
    dense, pruned = torch.randn(2, 4, 6, generator=generator, dtype=DOUBLE) * 3
    np.testing.assert_allclose(kl_to_dense(dense, pruned), [kl(p, q) for p, q in zip(dense, pruned, strict=True)])
    labels = torch.tensor([0, 5, 2, 2])
    expected = -np.log(softmax(pruned.numpy(), axis=1)[np.arange(4), labels])
    np.testing.assert_allclose(cross_entropy(labels, pruned), expected)
