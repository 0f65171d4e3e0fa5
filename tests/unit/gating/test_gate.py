"""What chooses tokens: EViT's class attention and attention received, against naive loops."""

from __future__ import annotations

import pytest
import torch
from fakes.tiny_vit import make_vit

from heartvit_edge.errors import InputError
from heartvit_edge.gating.gate import attention_received, check_gate, class_attention, default_gate
from heartvit_edge.model.zoo import _shape


@pytest.fixture(scope="module")
def weights():
    """Attention weights of 2 images, 3 heads, 2 prefix and 5 patch tokens."""
    logits = torch.randn(2, 3, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return logits.softmax(dim=-1)


def test_class_attention_is_the_class_tokens_weight_on_each_patch_averaged_over_heads(weights):
    got = class_attention(weights, 2)
    assert got.shape == (2, 5)
    for image in range(2):
        for patch in range(5):
            expected = sum(weights[image, head, 0, 2 + patch].item() for head in range(3)) / 3
            assert got[image, patch].item() == pytest.approx(expected)


def test_attention_received_is_the_weight_that_all_tokens_put_on_a_patch_averaged(weights):
    got = attention_received(weights, 2)
    assert got.shape == (2, 5)
    for image in range(2):
        for patch in range(5):
            received = [weights[image, head, query, 2 + patch].item() for head in range(3) for query in range(7)]
            assert got[image, patch].item() == pytest.approx(sum(received) / len(received))


@pytest.mark.parametrize(
    ("variant", "gate"),
    [
        ("plain", "class-attention"),
        ("registers", "class-attention"),
        ("distilled", "class-attention"),
        ("average pooling", "attention-received"),
        ("average pooling without class token", "attention-received"),
    ],
)
def test_the_default_gate_reads_what_the_classifier_reads_and_fits_the_model(variant, gate):
    model = make_vit(variant)
    assert default_gate(_shape(model)) == gate
    check_gate(default_gate(_shape(model)), model)


def test_class_attention_is_refused_where_there_is_no_class_token():
    with pytest.raises(InputError, match="the model has none") as caught:
        check_gate("class-attention", make_vit("average pooling without class token"))
    assert caught.value.hint == "--gate attention-received"
    check_gate("class-attention", make_vit("average pooling"))
