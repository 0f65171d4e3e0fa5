"""FP16 in the graph: what stays in FP32, and that the converted graph is valid and close."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from fakes.tiny_pack import SHAPE, make_tiny_pack
from onnx import TensorProto, helper, numpy_helper

from heartvit_edge.errors import CheckError
from heartvit_edge.graph import half
from heartvit_edge.graph.half import float32_nodes, name_nodes, write_half
from heartvit_edge.graph.weights import LEAST_BYTES, WeightFile


@pytest.fixture
def pack(tmp_path):
    """Return the folder of a tiny pack."""
    make_tiny_pack(tmp_path / "pack")
    return tmp_path / "pack"


def run(path, batch=3):
    """Return the outputs on seeded noise, in graph order."""
    images = np.random.default_rng(0).standard_normal((batch, 3, 32, 32), dtype=np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})


def element_types(path):
    """Return the element type of every tensor of the graph, by name."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    types = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.input, *graph.output)}
    return types | {weight.name: weight.data_type for weight in graph.initializer}


def save(path, nodes, weights, outputs):
    """Write a graph that reads ``images`` (B, 3, 32, 32)."""
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 32, 32])
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "small", [image], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)
    return model.graph


def test_the_scores_of_a_topk_stay_fp32_and_the_tokens_that_they_read_do_not(pack):
    graph = onnx.load(pack / "macs-0.5.onnx").graph
    assert float32_nodes(graph, SHAPE) == {"gate", "scores", "topk", "order"}


def test_without_topk_nothing_is_held_by_name(pack):
    assert float32_nodes(onnx.load(pack / "dense.onnx").graph, SHAPE) == set()


def test_a_score_that_leaves_the_graph_too_is_not_the_scores_alone(tmp_path):
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3, 32, 32])
    index = helper.make_tensor_value_info("index", TensorProto.INT64, ["batch", 3, 32, 2])
    nodes = [
        helper.make_node("Relu", ["images"], ["scores"], "score"),
        helper.make_node("TopK", ["scores", "k"], ["best", "index"], "topk"),
    ]
    graph = save(tmp_path / "s.onnx", nodes, {"k": np.array([2])}, [scores, index])
    assert float32_nodes(graph, SHAPE) == {"topk"}


@pytest.mark.parametrize(("rows", "held"), [(17, {"position"}), (16, {"position"}), (15, set())])
def test_the_position_embedding_is_known_by_its_shape(tmp_path, rows, held):
    weights = {"shape": np.array([-1, rows, 8]), "position": np.zeros((1, rows, 8), dtype=np.float32)}
    nodes = [
        helper.make_node("Reshape", ["images", "shape"], ["tokens"], "reshape"),
        helper.make_node("Add", ["tokens", "position"], ["placed"], "position"),
    ]
    output = helper.make_tensor_value_info("placed", TensorProto.FLOAT, ["any", rows, 8])
    assert float32_nodes(save(tmp_path / "p.onnx", nodes, weights, [output]), SHAPE) == held


