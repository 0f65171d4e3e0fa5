"""Graphs as TensorRT and ONNX Runtime will read them: names, shapes, operators, answers, bytes."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest
import torch
from fakes.tiny_vit import images, make_vit, plan_of
from fakes.written_graph import write_graph

from heartvit_edge.export.graph import graph_inputs, graph_outputs
from heartvit_edge.gating.gate import default_gate
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.random_gate import RandomGate
from heartvit_edge.gating.token_gate import make_token_gate
from heartvit_edge.model.zoo import _shape

HEADS = {0: [0, 2, 3], 2: [1]}
DATA_DEPENDENT = {"NonZero", "If", "Loop", "Scan", "Unique", "Compress", "NonMaxSuppression"}


def make_gated(variant="plain", sites=None, heads=None, reduction="drop"):
    dense = make_vit(variant)
    shape = _shape(dense)
    plan = plan_of(shape, {site: shape.num_prefix_tokens + count for site, count in (sites or {}).items()}, heads)
    gate = None if reduction == "merge" else default_gate(shape)
    return GatedViT(dense, plan, gate, reduction).eval(), shape


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    model, shape = make_gated("plain", {1: 11, 3: 5}, HEADS)
    path = tmp_path_factory.mktemp("graph") / "pruned.onnx"
    write_graph(model, shape, path)
    return model, shape, path


def described(values):
    """Return name, numpy type and dimensions of graph inputs or outputs; None for a dynamic dimension."""
    return [
        (
            value.name,
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim),
        )
        for value in values
    ]


def test_inputs_and_outputs_have_the_names_types_and_shapes_that_the_pack_declares(pruned):
    model, shape, path = pruned
    graph = onnx.load(path).graph
    assert described(graph.input) == [("images", "float32", (None, 3, 32, 32))]
    assert described(graph.output) == [
        ("logits", "float32", (None, 5)),
        ("kept_1", "int32", (None, 11)),
        ("kept_3", "int32", (None, 5)),
    ]
    declared = (*graph_inputs(shape), *graph_outputs(shape, model.num_listed))
    assert [(info.name, info.dtype, info.shape) for info in declared] == [
        *described(graph.input),
        *described(graph.output),
    ]


def test_a_dense_graph_answers_logits_alone():
    _, shape = make_gated()
    assert [info.name for info in graph_outputs(shape, {})] == ["logits"]


def test_the_opset_is_17_and_no_operator_depends_on_data_for_its_shape(pruned):
    model = onnx.load(pruned[2])
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    operators = {node.op_type for node in model.graph.node}
    assert "TopK" in operators
    assert not operators & DATA_DEPENDENT
    assert not [name for name in operators if "Scatter" in name]
    onnx.checker.check_model(model, full_check=True)


def test_how_many_tokens_are_kept_is_a_constant_of_the_graph(pruned):
    graph = onnx.load(pruned[2]).graph
    constants = {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant"
    }
    constants |= {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    counts = [constants[node.input[1]].tolist() for node in graph.node if node.op_type == "TopK"]
    assert counts == [[11], [11], [5], [5]]  # each site: the best, then the best in ascending order


def test_every_shape_but_the_batch_is_inferred_as_a_constant(pruned):
    graph = onnx.shape_inference.infer_shapes(onnx.load(pruned[2]), strict_mode=True).graph
    by_name = {
        value.name: shape for value, (_, _, shape) in zip(graph.value_info, described(graph.value_info), strict=True)
    }
    widths = [by_name[node.output[0]] for node in graph.node if node.op_type == "Softmax"]
    # Heads that stay, and tokens that stay, of each block.
    assert [shape[1:] for shape in widths] == [(3, 17, 17), (4, 12, 12), (1, 12, 12), (4, 6, 6)]


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("variant", ["plain", "distilled", "registers", "average pooling", "SwiGLU"])
def test_a_graph_answers_as_pytorch_at_every_batch_size(tmp_path, variant, batch):
    model, shape = make_gated(variant, {1: 11, 3: 5}, HEADS)
    write_graph(model, shape, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    inputs = images(batch, seed=batch)
    expected = [tensor.numpy() for tensor in model(inputs)]
    found = session.run(None, {"images": inputs.numpy()})
    assert [array.shape for array in found] == [(batch, 5), (batch, 11), (batch, 5)]
    assert abs(found[0] - expected[0]).max() <= 1e-5 * abs(expected[0]).max()
    for kept, kept_in_pytorch in zip(found[1:], expected[1:], strict=True):
        assert kept.tolist() == kept_in_pytorch.tolist()


REDUCTIONS = {"fuse": [10, 4], "join": [11, 3], "merge": [11, 3]}


@pytest.mark.parametrize("variant", ["plain", "registers", "average pooling"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_graph_that_fuses_joins_or_merges_has_constant_shapes_and_answers_as_pytorch(tmp_path, reduction, variant):
    sites = {1: 11, 3: 5 if reduction == "fuse" else 3}  # 3 of 11: two rounds of merging
    model, shape = make_gated(variant, sites, HEADS, reduction)
    if reduction == "join":
        torch.manual_seed(0)
        plan = plan_of(shape, {site: shape.num_prefix_tokens + count for site, count in sites.items()}, HEADS)
        model.gate = make_token_gate(plan)
    write_graph(model, shape, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx")
    operators = {node.op_type for node in graph.graph.node}
    assert not operators & DATA_DEPENDENT
    assert not [name for name in operators if "Scatter" in name or "Random" in name]
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True).graph
    values = {
        value.name: found
        for value, (_, _, found) in zip(inferred.value_info, described(inferred.value_info), strict=True)
    }
    prefix = shape.num_prefix_tokens
    widths = [values[node.output[0]][1:] for node in inferred.node if node.op_type == "Softmax"]
    widths = [width for width in widths if len(width) == 3]  # that of a fused token's weights has one
    counts = [prefix + 16, prefix + 11, prefix + 11, prefix + sites[3]]
    assert widths == [(heads, count, count) for heads, count in zip((3, 4, 1, 4), counts, strict=True)]
    products = {node.output[0]: values[node.output[0]] for node in inferred.node if node.op_type in ("MatMul", "TopK")}
    assert not [name for name, found in products.items() if None in found[1:]]
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        inputs = images(batch, seed=batch)
        expected = [tensor.numpy() for tensor in model(inputs)]
        found = session.run(None, {"images": inputs.numpy()})
        assert [array.shape for array in found[1:]] == [(batch, count) for count in REDUCTIONS[reduction]]
        assert abs(found[0] - expected[0]).max() <= 1e-5 * abs(expected[0]).max()
        for kept, kept_in_pytorch in zip(found[1:], expected[1:], strict=True):
            assert kept.tolist() == kept_in_pytorch.tolist()


def test_a_random_gate_is_written_without_random_numbers_and_answers_as_pytorch(tmp_path):
    dense, shape = make_vit("registers"), _shape(make_vit("registers"))
    plan = plan_of(shape, {1: 5 + 9, 3: 5 + 4})
    model = GatedViT(dense, plan, RandomGate(plan)).eval()
    write_graph(model, shape, tmp_path / "m.onnx")
    operators = {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    assert not [name for name in operators if "Random" in name or name in DATA_DEPENDENT]
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    logits, *kept = session.run(None, {"images": images(6).numpy()})
    expected, *kept_in_pytorch = model(images(6))
    assert abs(logits - expected.numpy()).max() <= 1e-5 * abs(logits).max()
    assert [found.tolist() for found in kept] == [found.tolist() for found in kept_in_pytorch]
    assert len({tuple(row) for row in kept[0].tolist()}) > 1


@pytest.mark.parametrize("variant", ["registers", "average pooling without class token"])
def test_a_learned_gate_is_written_with_constant_shapes_and_answers_as_pytorch(tmp_path, variant):
    dense = make_vit(variant)
    shape = _shape(dense)
    prefix = shape.num_prefix_tokens
    plan = plan_of(shape, {1: prefix + 9, 3: prefix + 4}, HEADS)
    torch.manual_seed(0)
    model = GatedViT(dense, plan, make_token_gate(plan)).eval()
    write_graph(model, shape, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx")
    assert not {node.op_type for node in graph.graph.node} & DATA_DEPENDENT
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True).graph
    shapes = {
        value.name: found
        for value, (_, _, found) in zip(inferred.value_info, described(inferred.value_info), strict=True)
    }
    kinds = ("MatMul", "Gemm", "TopK", "Softmax", "LayerNormalization")
    found = [shapes[node.output[0]] for node in inferred.node if node.op_type in kinds and node.output[0] in shapes]
    assert not [dimensions for dimensions in found if None in dimensions[1:]]
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        logits, *kept = session.run(None, {"images": images(batch, seed=batch).numpy()})
        expected, *kept_in_pytorch = model(images(batch, seed=batch))
        assert abs(logits - expected.detach().numpy()).max() <= 1e-5 * abs(logits).max()
        assert [patches.tolist() for patches in kept] == [patches.tolist() for patches in kept_in_pytorch]


def test_the_same_model_is_written_as_the_same_bytes(tmp_path, pruned):
    model, shape, path = pruned
    again, _ = make_gated("plain", {1: 11, 3: 5}, HEADS)
    for name, source in (("a.onnx", model), ("b.onnx", again)):
        write_graph(source, shape, tmp_path / name)
        assert (tmp_path / name).read_bytes() == path.read_bytes()


def test_a_graph_carries_no_path_of_the_machine_that_wrote_it(pruned, repository):
    content = pruned[2].read_bytes()
    assert str(repository).encode() not in content
    assert b"site-packages" not in content


def test_a_model_with_fused_attention_is_written_without_it(pruned):
    model, _, path = pruned
    assert any(block.attn.fused_attn for block in model.backbone.blocks)
    assert sum(node.op_type == "Softmax" for node in onnx.load(path).graph.node) == len(model.backbone.blocks)


def test_writing_a_graph_leaves_the_models_answers_as_they_were(tmp_path):
    model, shape = make_gated("plain", {2: 7})
    before = model(images(2))
    write_graph(model, shape, tmp_path / "m.onnx")
    for first, second in zip(before, model(images(2)), strict=True):
        assert torch.equal(first, second)
