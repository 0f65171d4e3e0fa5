"""Three projections compute what the packed one does, and ONNX Runtime's fusion recognises them."""

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from fakes.tiny_vit import images, load_tiny, plan_of
from fakes.written_graph import write_graph

from heartvit_edge.export.projections import separate_projections
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.lint.fusions import count_fusions
from heartvit_edge.spec.target import TARGETS


def _packed(tmp_path, variant="plain", sites=None, heads=None, gate=None, reduction="drop"):
    dense = load_tiny(tmp_path, variant)
    model = GatedViT(dense.module, plan_of(dense.shape, sites, heads), gate, reduction).eval()
    path = tmp_path / "packed.onnx"
    write_graph(model, dense.shape, path, TARGETS["trt-8.6"])
    return path


def _separate(path):
    model = onnx.load(path)
    count = separate_projections(model)
    onnx.save(model, path.with_name("separate.onnx"))
    onnx.checker.check_model(str(path.with_name("separate.onnx")), full_check=True)
    return count, path.with_name("separate.onnx")


def _answers(path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images(3).numpy()})


CASES = {
    "plain": ({}, 4),
    "some heads removed": ({"heads": {0: [1, 3], 2: [0]}}, 4),
    "no bias": ({"variant": "no query, key and value bias"}, 4),
    "query and key norm": ({"variant": "query and key norm"}, 4),
    "a gate that reads the weights of one block": ({"sites": {2: 9}, "gate": "class-attention"}, 3),
    "merged, whose logits have a bias": ({"sites": {2: 9}, "reduction": "merge"}, 4),
}


@pytest.mark.parametrize(("given", "count"), CASES.values(), ids=CASES)
def test_separate_projections_answer_as_packed_ones_do(given, count, tmp_path):
    path = _packed(tmp_path, **given)
    found, separate = _separate(path)
    assert found == count
    for wanted, answer in zip(_answers(path), _answers(separate), strict=True):
        np.testing.assert_allclose(answer, wanted, atol=2e-5)


def test_onnxruntime_s_fusion_recognises_all_but_the_first_block_s_attention(tmp_path):
    path = _packed(tmp_path)
    packed, separate = count_fusions(path), count_fusions(_separate(path)[1])
    assert "Attention" not in packed.offline
    assert separate.offline["Attention"] == 3  # of 4: the first has no skip connection's norm before it
    assert separate.offline["BiasGelu"] == 4


def test_where_a_gate_reads_the_weights_the_fusion_leaves_the_graph_whole(tmp_path):
    fusions = count_fusions(_separate(_packed(tmp_path, sites={2: 9}, gate="class-attention"))[1])
    assert fusions.offline is not None
    assert fusions.offline["Attention"] == 2


def test_nothing_is_left_that_nothing_reads(tmp_path):
    graph = onnx.load(_separate(_packed(tmp_path))[1]).graph
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert {tensor.name for tensor in graph.initializer} <= read
    assert all(any(name in read for name in node.output) for node in graph.node)


def test_a_graph_too_large_to_show_is_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("heartvit_edge.lint.fusions.LARGEST", 1000)
    assert count_fusions(_packed(tmp_path)) is None


def test_a_fusion_that_fails_is_told_and_prints_nothing(tmp_path, monkeypatch, capsys):
    def fails(*_args, **_options):
        sys.stdout.write("failed in shape inference")
        raise RuntimeError("Graph is not a DAG")

    monkeypatch.setattr("onnxruntime.transformers.optimizer.optimize_model", fails)
    fusions = count_fusions(_packed(tmp_path))
    assert fusions.line().endswith("; its fusion for a GPU fails")
    assert capsys.readouterr().out == ""
