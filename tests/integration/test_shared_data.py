"""The whole chain on a real model and real images: DINOv2 ViT-S/14 with a CIFAR-10 head."""

from __future__ import annotations

import numpy as np
import pytest

from heartvit_edge.bench.accuracy_figures import accuracy_figures
from heartvit_edge.spec.evaluation import Evaluation
from heartvit_edge.spec.measurement import Measurement
from heartvit_edge.spec.pack import BudgetPack

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NUM_EVALUATED = 64


@pytest.mark.shared_data
def test_the_chain_keeps_what_dinov2_knows_of_cifar10(run_cli, shared_data, tmp_path):
    pack, engines, run = tmp_path / "pack", tmp_path / "engines", tmp_path / "run"
    model = ["vit_small_patch14_dinov2", "--img-size", "112"]
    for name in ("dinov2_vits14_fp16", "cifar10_head_112px"):
        model += ["--weights", shared_data / f"{name}.safetensors"]
    train = ["--data", shared_data / "cifar10_train.npz", "--num-images", "8", "--held-out-images", "2"]
    timing = ["--duration", "0.1", "--trials", "1", "--power", "none"]
    evaluated = ["--data", shared_data / "cifar10_eval.npz", "--limit", NUM_EVALUATED]
    for words in (
        ["export", *model, *train, "--budget", "0.7", "--out", pack],
        ["build-engine", pack, "--backend", "onnxruntime", "--engines", engines],
        ["evaluate", pack, "--engines", engines, *evaluated, "--out", run],
        ["bench", pack, "--engines", engines, *timing, "--out", run],
        ["report", run, "--out", tmp_path / "report.html"],
    ):
        result = run_cli(*words)
        assert result.exit_code == 0, result.stderr

    manifest = BudgetPack.open(pack)
    assert manifest.classes == CLASSES
    assert (manifest.shape.num_patches, manifest.shape.num_classes, manifest.shape.head_dim) == (64, 10, 64)
    assert manifest.preprocessing.interpolation == "bicubic"
    assert manifest.preprocessing.crop_pct == 1
    assert manifest.entries[1].plan.macs_fraction <= 0.7

    evaluation = Evaluation.read(run / "evaluation.json")
    assert evaluation.classes == CLASSES
    dense, pruned = (accuracy_figures(evaluation, entry) for entry in ("dense", "macs-0.7"))
    assert dense.top1.value >= 0.9
    assert pruned.agreement.value >= 0.5  # ten classes: far from chance
    assert 0 < np.mean(evaluation.entries[1].kl_nats) < 2
    assert {row.entry for row in Measurement.read(run / "measurement.json").rows} == {"dense", "macs-0.7"}
    page = (tmp_path / "report.html").read_text()
    assert all(name in page for name in ("dense", "macs-0.7", "vit_small_patch14_dinov2", "cifar10_eval.npz"))
