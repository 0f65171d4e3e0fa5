"""The closed form counts what torch's operator counter, the exported graph's own nodes and the weights say."""

from __future__ import annotations

import math

import onnx
import onnxruntime
import pytest
import timm
import torch
from fakes.small_plans import VIT_B
from fakes.tiny_vit import images, load_tiny, make_vit, plan_of
from fakes.written_graph import write_graph
from onnx import helper
from torch.utils.flop_counter import FlopCounterMode

from heartvit_edge.allocation.cost import (
    attention_macs,
    dense_macs,
    dense_params,
    fixed_macs,
    kept_share,
    mlp_macs,
    plan_macs,
    plan_params,
)
from heartvit_edge.gating.gate import default_gate
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.random_gate import RandomGate
from heartvit_edge.model.surgery import keep_heads, keep_units
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.plan import BlockPlan


def _vit(width, heads, *, img_size=224, patch_size=16, prefix=1, pool="token", classes=1000):
    return ModelShape(
        img_size=img_size,
        patch_size=patch_size,
        embed_dim=width,
        depth=12,
        num_heads=heads,
        head_dim=64,
        mlp_in_dim=4 * width,
        mlp_hidden_dim=4 * width,
        num_classes=classes,
        num_prefix_tokens=prefix,
        pool=pool,
    )


# The dimensions as their papers print them, not as our own code reads them off the modules.
MODELS = {
    "deit_tiny_patch16_224": _vit(192, 3),
    "deit_small_patch16_224": _vit(384, 6),
    "deit_base_patch16_224": _vit(768, 12),
    "deit_base_distilled_patch16_224": _vit(768, 12, prefix=2, pool="token+distillation"),
    "vit_base_patch16_224": _vit(768, 12),
    "vit_base_patch16_384": _vit(768, 12, img_size=384),
    "vit_small_patch14_reg4_dinov2": _vit(384, 6, patch_size=14, prefix=5),
}
TINY = ModelShape(
    img_size=32,
    patch_size=8,
    embed_dim=32,
    depth=4,
    num_heads=4,
    head_dim=8,
    mlp_in_dim=128,
    mlp_hidden_dim=128,
    num_classes=5,
    num_prefix_tokens=1,
    pool="token",
)
TINY_CHANGES = {
    "distilled": {"num_prefix_tokens": 2, "pool": "token+distillation"},
    "registers": {"num_prefix_tokens": 5},
    "average pooling without class token": {"num_prefix_tokens": 0, "pool": "avg"},
    "gated MLP": {"mlp_hidden_dim": 64},
    "narrow MLP": {"mlp_in_dim": 48, "mlp_hidden_dim": 48},
}


def _counted_macs(model, batch):
    """Return what torch's counter finds in one forward; it counts two operations a multiply-accumulate."""
    for block in model.blocks if hasattr(model, "blocks") else model.backbone.blocks:
        block.attn.fused_attn = False
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(batch)
    return counter.get_total_flops() / 2


def _graph_macs(path):
    """Return the MACs of the graph's MatMul, Gemm and Conv nodes, by the shapes that they have as one image runs."""
    model = onnx.load(path)
    nodes = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    watched = dict.fromkeys(name for node in nodes for name in (*node.input[:2], *node.output))
    shown = [name for name in watched if name not in weights and name != "images"]
    answered = {output.name for output in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in shown if name not in answered)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(shown, {"images": images(1).numpy()})
    shapes = weights | {name: value.shape for name, value in zip(shown, values, strict=True)}
    total = 0
    for node in nodes:
        first = weights[node.input[1]][1:] if node.op_type == "Conv" else shapes[node.input[0]][-1:]
        total += math.prod(shapes[node.output[0]]) * math.prod(first)
    return total


def _matrix_weights(model):
    """Return the number of weights of a model's linear and convolution layers, biases left out."""
    layers = (module for module in model.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d))
    return sum(layer.weight.numel() for layer in layers)


