"""One model for every target, by both of torch's exporters."""

import hashlib
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fakes.tiny_vit import images, load_tiny, plan_of
from fakes.written_graph import write_graph

from heartvit_edge.allocation.routing import Chosen
from heartvit_edge.errors import CheckError, InputError
from heartvit_edge.export import making
from heartvit_edge.export.any_count import AnyCountViT
from heartvit_edge.export.by_input import Routed, stem_source, tail_source
from heartvit_edge.export.check_graph import check_graph
from heartvit_edge.export.entries import planned_entries
from heartvit_edge.export.graph import Traceable, graph_inputs, graph_outputs, store_graph
from heartvit_edge.export.pack import write_pack
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.routed import Stem, Tail
from heartvit_edge.lint.run import lint_file
from heartvit_edge.spec.pack import BudgetPack
from heartvit_edge.spec.target import DEFAULT_TARGET, TARGETS, with_dynamo


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return load_tiny(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def model(dense):
    return GatedViT(dense.module, plan_of(dense.shape, {2: 9}, {0: [1, 2]}), "class-attention").eval()


def _answers(path, batch):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": batch})


@pytest.mark.parametrize("target", [*TARGETS.values(), with_dynamo(TARGETS["trt-10.16"])], ids=lambda t: t.name)
def test_every_target_s_graph_answers_as_pytorch_does_and_is_clean(model, dense, target, tmp_path):
    write_graph(model, dense.shape, tmp_path / "m.onnx", target)
    with torch.no_grad():
        expected = [tensor.numpy() for tensor in model(images(3))]
    for found, wanted in zip(_answers(tmp_path / "m.onnx", images(3).numpy()), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    report = lint_file(tmp_path / "m.onnx", TARGETS[target.name], static=True)
    assert (report.opset, report.findings) == (target.opset, ())


def test_the_newer_exporter_leaves_no_path_of_this_machine(model, dense, tmp_path):
    write_graph(model, dense.shape, tmp_path / "m.onnx", with_dynamo(TARGETS["trt-11.4"]))
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert not any(node.metadata_props or node.doc_string for node in graph.node)
    assert b"heartvit_edge/" not in (tmp_path / "m.onnx").read_bytes()


SCRIPT = """
import hashlib, pathlib, sys
from fakes.tiny_vit import load_tiny, plan_of
from fakes.written_graph import write_graph
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.spec.target import TARGETS
folder = pathlib.Path(sys.argv[1])
dense = load_tiny(folder)
model = GatedViT(dense.module, plan_of(dense.shape, {2: 9}, {0: [1, 2]}), "class-attention").eval()
write_graph(model, dense.shape, folder / "m.onnx", TARGETS["onnxruntime"])
print(hashlib.sha256((folder / "m.onnx").read_bytes()).hexdigest())
"""


def test_another_process_writes_the_same_bytes(model, dense, tmp_path):
    write_graph(model, dense.shape, tmp_path / "m.onnx", TARGETS["onnxruntime"])
    own = hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest()
    (tmp_path / "other").mkdir()
    path = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path / "other")],
        capture_output=True,
        text=True,
        check=True,
        env=path,
    )
    assert done.stdout.split()[-1] == own


def test_a_target_below_the_newer_exporter_s_opset_is_refused():
    with pytest.raises(InputError, match=r"writes opset 20, and TensorRT 8\.6 reads up to 17"):
        with_dynamo(TARGETS["trt-8.6"])


def test_what_the_newer_exporter_cannot_follow_is_told_in_one_plain_line(dense, tmp_path):
    class ByValue(torch.nn.Module):
        def forward(self, images):
            return images * 2 if images.sum() > 0 else images

    source = Traceable(ByValue(), (images(2),), graph_inputs(dense.shape), graph_outputs(dense.shape, {})[:1], 32)
    with pytest.raises(InputError, match=r"cannot write this model: .*data-dependent") as caught:
        store_graph(source, tmp_path / "m.onnx", target=with_dynamo(TARGETS["trt-11.4"]))
    assert str(caught.value).isprintable()
    assert caught.value.hint == "leave --dynamo out"


def test_every_target_reads_what_the_default_one_s_graph_has(model, dense, tmp_path):
    write_graph(model, dense.shape, tmp_path / "m.onnx", TARGETS[DEFAULT_TARGET])
    assert all(lint_file(tmp_path / "m.onnx", target, static=True).findings == () for target in TARGETS.values())


