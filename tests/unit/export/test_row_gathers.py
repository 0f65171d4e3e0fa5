"""Whole rows are gathered as element-wise gathers would, and nothing else is touched."""

import numpy as np
import onnx
import onnxruntime
import pytest
from fakes.tiny_vit import images, load_tiny, plan_of
from fakes.written_graph import write_graph
from onnx import TensorProto, helper

from heartvit_edge.export.any_count import AnyCountViT
from heartvit_edge.export.row_gathers import gather_rows
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.spec.target import TARGETS, with_dynamo


def _written(tmp_path, reduction="drop", target=TARGETS["trt-8.6"], *, any_count=False):
    dense = load_tiny(tmp_path, "plain")
    gate = None if reduction == "merge" else "class-attention"
    model = GatedViT(dense.module, plan_of(dense.shape, {1: 13, 3: 7}), gate, reduction).eval()
    path = tmp_path / "written.onnx"
    write_graph(AnyCountViT(model) if any_count else model, dense.shape, path, target)
    return path


def _answers(model, **counts):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images(3).numpy()} | counts)


@pytest.mark.parametrize("dynamo", [False, True], ids=["older exporter", "newer exporter"])
@pytest.mark.parametrize("reduction", ["drop", "fuse", "join", "merge"])
def test_rows_are_gathered_bit_for_bit(reduction, dynamo, tmp_path):
    target = with_dynamo(TARGETS["trt-10.3"]) if dynamo else TARGETS["trt-8.6"]
    model = onnx.load(_written(tmp_path, reduction, target))
    wanted = _answers(model)
    assert gather_rows(model, 32) >= 2  # one a site, or more
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert "GatherND" in kinds
    assert "Tile" not in kinds
    for found, expected in zip(_answers(model), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_graph_that_is_told_its_counts_answers_as_before(tmp_path):
    model = onnx.load(_written(tmp_path, any_count=True))
    counts = {f"num_keep_{site}": np.array(count) for site, count in {1: 9, 3: 4}.items()}
    wanted = _answers(model, **counts)
    assert gather_rows(model, 32) == 2
    for found, expected in zip(_answers(model, **counts), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_onnxruntime_gets_rows_and_tensorrt_elements(tmp_path):
    kinds = {
        name: [node.op_type for node in onnx.load(_written(tmp_path, target=TARGETS[name])).graph.node]
        for name in ("onnxruntime", "trt-8.6")
    }
    assert kinds["onnxruntime"].count("GatherND") == 2
    assert "GatherND" not in kinds["trt-8.6"]


def _gather(index_nodes, index, repeats=(1, 1, 4), axes=(2,), axis=1):
    """Return a graph that gathers from (B, 5, 4) at positions (B, 3)."""
    graph = helper.make_graph(
        [*index_nodes, helper.make_node("GatherElements", ["data", index], ["out"], axis=axis)],
        "gather",
        [
            helper.make_tensor_value_info("data", TensorProto.FLOAT, ["batch", 5, 4]),
            helper.make_tensor_value_info("at", TensorProto.INT64, ["batch", 3]),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [
            helper.make_tensor("repeats", TensorProto.INT64, [len(repeats)], repeats),
            helper.make_tensor("axes", TensorProto.INT64, [len(axes)], axes),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


TILED = [
    helper.make_node("Unsqueeze", ["at", "axes"], ["column"]),
    helper.make_node("Tile", ["column", "repeats"], ["index"]),
]


@pytest.mark.parametrize(
    ("repeats", "axes", "axis"),
    [((1, 1, 2), (2,), 1), ((1, 2, 4), (2,), 1), ((1, 4, 1), (1,), 1), ((1, 1, 4), (2,), 2)],
    ids=["half of the channels", "every row twice", "positions along the channels", "another axis"],
)
def test_what_takes_no_whole_rows_is_left(repeats, axes, axis):
    model = _gather(TILED, "index", repeats, axes, axis)
    before = model.SerializeToString()
    assert gather_rows(model, 4) == 0
    assert model.SerializeToString() == before


def test_a_tile_that_something_else_reads_stays():
    model = _gather(TILED, "index")
    model.graph.output.append(helper.make_tensor_value_info("index", TensorProto.INT64, None))
    assert gather_rows(model, 4) == 1
    assert [node.op_type for node in model.graph.node] == ["Unsqueeze", "Tile", "GatherND"]
