"""Tensors of several graphs in one file: each once, at pages' edges, and read back as they were."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from heartvit_edge.export.attach import attach_weights, fold_constants
from heartvit_edge.export.pack import too_large
from heartvit_edge.graph.weights import ALIGNMENT, LEAST_BYTES, WeightFile
from heartvit_edge.spec.pack import LARGEST_GRAPH, WEIGHTS


def tensor(name, count, fill=1.0):
    return numpy_helper.from_array(np.full(count, fill, dtype=np.float32), name)


def place(found):
    return {pair.key: pair.value for pair in found.external_data}


def test_equal_tensors_of_different_names_have_one_place(tmp_path):
    first, same, other = tensor("a", 500), tensor("b", 500), tensor("c", 300, 2.0)
    with WeightFile(tmp_path) as weights:
        for one in (first, same, other):
            weights.take(one)
    assert place(first) == place(same) == {"location": WEIGHTS, "offset": "0", "length": "2000"}
    assert place(other)["offset"] == str(ALIGNMENT)
    assert (tmp_path / WEIGHTS).stat().st_size == ALIGNMENT + 1200
    for one, value in ((first, 1.0), (other, 2.0)):
        assert set(numpy_helper.to_array(one, str(tmp_path)).tolist()) == {value}


def test_a_small_tensor_stays_in_its_graph_and_no_file_is_left_where_all_are_small(tmp_path):
    small = tensor("a", LEAST_BYTES // 4 - 1)
    with WeightFile(tmp_path) as weights:
        weights.take(small)
    assert small.HasField("raw_data")
    assert list(tmp_path.iterdir()) == []


def test_weights_of_a_whole_graph_are_taken_after_a_step_has_changed_them(tmp_path):
    graph = helper.make_graph([], "g", [], [], [tensor("a", 400), tensor("b", 4)])
    model = helper.make_model(graph)
    with WeightFile(tmp_path) as weights:
        weights.take_all(model)
    assert [one.data_location == onnx.TensorProto.EXTERNAL for one in model.graph.initializer] == [True, False]


def test_a_model_over_the_limit_is_too_large_for_a_graph():
    with torch.device("meta"):
        assert not too_large(torch.nn.Linear(LARGEST_GRAPH // 4, 1, bias=False))
        assert too_large(torch.nn.Linear(LARGEST_GRAPH // 4 + 1, 1, bias=False))


@pytest.mark.parametrize("used_twice", [False, True])
def test_a_weight_that_is_only_read_transposed_is_stored_so(used_twice):
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "w", "unused")]
    nodes = [helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]), helper.make_node("MatMul", ["x", "wt"], ["y"])]
    nodes += [helper.make_node("Identity", ["w"], ["z"])] if used_twice else []
    names = ["y", "z"] if used_twice else ["y"]
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    weight, told = torch.arange(6.0).view(2, 3), []
    attach_weights(graph, {"w": weight, "unused": torch.ones(1)}, told.append)
    (stored,) = graph.initializer
    assert [info.name for info in graph.input] == ["x"]
    assert told == [stored]
    expected = ("w", weight) if used_twice else ("wt", weight.T)
    assert (stored.name, numpy_helper.to_array(stored).tolist()) == (expected[0], expected[1].tolist())


def test_what_constants_determine_becomes_a_constant_and_the_rest_stays():
    nodes = [
        helper.make_node("Constant", [], ["three"], value=numpy_helper.from_array(np.array(3))),
        helper.make_node("Add", ["three", "three"], ["six"]),
        helper.make_node("Mul", ["x", "six"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [1]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    fold_constants(graph, 17)
    assert [node.op_type for node in graph.node] == ["Constant", "Mul"]
    assert numpy_helper.to_array(graph.node[0].attribute[0].t) == 6