def test_a_graph_that_the_target_refuses_is_not_accepted(model, dense, tmp_path):
    write_graph(model, dense.shape, tmp_path / "m.onnx", TARGETS["trt-11.4"])
    with pytest.raises(CheckError, match=r"TensorRT 8\.6 would refuse m\.onnx: the model: opset 20") as caught:
        check_graph(tmp_path / "m.onnx", TARGETS["trt-8.6"], lambda _: None)
    assert (caught.value.exit_code, caught.value.hint) == (5, "export with opset_version=17")


def test_a_graph_s_attention_and_fusions_are_told_in_one_line(model, dense, tmp_path):
    write_graph(model, dense.shape, tmp_path / "m.onnx")
    told = []
    check_graph(tmp_path / "m.onnx", TARGETS[DEFAULT_TARGET], told.append)
    (line,) = told
    assert line.startswith("m.onnx: attention recognised in 0 of 4 blocks; ")
    assert "heads of 8, expected a multiple of 8 from 16 to 256" in line
    assert "BiasGelu" in line


def test_a_pack_names_its_target_and_has_its_opset(dense, tmp_path):
    plans = [plan_of(dense.shape, {2: 9}, source=dense.source)]
    entries = planned_entries(dense, plans, "class-attention")
    given = {"batches": [images(2).numpy()], "classes": (), "calibration": None}
    write_pack(dense, entries, tmp_path / "pack", target=TARGETS["trt-11.4"], **given)
    pack = BudgetPack.open(tmp_path / "pack")
    assert (pack.target, {entry.opset for entry in pack.entries}) == ("trt-11.4", {20})


def test_a_refused_graph_leaves_no_pack(dense, tmp_path, monkeypatch):
    def double(source, path, **given):
        store_graph(source, path, **given)
        graph = onnx.load(path)
        graph.opset_import[0].version = 22
        onnx.save(graph, path)

    monkeypatch.setattr(making, "store_graph", double)
    given = {"batches": [images(2).numpy()], "classes": (), "calibration": None}
    with pytest.raises(CheckError, match="would refuse"):
        write_pack(dense, planned_entries(dense, [], "class-attention"), tmp_path / "pack", **given)
    assert list(tmp_path.iterdir()) == []


def test_the_newer_exporter_writes_a_graph_that_takes_any_count_of_dropped_tokens(model, dense, tmp_path):
    any_count = AnyCountViT(model)
    write_graph(any_count, dense.shape, tmp_path / "m.onnx", with_dynamo(TARGETS["trt-11.4"]))
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    assert [(info.name, len(info.shape)) for info in session.get_inputs()] == [("images", 4), ("num_keep_2", 0)]
    for batch, count in ((1, 8), (3, 12), (2, 16)):
        logits, kept = session.run(None, {"images": images(batch).numpy(), "num_keep_2": np.array(count)})
        with torch.no_grad():
            expected, expected_kept = any_count(images(batch), torch.tensor(count))
        np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)
        np.testing.assert_array_equal(kept, expected_kept.numpy())
    findings = lint_file(tmp_path / "m.onnx", TARGETS["trt-11.4"], static=True).findings
    assert {(one.severity, one.rule) for one in findings} == {("warning", "dynamic-reshape")}


def test_the_newer_exporter_writes_a_stem_and_its_tails(model, dense, tmp_path):
    parts = Stem(model, 0.3, (1, 16)).eval(), Tail(model, {2: 6}).eval()
    routed = Routed(
        plan_of(dense.shape, {2: 9}), model, parts[0], parts[1:], Chosen(0.3, np.array([6]), ({2: 6},), 1.0)
    )
    target = with_dynamo(TARGETS["trt-11.4"])
    store_graph(stem_source(routed), tmp_path / "stem.onnx", target=target)
    store_graph(tail_source(routed, parts[1]), tmp_path / "tail.onnx", target=target)
    stem, tail = (
        onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        for name in ("stem", "tail")
    )
    with torch.no_grad():
        state = parts[0](images(3))
        expected = parts[1](*state[:-1])
    found = stem.run(None, {"images": images(3).numpy()})
    np.testing.assert_allclose(found[0], state[0].numpy(), atol=1e-5)
    np.testing.assert_array_equal(found[-1], state[-1].numpy())
    logits, kept = tail.run(None, {"tokens": found[0], "scores": found[1]})
    np.testing.assert_allclose(logits, expected[0].numpy(), atol=1e-5)
    np.testing.assert_array_equal(kept, expected[1].numpy())
