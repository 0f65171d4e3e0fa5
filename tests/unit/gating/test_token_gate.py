"""A gate with weights: what it reads, how large it may be, and that it takes its place in the gated model."""

from __future__ import annotations

import onnx
import pytest
import torch
from fakes.tiny_vit import images, make_vit, plan_of
from fakes.written_graph import write_graph

from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.token_gate import MOST_MACS, TokenGate, gate_macs, make_token_gate
from heartvit_edge.model.zoo import _shape

DOUBLE = torch.float64
VARIANTS = ["plain", "registers", "distilled", "average pooling without class token"]


def made(variant, patches_at, heads=None):
    torch.manual_seed(0)
    dense = make_vit(variant, dtype=DOUBLE)
    shape = _shape(dense)
    plan = plan_of(shape, {site: shape.num_prefix_tokens + count for site, count in patches_at.items()}, heads)
    return dense, plan, make_token_gate(plan).to(DOUBLE)


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
    tokens = torch.randn(2, 17, plan.shape.embed_dim, dtype=DOUBLE)
    (gate(1, tokens) ** 2).sum().backward()
    for name, value in gate.named_parameters():
        assert (value.grad is not None) == name.startswith("networks.1."), name


def test_no_block_s_attention_is_read_but_for_its_values_so_that_engines_can_fuse_it(tmp_path):
    dense = make_vit("plain")
    shape = _shape(dense)
    plan = plan_of(shape, {1: 13, 3: 6})
    for gate, read_by_more in ((make_token_gate(plan), 0), ("class-attention", 2)):
        write_graph(GatedViT(dense, plan, gate).eval(), shape, tmp_path / "m.onnx")
        nodes = onnx.load(tmp_path / "m.onnx").graph.node
        weights = [node.output[0] for node in nodes if node.op_type == "Softmax"]
        readers = [sum(list(node.input).count(name) for node in nodes) for name in weights]
        assert (len(readers), sum(count > 1 for count in readers)) == (4, read_by_more)


def _counted(gate, tokens, site):
    """Return the multiply-accumulates of the linear layers, by their inputs' sizes."""
    total = []
    hooks = [
        layer.register_forward_hook(lambda own, given, _: total.append(given[0].numel() * own.out_features))
        for layer in gate.modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    gate(site, tokens)
    for hook in hooks:
        hook.remove()
    return sum(total)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_macs_are_those_of_the_linear_layers(variant):
    dense = make_vit(variant)
    shape = _shape(dense)
    gate = TokenGate(shape, [2], hidden=24)
    counted = _counted(gate, torch.randn(1, shape.num_prefix_tokens + 11, shape.embed_dim), 2)
    assert gate_macs(shape, [11], 24) == counted


def test_a_gate_takes_no_more_than_a_hundredth_of_the_dense_macs_where_eight_hidden_units_do():
    _, plan, gate = made("plain", {1: 12, 3: 5})
    hidden = gate.networks["1"].hidden.in_features
    assert hidden % 8 == 0
    larger = gate_macs(plan.shape, [16, 12], hidden + 8)
    assert hidden == 128 or larger > MOST_MACS * plan.dense_macs


@pytest.mark.parametrize("sites", [{}, {0: 9}])
def test_a_plan_without_sites_or_with_one_at_block_0_has_no_gate(sites):
    with pytest.raises(ValueError, match="sites after block 0"):
        made("plain", sites)
