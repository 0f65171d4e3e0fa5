"""Engines of one graph whose token counts are inputs: each is fed its own budget's."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from fakes.adaptive_pack import SITES, make_adaptive_pack
from fakes.board import Board, noise
from fakes.machines import DESKTOP
from fakes.tensorrt_surface import VERSIONS

from heartvit_edge.engines import onnxruntime_build
from heartvit_edge.engines.build import build_engine
from heartvit_edge.engines.store import load_engine
from heartvit_edge.errors import CheckError
from heartvit_edge.runtime.open import open_runner
from heartvit_edge.runtime.verify import verify_engine
from heartvit_edge.spec.engine import BatchRange, EngineManifest

COUNTS = {"macs-0.8": (12, 8), "macs-0.6": (8, 4)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the folder of a pack whose two budgets share a graph, and its manifest."""
    folder = tmp_path_factory.mktemp("made") / "pack"
    return folder, make_adaptive_pack(folder)


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    folder = tmp_path_factory.mktemp("static") / "pack"
    return folder, make_adaptive_pack(folder, "static")


def built(made, entry, engines, *, verify=None):
    folder = build_engine(
        made[0], made[1], entry, "onnxruntime", "fp32", BatchRange(), engines, DESKTOP, force=False, verify=verify
    )
    return EngineManifest.read(folder / "manifest.json"), folder


@pytest.mark.parametrize("entry", COUNTS)
def test_each_engine_answers_as_that_of_the_static_graph_of_its_budget(made, static, tmp_path, entry):
    manifest, folder = built(made, entry, tmp_path, verify=verify_engine)
    assert manifest.num_keep == dict(zip(SITES, COUNTS[entry], strict=True))
    assert manifest.onnx_sha256 == made[1].entry("macs-0.8").onnx_sha256
    with open_runner(manifest, folder) as ours, open_runner(*built(static, entry, tmp_path)) as theirs:
        for batch in (1, 3, 8):
            found, expected = ours.infer(noise(batch)), theirs.infer(noise(batch))
            assert [values.shape for values in found.values()] == [values.shape for values in expected.values()]
            np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-4)
            np.testing.assert_array_equal(found["kept_3"], expected["kept_3"])


def test_the_other_budgets_engine_is_not_taken_for_this_ones(made, tmp_path):
    _, folder = built(made, "macs-0.8", tmp_path)
    manifest = EngineManifest.read(folder / "manifest.json")
    manifest.model_copy(update={"num_keep": {1: 12, 3: 7}}).write(folder / "manifest.json", force=True)
    with pytest.raises(Exception, match=r"num_keep is \{1: 12, 3: 7\}, wanted \{1: 12, 3: 8\}"):
        built(made, "macs-0.8", tmp_path)


def test_an_engine_is_not_built_from_a_pack_whose_weights_were_altered(made, tmp_path):
    path = made[0] / made[1].weights
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(CheckError, match=r"weights\.bin was altered"):
            built(made, "macs-0.8", tmp_path)
    finally:
        path.write_bytes(content)


def test_graphs_hold_no_tensor_of_a_kilobyte_and_name_the_file_beside_them(made):
    names = {entry.onnx for entry in made[1].entries}
    for name in names:
        graph = onnx.load(made[0] / name, load_external_data=False).graph
        for tensor in graph.initializer:
            inside = tensor.data_location != onnx.TensorProto.EXTERNAL
            assert inside == (onnx.numpy_helper.to_array(tensor, str(made[0])).nbytes < 1024)
            if not inside:
                assert {pair.key: pair.value for pair in tensor.external_data}["location"] == "weights.bin"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_tensorrt_builds_a_profile_for_each_budgets_counts_and_is_fed_those_of_its_own(
    made, tmp_path, monkeypatch, version, precision
):
    board = Board(tmp_path, monkeypatch, version, make_pack=lambda _: made[1])
    board.folder = made[0]
    for entry, counts in COUNTS.items():
        with board.runner(precision, entry=entry) as runner:
            for batch in (1, 4, 1, 1):  # plain, then captured, then launched
                found, expected = runner.infer(noise(batch)), board.expected(noise(batch), entry)
                if precision == "fp32":
                    np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-4)
                    np.testing.assert_array_equal(found["kept_3"], expected["kept_3"])
                assert found["kept_3"].shape == (batch, counts[1])
        values = board.script.arguments("IOptimizationProfile.set_shape_input")
        assert [(one["input"], one["min"], one["opt"], one["max"]) for one in values] == [
            (f"num_keep_{site}", (count,), (count,), (count,))
            for every in COUNTS.values()
            for site, count in zip(SITES, every, strict=True)
        ]
        board.script.calls.clear()


def test_weights_that_are_too_many_for_one_file_lie_beside_the_engine_and_are_checked(made, tmp_path, monkeypatch):
    monkeypatch.setattr(onnxruntime_build, "LARGEST_GRAPH", 1)
    manifest, folder = built(made, "macs-0.8", tmp_path / "aside", verify=verify_engine)
    assert manifest.weights == "engine.weights.bin"
    assert (folder / manifest.file).stat().st_size < (folder / "engine.weights.bin").stat().st_size
    with open_runner(manifest, folder) as runner:
        found = runner.infer(noise(2))["logits"]
    monkeypatch.undo()
    with open_runner(*built(made, "macs-0.8", tmp_path / "whole")) as runner:
        np.testing.assert_allclose(found, runner.infer(noise(2))["logits"], atol=1e-5)
    content = (folder / "engine.weights.bin").read_bytes()
    (folder / "engine.weights.bin").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckError, match=r"weights\.bin was altered"), open_runner(manifest, folder):
        pass
    with pytest.raises(CheckError, match=r"weights\.bin was altered"):
        load_engine(folder, DESKTOP)
