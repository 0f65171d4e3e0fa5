"""``heartvit-edge export --fixed-batch``: the rest of the chain runs at that batch, and refuses another."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fakes.tiny_vit import IMG_SIZE, model_options, write_weights

from heartvit_edge.spec.measurement import Measurement
from heartvit_edge.spec.pack import BudgetPack

BATCH = 4
LABELLED = 10  # no multiple of the batch


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Return a folder with weights, and noise as an npz."""
    folder = tmp_path_factory.mktemp("inputs")
    write_weights(folder / "w.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (LABELLED, IMG_SIZE, IMG_SIZE, 3), dtype=np.uint8)
    np.savez(folder / "noise.npz", images=pixels, labels=np.arange(LABELLED) % 5, classes=list("abcde"))
    return folder


@pytest.fixture
def export(run_cli, inputs):
    def run(out, *words):
        model = model_options(inputs / "w.safetensors")
        counts = ["--num-images", "7", "--held-out-images", "2", "--plan-images", "0"]
        scores = ["--scores", inputs / "scores", "--budget", "0.6"]
        return run_cli("export", *model, "--data", inputs / "noise.npz", *counts, *scores, "--out", out, *words)

    return run


def test_the_whole_chain_runs_at_the_packs_batch_and_evaluate_fills_up_the_last_one(export, run_cli, inputs, tmp_path):
    packs, rows = {}, {}
    for name, words in (("open", []), ("fixed", ["--fixed-batch", BATCH])):
        packs[name] = tmp_path / name
        result = export(packs[name], *words)
        assert result.exit_code == 0, result.stderr
        built = run_cli("build-engine", packs[name], "--backend", "onnxruntime", "--engines", tmp_path / f"{name}.e")
        assert built.exit_code == 0, built.stderr
        words = ["--data", inputs / "noise.npz", "--engines", tmp_path / f"{name}.e", "--out", tmp_path / f"{name}.run"]
        result = run_cli("evaluate", packs[name], *words, "--json")
        assert result.exit_code == 0, result.stderr
        rows[name] = json.loads(result.stdout)["rows"]
    entries = BudgetPack.open(packs["fixed"]).entries
    assert [(entry.fixed_batch, entry.parity.num_images) for entry in entries] == [(BATCH, BATCH)] * 2  # of 7 images
    for ours, theirs in zip(rows["fixed"], rows["open"], strict=True):
        for figure in ("top1", "agreement", "kl_nats"):
            assert ours[figure]["value"] == pytest.approx(theirs[figure]["value"], abs=1e-5)
    run = tmp_path / "fixed.run"
    words = ["--engines", tmp_path / "fixed.e", "--duration", "0.05", "--trials", "1", "--power", "none"]
    result = run_cli("bench", packs["fixed"], *words, "--out", run)
    assert result.exit_code == 0, result.stderr
    assert {row.batch_size for row in Measurement.read(run / "measurement.json").rows} == {BATCH}
    assert run_cli("report", run, "--out", tmp_path / "report.html").exit_code == 0
    data = ["--engines", tmp_path / "fixed.e", "--data", inputs / "noise.npz"]
    for command, *more in (
        ["bench", *words, "--batch-size", "1", "--out", tmp_path / "other"],
        ["evaluate", *data, "--batch-size", "1"],
        ["build-engine", "--backend", "onnxruntime", "--engines", tmp_path / "other", "--batch-size", "1:1:8"],
    ):
        result = run_cli(command, packs["fixed"], *more)
        assert result.exit_code == 2, command
        assert f"the graph of dense has a constant batch of {BATCH}, found" in " ".join(result.stderr.split())
    (tmp_path / "matrix.toml").write_text('[[engine]]\nbackend = "onnxruntime"\n')
    words = ["--matrix", tmp_path / "matrix.toml", "--engines", tmp_path / "other"]
    assert run_cli("build-engine", packs["fixed"], *words).exit_code == 0


def test_int8_is_calibrated_on_whole_batches(export, tmp_path):
    words = ["--precision", "int8", "--int8-loss", "1", "--calibration-images", "3"]
    assert export(tmp_path / "pack", "--fixed-batch", "2", *words).exit_code == 0
    for entry in BudgetPack.open(tmp_path / "pack").entries:
        assert entry.other("int8").quantization.num_images == 4
        assert entry.other("int8").fidelity.num_images == 6


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--fixed-batch", "8"], "a batch of 8 runs on no fewer images, found 7 scored", "--num-images 8"),
        (["--fixed-batch", "2", "--form", "adaptive-input"], "no constant batch of 2 can", "--fixed-batch 1"),
        (["--fixed-batch", "2", "--parity-batch-sizes", "1,2"], "have a fixed batch of 2", "--parity-batch-sizes"),
        (["--fixed-batch", "0"], "Input should be greater than or equal to 1", ""),
    ],
)
def test_a_batch_that_cannot_be_is_refused_before_anything_is_scored(export, tmp_path, words, message, hint):
    result = export(tmp_path / "pack", *words)
    assert result.exit_code == 2
    text = " ".join(result.stderr.replace("│", " ").split())
    assert message in text
    assert hint in text
    assert list(tmp_path.iterdir()) == []
