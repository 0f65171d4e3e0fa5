"""Timing graphs are the exported model's parts: the same operators, fused alike, and the same answers for the same
weights."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import onnx
import pytest
import timm
import torch
from fakes.tiny_vit import make_vit, plan_of
from fakes.written_graph import write_graph
from onnx import numpy_helper
from timm.layers import SwiGLUPacked

from heartvit_edge.bench.block_graph import write_chain, write_fixed
from heartvit_edge.engines.onnxruntime_session import CPU, open_session
from heartvit_edge.errors import MachineError
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.graph.half import write_half
from heartvit_edge.model.forward import classify, run_block
from heartvit_edge.model.surgery import keep_heads
from heartvit_edge.model.zoo import _shape

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}


def make_model(name="vit_tiny_patch16_224", **kwargs):
    return timm.create_model(name, **SMALL | kwargs).eval().requires_grad_(False)


def weights_of(path):
    """Return the random weights of a graph in the order of their use, without the constants of its operators."""
    values = [numpy_helper.to_array(weight) for weight in onnx.load(path).graph.initializer]
    return [torch.from_numpy(value.copy()) for value in values if value.dtype == np.float32 and value.ndim]


def run(path, values):
    session = open_session(path, CPU, 1, optimise=False)
    return session.run(None, {session.get_inputs()[0].name: values})[0]


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node if node.op_type not in ("Constant", "Identity")]


def blocks_alone(found):
    """Return the operators from the first LayerNormalization to before the last."""
    last = len(found) - 1 - found[::-1].index("LayerNormalization")
    return found[found.index("LayerNormalization") : last]


@pytest.mark.parametrize("heads", [4, 3, 1])
def test_a_chain_has_the_exporter_s_operators_in_its_order(tmp_path, heads):
    model = make_vit()
    shape = _shape(model)
    plan = plan_of(shape, kept_heads={block: range(heads) for block in range(shape.depth)})
    write_graph(GatedViT(model, plan, None).eval(), shape, tmp_path / "model.onnx")
    write_chain(tmp_path / "chain.onnx", shape, shape.num_tokens, heads, shape.depth, np.random.default_rng(0))
    assert operators(tmp_path / "chain.onnx")[:-1] == blocks_alone(operators(tmp_path / "model.onnx"))


def test_onnxruntime_fuses_a_chain_as_it_fuses_the_exported_model(tmp_path):
    model = make_vit()
    shape = _shape(model)
    write_graph(GatedViT(model, plan_of(shape), None).eval(), shape, tmp_path / "model.onnx")
    write_chain(tmp_path / "chain.onnx", shape, shape.num_tokens, 4, shape.depth, np.random.default_rng(0))
    fused = {}
    for name in ("model", "chain"):
        target = tmp_path / f"{name}-fused.onnx"
        open_session(tmp_path / f"{name}.onnx", CPU, 1, optimise=True, save_to=target)
        fused[name] = operators(target)
    assert "BiasGelu" in fused["chain"]
    assert Counter(fused["chain"][:-1]) == Counter(blocks_alone(fused["model"]))


@pytest.mark.parametrize("heads", [4, 3])
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"mlp_ratio": 1.5}, {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}],
    ids=["GELU", "narrow", "SwiGLU"],
)
def test_a_chain_answers_as_timm_s_blocks_with_its_weights(tmp_path, kwargs, heads):
    dense = make_model(**kwargs)
    write_chain(tmp_path / "chain.onnx", _shape(dense), 7, heads, 2, np.random.default_rng(0))
    weights = weights_of(tmp_path / "chain.onnx")
    model = keep_heads(dense, [range(heads)] * 2)
    for number, block in enumerate(model.blocks):
        layers = (block.norm1, block.attn.qkv, block.attn.proj, block.norm2, block.mlp.fc1, block.mlp.fc2)
        own = weights[12 * number : 12 * (number + 1)]
        for layer, weight, bias in zip(layers, own[::2], own[1::2], strict=True):
            layer.weight.copy_(weight.t())  # the graph has (in, out)
            layer.bias.copy_(bias)
    tokens = np.random.default_rng(1).standard_normal((3, 7, 32), dtype=np.float32)
    expected = torch.from_numpy(tokens)
    for block in model.blocks:
        expected, _ = run_block(block, expected)
    np.testing.assert_allclose(run(tmp_path / "chain.onnx", tokens), expected.mean(dim=1), atol=1e-5)


def test_every_block_of_a_chain_has_weights_of_its_own(tmp_path):
    write_chain(tmp_path / "chain.onnx", _shape(make_model()), 7, 4, 4, np.random.default_rng(0))
    matrices = [weight for weight in weights_of(tmp_path / "chain.onnx") if tuple(weight.shape) == (32, 96)]
    assert len(matrices) == 4
    assert len({float(matrix.sum()) for matrix in matrices}) == 4


def test_a_chain_without_blocks_is_the_mean_of_the_tokens(tmp_path):
    write_chain(tmp_path / "call.onnx", _shape(make_model()), 7, 0, 0, np.random.default_rng(0))
    tokens = np.random.default_rng(1).standard_normal((2, 7, 32), dtype=np.float32)
    np.testing.assert_allclose(run(tmp_path / "call.onnx", tokens), tokens.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"reg_tokens": 4}),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False}),
        ("deit_tiny_distilled_patch16_224", {}),
    ],
    ids=["class token", "registers", "average", "average without class token", "distilled"],
)
def test_the_fixed_part_answers_as_timm_s_model_without_its_blocks(tmp_path, name, kwargs):
    model = make_model(name, **kwargs)
    shape = _shape(model)
    ports = write_fixed(tmp_path / "fixed.onnx", shape, np.random.default_rng(0))
    kernel, bias, *rest = weights_of(tmp_path / "fixed.onnx")
    model.patch_embed.proj.weight.copy_(kernel)
    model.patch_embed.proj.bias.copy_(bias)
    prefix = rest.pop(0) if shape.num_prefix_tokens else torch.zeros(1, 0, 32)
    embedding, *rest = rest
    norm = model.fc_norm if shape.pool == "avg" else model.norm
    heads = [model.head, model.head_dist] if shape.pool == "token+distillation" else [model.head]
    for layer, weight, bias in zip([norm, *heads], rest[::2], rest[1::2], strict=True):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    images = np.random.default_rng(1).standard_normal((3, 3, 32, 32), dtype=np.float32)
    tokens = torch.cat([prefix.expand(3, -1, -1), model.patch_embed(torch.from_numpy(images))], dim=1) + embedding
    expected = classify(model, tokens)
    np.testing.assert_allclose(run(tmp_path / "fixed.onnx", images), expected, atol=1e-5)
    assert ports.output.shape == (None, *expected.shape[1:])


def test_graphs_are_valid_onnx_of_the_shapes_that_are_returned(tmp_path):
    shape = _shape(make_model())
    chain = write_chain(tmp_path / "chain.onnx", shape, 7, 3, 2, np.random.default_rng(0))
    fixed = write_fixed(tmp_path / "fixed.onnx", shape, np.random.default_rng(0))
    for name, ports in (("chain", chain), ("fixed", fixed)):
        model = onnx.load(tmp_path / f"{name}.onnx")
        onnx.checker.check_model(model, full_check=True)
        for info, (value,) in zip(ports, (model.graph.input, model.graph.output), strict=True):
            dims = value.type.tensor_type.shape.dim
            assert (value.name, tuple(dim.dim_value or None for dim in dims)) == (info.name, info.shape)
        assert model.opset_import[0].version == 17


def test_the_fp16_form_of_both_answers_as_the_fp32_form(tmp_path):
    shape = _shape(make_model())
    write_chain(tmp_path / "chain.onnx", shape, 7, 3, 4, np.random.default_rng(0))
    write_fixed(tmp_path / "fixed.onnx", shape, np.random.default_rng(0))
    random = np.random.default_rng(1)
    for name, size in (("chain", (2, 7, 32)), ("fixed", (2, 3, 32, 32))):
        values = random.standard_normal(size, dtype=np.float32)
        write_half(tmp_path / f"{name}.onnx", tmp_path / "half.onnx", shape)
        full = run(tmp_path / f"{name}.onnx", values)
        np.testing.assert_allclose(run(tmp_path / "half.onnx", values), full, atol=0.01 * np.abs(full).max())


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    shape = _shape(make_model())
    for name in ("first", "again"):
        write_chain(tmp_path / name, shape, 7, 3, 2, np.random.default_rng(5))
    assert (tmp_path / "first").read_bytes() == (tmp_path / "again").read_bytes()


def test_a_machine_without_onnx_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MachineError, match="writing a graph needs onnx") as caught:
        write_chain(tmp_path / "chain.onnx", _shape(make_model()), 7, 3, 2, np.random.default_rng(0))
    assert caught.value.hint == "pip install 'heartvit-edge[onnxruntime]'"
