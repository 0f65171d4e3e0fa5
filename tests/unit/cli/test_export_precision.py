"""``heartvit-edge export --precision``: what the pack holds, and that the rest of the chain works with it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fakes.tiny_vit import IMG_SIZE, model_options, write_weights

from heartvit_edge.export import fidelity
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.pack import BudgetPack


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Return a folder with weights, and noise as an npz."""
    folder = tmp_path_factory.mktemp("inputs")
    write_weights(folder / "w.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (12, IMG_SIZE, IMG_SIZE, 3), dtype=np.uint8)
    np.savez(folder / "noise.npz", images=pixels, labels=np.arange(12) % 5, classes=list("abcde"))
    return folder


@pytest.fixture
def export(run_cli, inputs):
    def run(out, *words):
        model = model_options(inputs / "w.safetensors")
        counts = ["--num-images", "8", "--held-out-images", "2", "--batch-size", "4", "--plan-images", "0"]
        scores = ["--scores", inputs / "scores", "--budget", "0.6"]
        return run_cli("export", *model, "--data", inputs / "noise.npz", *counts, *scores, "--out", out, *words)

    return run


def test_each_entry_has_a_graph_in_each_precision_and_the_chain_runs_on_int8(export, run_cli, inputs, tmp_path):
    pack, engines, run = tmp_path / "pack", tmp_path / "engines", tmp_path / "run"
    words = ["--precision", "int8", "--precision", "fp16", "--precision", "fp32", "--precision", "int8"]
    result = export(pack, *words, "--calibration", "percentile", "--calibration-images", "6", "--int8-loss", "1")
    assert result.exit_code == 0, result.stderr
    assert "INT8 wants 6 images to be calibrated on beside the 8 that it is compared on, there are 8" in result.stderr
    manifest = BudgetPack.open(pack)
    for entry in manifest.entries:
        assert [graph.precision for graph in entry.others] == ["fp16", "int8"]
        for graph in entry.others:
            assert graph.onnx == f"{entry.name}.{graph.precision}.onnx"
            assert graph.onnx_sha256 == sha256_file(pack / graph.onnx)
            assert graph.fidelity.num_images == 8
            assert f"{entry.name}.{graph.precision}: {graph.fidelity.num_agreeing} of 8 images" in result.stderr
        made = entry.other("int8").quantization
        assert (made.calibration, made.num_images, made.limit_nats) == ("percentile", 6, 1.0)

    for command in (
        ["build-engine", pack, "--precision", "int8", "--engines", engines, "--backend", "onnxruntime"],
        ["evaluate", pack, "--data", inputs / "noise.npz", "--engines", engines, "--out", run],
        ["bench", pack, "--engines", engines, "--duration", "0.05", "--trials", "1", "--power", "none", "--out", run],
        ["report", run, "--out", tmp_path / "report.html"],
    ):
        result = run_cli(*command)
        assert result.exit_code == 0, result.stderr
        if command[0] == "evaluate":
            agreeing = manifest.entries[0].other("int8").fidelity.num_agreeing
            assert f"dense: the int8 graph gives the class of FP32 to {agreeing} of 8" in result.stdout
    page = (tmp_path / "report.html").read_text()
    assert "Entry: its graph in another precision" in page
    assert "dense, int8" in page
    found = run_cli("evaluate", pack, "--data", inputs / "noise.npz", "--engines", engines, "--json")
    rows = json.loads(found.stdout)["rows"]
    assert [row["fidelity"]["num_agreeing"] for row in rows] == [
        entry.other("int8").fidelity.num_agreeing for entry in manifest.entries
    ]


@pytest.mark.parametrize("form", ["adaptive-shape", "adaptive-input"])
def test_graphs_that_adapt_have_other_precisions_too_and_the_chain_runs_on_them(
    export, run_cli, inputs, tmp_path, form
):
    pack, engines = tmp_path / "pack", tmp_path / "engines"
    words = ["--form", form, "--precision", "fp16", "--precision", "int8", "--int8-loss", "1"]
    result = export(pack, *words, *(["--buckets", "2"] if form == "adaptive-input" else []))
    assert result.exit_code == 0, result.stderr
    manifest = BudgetPack.open(pack)
    for precision in ("fp16", "int8"):
        found = manifest.entries[1].other(precision).fidelity
        assert f"macs-0.6.{precision}: {found.num_agreeing} of 8 images are given the class of FP32" in result.stderr
    built = run_cli("build-engine", pack, "--precision", "int8", "--engines", engines, "--backend", "onnxruntime")
    assert built.exit_code == 0, built.stderr
    result = run_cli("evaluate", pack, "--data", inputs / "noise.npz", "--engines", engines)
    assert result.exit_code == 0, result.stderr
    assert f"macs-0.6: the int8 graph gives the class of FP32 to {found.num_agreeing} of 8" in result.stdout
    linted = run_cli("lint", pack, "--json")
    assert linted.exit_code == 0, linted.stderr
    assert {report["file"] for report in json.loads(linted.stdout)} == {path.name for path in pack.glob("*.onnx")}


def test_fp32_alone_is_what_is_written_unless_asked(export, tmp_path):
    assert export(tmp_path / "pack", "--precision", "fp32").exit_code == 0
    assert all(entry.others == () for entry in BudgetPack.open(tmp_path / "pack").entries)


def test_fp16_that_is_too_far_from_fp32_leaves_no_pack(export, tmp_path, monkeypatch):
    monkeypatch.setattr(fidelity, "MIN_COSINE_FP16", 1.1)
    result = export(tmp_path / "pack", "--precision", "fp16")
    assert result.exit_code == 5
    assert "dense.fp16: the mean cosine between its logits and those in FP32 is" in result.stderr
    assert not (tmp_path / "pack").exists()
    assert list(tmp_path.iterdir()) == []


def test_int8_that_loses_too_much_whatever_is_left_out_leaves_no_pack(export, tmp_path):
    result = export(tmp_path / "pack", "--precision", "int8", "--int8-loss", "0")
    assert result.exit_code == 5
    assert "dense.int8: no layer can be INT8 within 0 nats" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--calibration", "median"], "'median' is not one of"),
        (["--precision", "int4"], "'int4' is not one of"),
        (["--calibration", "entropy"], "--calibration is for INT8, which is not asked for"),
        (["--precision", "fp16", "--calibration-images", "4"], "--calibration-images is for INT8"),
        (["--precision", "fp16", "--int8-loss", "0.1"], "--int8-loss is for INT8, which is not asked for"),
        (["--precision", "int8", "--calibration-images", "0"], "Input should be greater than or equal to 1"),
        (["--precision", "int8", "--int8-loss", "nan"], "--int8-loss"),
        (["--precision", "int8", "--int8-loss", "inf"], "--int8-loss is inf, expected nats"),
        (["--precision", "int8", "--int8-loss", "-1"], "Input should be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_scored(export, tmp_path, words, message):
    result = export(tmp_path / "pack", *words)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_build_engine_says_how_to_get_an_int8_graph(export, run_cli, tmp_path):
    assert export(tmp_path / "pack").exit_code == 0
    words = ["--precision", "int8", "--backend", "onnxruntime", "--engines", tmp_path / "engines"]
    result = run_cli("build-engine", tmp_path / "pack", *words)
    assert result.exit_code == 2
    assert "the pack has no INT8 graph of dense" in result.stderr
    assert "--precision int8" in result.stderr
    result = run_cli("bench", tmp_path / "pack", "--profile-table", tmp_path / "t.json", "--precision", "int8")
    assert result.exit_code == 2
    assert "INT8 needs images, which a table of single blocks has none of" in result.stderr