def _removing(shape, groups, kept_groups, kept_heads):
    """Return blocks without some unit groups and heads, by block, and the units of those groups."""
    size = shape.mlp_hidden_dim // groups
    blocks = [
        BlockPlan(
            kept_heads=kept_heads.get(block, range(shape.num_heads)),
            num_tokens=shape.num_tokens,
            kept_units=kept_groups.get(block),
        )
        for block in range(shape.depth)
    ]
    units = [
        [unit for group in kept_groups.get(block, range(groups)) for unit in range(group * size, (group + 1) * size)]
        for block in range(shape.depth)
    ]
    return blocks, units


def _share_gone(blocks):
    return 1 - plan_macs(VIT_B, blocks) / dense_macs(VIT_B)


def _uniform(num_tokens, heads=12):
    return [BlockPlan(kept_heads=tuple(range(heads)), num_tokens=count) for count in num_tokens]


@pytest.mark.parametrize("name", MODELS)
def test_dense_macs_are_those_of_the_operators_of_the_timm_model(name):
    shape = MODELS[name]
    with torch.device("meta"):
        model = timm.create_model(name, img_size=shape.img_size, num_classes=shape.num_classes).eval()
        counted = _counted_macs(model, torch.zeros(1, 3, shape.img_size, shape.img_size))
    assert dense_macs(shape) == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize("variant", TINY_CHANGES)
def test_dense_macs_of_every_kind_of_plain_vit_are_those_of_its_operators(variant):
    shape = ModelShape(**TINY.model_dump() | TINY_CHANGES[variant])
    assert dense_macs(shape) == _counted_macs(make_vit(variant), images(1))


@pytest.mark.parametrize("name", MODELS)
def test_dense_weights_are_those_of_the_matrices_of_the_timm_model(name):
    shape = MODELS[name]
    with torch.device("meta"):
        model = timm.create_model(name, img_size=shape.img_size, num_classes=shape.num_classes)
    assert dense_params(shape) == _matrix_weights(model)


@pytest.mark.parametrize("variant", TINY_CHANGES)
def test_macs_and_weights_without_unit_groups_and_heads_are_those_of_the_sliced_model(variant):
    shape = ModelShape(**TINY.model_dump() | TINY_CHANGES[variant])
    kept_groups, kept_heads = {0: (0, 2), 1: (3,), 3: (0, 1, 3)}, {0: (1,), 2: (0, 3)}
    blocks, units = _removing(shape, 4, kept_groups, kept_heads)
    sliced = keep_heads(keep_units(make_vit(variant), units), [block.kept_heads for block in blocks])
    assert plan_macs(shape, blocks, 4) == _counted_macs(sliced, images(1))
    assert plan_params(shape, blocks, 4) == _matrix_weights(sliced)
    assert plan_macs(shape, blocks, 4) < dense_macs(shape)


def test_a_block_without_kept_units_keeps_its_whole_mlp():
    whole, some = BlockPlan(kept_heads=(0,), num_tokens=5), BlockPlan(kept_heads=(0,), num_tokens=5, kept_units=(0, 2))
    assert (kept_share(whole, 0), kept_share(whole, 8)) == (1, 1)
    assert kept_share(some, 8) == 0.25


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [("vit_base_patch16_224", 17.56), ("deit_base_patch16_224", 17.58), ("deit_small_patch16_224", 4.6)],
)
def test_dense_macs_are_the_published_ones(name, gmacs):
    assert dense_macs(MODELS[name]) / 1e9 == pytest.approx(gmacs, rel=2e-3)


@pytest.mark.parametrize("variant", ["plain", "distilled", "registers", "average pooling without class token"])
def test_macs_of_a_pruned_plan_are_those_of_the_operators_of_the_gated_model(tmp_path, variant):
    dense = load_tiny(tmp_path, variant)
    prefix = dense.shape.num_prefix_tokens
    plan = plan_of(dense.shape, {1: prefix + 11, 3: prefix + 5}, {0: (0, 2), 2: (3,), 3: (0, 1, 3)})
    gated = GatedViT(dense.module, plan, default_gate(dense.shape)).eval()
    assert plan.macs == _counted_macs(gated, images(1))