def test_nodes_without_a_name_get_one_of_their_own():
    graph = onnx.GraphProto(node=[helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Relu", ["b"], ["c"], "x")])
    name_nodes(graph)
    assert [node.name for node in graph.node] == ["Relu_0", "x"]


@pytest.mark.parametrize("name", ["dense", "macs-0.5"])
def test_the_half_graph_answers_close_to_the_whole_and_keeps_its_types(pack, tmp_path, name):
    write_half(pack / f"{name}.onnx", tmp_path / "half.onnx", SHAPE)
    whole, found = run(pack / f"{name}.onnx"), run(tmp_path / "half.onnx")
    assert [value.dtype for value in found] == [value.dtype for value in whole]
    np.testing.assert_allclose(found[0], whole[0], atol=2e-2)
    assert not np.array_equal(found[0], whole[0])  # something is FP16 indeed
    for ours, theirs in zip(found[1:], whole[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_products_are_fp16_and_norm_softmax_and_scores_fp32(pack, tmp_path):
    write_half(pack / "macs-0.5.onnx", tmp_path / "half.onnx", SHAPE)
    types = element_types(tmp_path / "half.onnx")
    nodes = {node.name: node for node in onnx.load(tmp_path / "half.onnx").graph.node}
    read = {name: types[node.input[0]] for name, node in nodes.items()}
    assert {read[name] for name in ("patch", "query", "attention_logits", "mix", "head")} == {TensorProto.FLOAT16}
    assert {read[name] for name in ("norm", "gate", "scores", "topk", "softmax")} == {TensorProto.FLOAT}


def test_scores_are_not_rounded_to_fp16_on_their_way_to_topk(pack, tmp_path):
    write_half(pack / "macs-0.5.onnx", tmp_path / "half.onnx", SHAPE)
    nodes = {node.name: node for node in onnx.load(tmp_path / "half.onnx").graph.node}
    assert nodes["gate"].input[0] == nodes["norm"].output[0]
    assert nodes["scores"].input[0] == nodes["gate"].output[0]
    assert nodes["topk"].input[0] == nodes["scores"].output[0]


def test_one_tensor_may_feed_two_fp32_nodes(tmp_path):
    nodes = [
        helper.make_node("Relu", ["images"], ["hidden"], "relu"),
        helper.make_node("Softmax", ["hidden"], ["first"], "one"),
        helper.make_node("Softmax", ["hidden"], ["second"], "two", axis=1),
        helper.make_node("Add", ["first", "second"], ["logits"], "sum"),
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3, 32, 32])
    save(tmp_path / "two.onnx", nodes, {}, [logits])
    write_half(tmp_path / "two.onnx", tmp_path / "half.onnx", SHAPE)
    np.testing.assert_allclose(run(tmp_path / "half.onnx")[0], run(tmp_path / "two.onnx")[0], atol=2e-3)


def test_a_graph_that_is_fp16_already_is_refused(pack, tmp_path):
    write_half(pack / "dense.onnx", tmp_path / "half.onnx", SHAPE)
    with pytest.raises(CheckError, match="has FP16 weights already"):
        write_half(tmp_path / "half.onnx", tmp_path / "again.onnx", SHAPE)


def test_weights_in_a_file_beside_the_graph_give_the_graph_that_those_inside_give(pack, tmp_path):
    write_half(pack / "macs-0.5.onnx", tmp_path / "inside.onnx", SHAPE)
    model = onnx.load(pack / "macs-0.5.onnx")
    with WeightFile(pack) as weights:
        weights.take_all(model)
        onnx.save_model(model, pack / "aside.onnx")
        write_half(pack / "aside.onnx", pack / "aside.fp16.onnx", SHAPE, weights)
    graph = onnx.load(pack / "aside.fp16.onnx", load_external_data=False).graph
    moved = [tensor.name for tensor in graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    assert moved == ["patch.weight"]
    expected = onnx.load(tmp_path / "inside.onnx")
    found = onnx.load(pack / "aside.fp16.onnx")
    assert found.graph.node == expected.graph.node
    for ours, theirs in zip(found.graph.initializer, expected.graph.initializer, strict=True):
        assert ours.name == theirs.name
        np.testing.assert_array_equal(numpy_helper.to_array(ours), numpy_helper.to_array(theirs))


def test_weights_over_the_limit_lie_beside_a_graph_that_answers_the_same(pack, tmp_path, monkeypatch):
    write_half(pack / "macs-0.5.onnx", tmp_path / "inside.onnx", SHAPE)
    monkeypatch.setattr(half, "LARGEST_GRAPH", 1000)
    write_half(pack / "macs-0.5.onnx", tmp_path / "beside.onnx", SHAPE)
    assert (tmp_path / "beside.weights.bin").is_file()
    for ours, theirs in zip(run(tmp_path / "beside.onnx"), run(tmp_path / "inside.onnx"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_graph_whose_weights_no_protobuf_can_hold_is_converted_without_them_in_memory(pack, tmp_path, monkeypatch):
    model = onnx.load(pack / "macs-0.5.onnx")
    with WeightFile(pack) as weights:
        weights.take_all(model)
    onnx.save_model(model, pack / "aside.onnx")
    seen = []
    infer, serialise = onnx.shape_inference.infer_shapes, onnx.save_model
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", lambda model: seen.append(model) or infer(model))
    monkeypatch.setattr(onnx, "save_model", lambda model, path: seen.append(model) or serialise(model, path))
    monkeypatch.setattr(half, "LARGEST_GRAPH", 1000)
    write_half(pack / "aside.onnx", tmp_path / "half.onnx", SHAPE)
    assert len(seen) == 2
    assert all(len(tensor.raw_data) < LEAST_BYTES for model in seen for tensor in model.graph.initializer)
    for ours, theirs in zip(run(tmp_path / "half.onnx"), run(pack / "macs-0.5.onnx"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-2)
