"""``heartvit-edge export --target``: graphs as the target reads them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from fakes.tiny_vit import IMG_SIZE, model_options, write_weights

from heartvit_edge.cli import requirements
from heartvit_edge.spec.pack import BudgetPack


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    weights = write_weights(folder / "w.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (12, IMG_SIZE, IMG_SIZE, 3), dtype=np.uint8)
    np.savez(folder / "noise.npz", images=pixels, labels=np.arange(12) % 5, classes=list("abcde"))
    counts = ["--num-images", "8", "--held-out-images", "2", "--plan-images", "0", "--budget", "0.7"]
    return ["export", *model_options(weights), "--data", folder / "noise.npz", *counts]


def test_a_pack_is_written_for_its_target_and_says_what_is_fused(run_cli, words, tmp_path):
    result = run_cli(*words, "--out", tmp_path / "pack", "--target", "onnxruntime")
    assert result.exit_code == 0, result.stderr
    pack = BudgetPack.open(tmp_path / "pack")
    assert pack.target == "onnxruntime"
    assert "dense.onnx: attention recognised in 0 of 4 blocks" in result.stderr
    assert "for a GPU fuses 3 Attention" in result.stderr
    names = [node.name for node in onnx.load(tmp_path / "pack" / "dense.onnx").graph.node]
    assert sum(name.endswith(".query/MatMul") for name in names) == 4
    assert run_cli("lint", tmp_path / "pack").stderr.count("for ONNX Runtime: 0 errors") == len(pack.entries)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--target", "trt-9"], "no target 'trt-9', only trt-8.6, trt-10.3"),
        (["--dynamo"], "writes opset 20, and TensorRT 8.6 reads up to 17"),
        (
            ["--dynamo", "--target", "trt-11.4", "--form", "adaptive-shape", "--reduction", "fuse"],
            "recurses without end where as many tokens are fused",
        ),
    ],
)
def test_a_target_that_cannot_be_had_exits_2_before_anything_is_scored(run_cli, words, tmp_path, given, expected):
    result = run_cli(*words, "--out", tmp_path / "pack", *given)
    assert (result.exit_code, result.stdout) == (2, "")
    assert expected in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_newer_exporter_without_its_package_exits_3(run_cli, words, tmp_path, monkeypatch):
    monkeypatch.setattr(requirements, "importable", lambda module: module != "onnxscript")
    result = run_cli(*words, "--out", tmp_path / "pack", "--dynamo", "--target", "trt-11.4")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "not installed: onnxscript" in result.stderr