@pytest.mark.parametrize("kept_heads", [None, {0: (1,), 1: (0, 2), 3: (1, 2, 3)}])
@pytest.mark.parametrize("num_tokens", [None, {2: 9}, {1: 12, 3: 6}])
def test_macs_of_a_plan_are_those_of_the_nodes_of_the_exported_graph(tmp_path, num_tokens, kept_heads):
    dense = load_tiny(tmp_path)
    plan = plan_of(dense.shape, num_tokens, kept_heads)
    gated = GatedViT(dense.module, plan, "class-attention" if plan.sites else None)
    write_graph(gated, dense.shape, tmp_path / "graph.onnx")
    assert plan.macs == _graph_macs(tmp_path / "graph.onnx")


MERGING = 8 * 8 * 32 + 8 * 6 * 32


@pytest.mark.parametrize(("reduction", "extra"), [("fuse", 0), ("join", MERGING), ("merge", MERGING)])
def test_every_reduction_costs_what_the_plan_says_and_merging_its_two_products_beside(tmp_path, reduction, extra):
    dense = load_tiny(tmp_path)
    plan = plan_of(dense.shape, {2: 1 + 10})  # 6 of 16 patches go: 8 sources, 8 targets, 32 wide
    gated = GatedViT(dense.module, plan, None if reduction == "merge" else "class-attention", reduction)
    write_graph(gated, dense.shape, tmp_path / "graph.onnx")
    assert _graph_macs(tmp_path / "graph.onnx") == plan.macs + extra


def test_the_random_gate_costs_one_projection_of_one_token(tmp_path):
    dense = load_tiny(tmp_path)
    plan = plan_of(dense.shape, {1: 1 + 8, 3: 1 + 3})
    write_graph(GatedViT(dense.module, plan, RandomGate(plan)), dense.shape, tmp_path / "graph.onnx")
    assert _graph_macs(tmp_path / "graph.onnx") == plan.macs + 32 * (16 + 8)


def test_the_plan_that_keeps_everything_costs_what_the_dense_model_costs():
    assert plan_macs(VIT_B, _uniform([197] * 12)) == dense_macs(VIT_B)


@pytest.mark.parametrize(("kept", "gone"), [(118, 0.403), (98, 0.504)])
def test_dropping_tokens_before_block_0_takes_slightly_more_than_their_share(kept, gone):
    assert _share_gone(_uniform([1 + kept] * 12)) == pytest.approx(gone, abs=5e-4)


def test_removing_half_of_the_heads_takes_18_percent():
    assert _share_gone(_uniform([197] * 12, heads=6)) == pytest.approx(0.179, abs=5e-4)


@pytest.mark.parametrize(
    ("kept", "gone", "gone_inside"),
    [((137, 95, 66), 0.3725, 0.352), ((98, 49, 24), 0.531, 0.505)],
    ids=["keep 0.7", "keep 0.5"],
)
def test_a_keep_ratio_at_blocks_3_6_and_9_takes_more_before_a_block_than_inside_it(kept, gone, gone_inside):
    # Published keep ratios (-35.2 % and -50.5 %) drop tokens between the attention and the MLP of blocks 3, 6 and 9;
    # a plan drops them before those blocks' attention.
    tokens = [197] * 3 + [1 + count for count in kept for _ in range(3)]
    assert _share_gone(_uniform(tokens)) == pytest.approx(gone, abs=5e-4)
    attended = [197, *tokens[:-1]]
    inside = sum(
        attention_macs(VIT_B, before, 12) + mlp_macs(VIT_B, after)
        for before, after in zip(attended, tokens, strict=True)
    )
    assert 1 - (fixed_macs(VIT_B) + inside) / dense_macs(VIT_B) == pytest.approx(gone_inside, abs=5e-4)
