"""The whole chain on a tiny model: images in, budget pack, engines, figures and report out."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from fakes.tiny_vit import IMG_SIZE, NAME, kwargs_pairs, model_options, write_weights
from PIL import Image

from heartvit_edge.cli import app as command_line
from heartvit_edge.data.images import list_images, load_images, subset
from heartvit_edge.data.preprocess import preprocess
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.model.zoo import load_dense
from heartvit_edge.spec.evaluation import Evaluation
from heartvit_edge.spec.measurement import Measurement
from heartvit_edge.spec.pack import MANIFEST, BudgetPack

CLASSES = ("ant", "bee", "cat", "dog", "elk")
NUM_IMAGES = 30
ENTRIES = ["dense", "macs-0.7", "macs-0.5"]


def write_images(place, kind):
    """Write 30 noisy pictures of several sizes as an ImageFolder, a flat folder or an npz; return its path."""
    random = np.random.default_rng(0)
    if kind == "npz":
        images = random.integers(0, 256, (NUM_IMAGES, 40, 36, 3), dtype=np.uint8)
        np.savez(place / "pets.npz", images=images, labels=np.arange(NUM_IMAGES) % 5, classes=CLASSES)
        return place / "pets.npz"
    for number in range(NUM_IMAGES):
        height, width = random.integers(30, 60, 2)
        below = CLASSES[number % 5] if kind == "ImageFolder" else ""
        path = place / "pets" / below / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return place / "pets"


def steps(place, data):
    """Return the five commands, everything under ``place``."""
    weights = write_weights(place / "w.safetensors")
    pack, engines, run = place / "pack", place / "engines", place / "run"
    counts = ["--num-images", "8", "--held-out-images", "2"]
    budgets = ["--budget", "1.0", "--budget", "0.7", "--budget", "0.5"]
    timing = ["--duration", "0.05", "--trials", "1", "--batch-size", "1,4", "--power", "none"]
    return {
        "export": ["export", *model_options(weights), "--data", data, *counts, *budgets, "--out", pack],
        "build-engine": ["build-engine", pack, "--backend", "onnxruntime", "--engines", engines],
        "evaluate": ["evaluate", pack, "--engines", engines, "--data", data, "--out", run],
        "bench": ["bench", pack, "--engines", engines, *timing, "--out", run],
        "report": ["report", run, "--out", place / "report.html"],
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder in which the chain ran on an ImageFolder."""
    place = tmp_path_factory.mktemp("chain")
    for words in steps(place, write_images(place, "ImageFolder")).values():
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
            patch.setattr(sys, "argv", ["heartvit-edge", *map(str, words)])
            with pytest.raises(SystemExit) as ended:
                command_line.main()
        assert not ended.value.code, words
    return place


@pytest.fixture(scope="module")
def in_pytorch(place):
    """Return the labels, and for each entry the logits and kept patches of the gated model in PyTorch."""
    dense = load_dense(NAME, weights=[place / "w.safetensors"], img_size=IMG_SIZE, model_kwargs=kwargs_pairs())
    images = load_images(place / "pets")
    batch = torch.from_numpy(np.concatenate(list(preprocess(images, dense.preprocessing, NUM_IMAGES))))
    answers = {}
    for entry in BudgetPack.open(place / "pack").entries:
        with torch.no_grad():
            logits, *kept = GatedViT(dense.module, entry.plan, entry.gate).eval()(batch)
        answers[entry.name] = logits.double().numpy(), dict(zip(entry.plan.sites, kept, strict=True))
    return images.labels, answers


@pytest.mark.parametrize(("kind", "labelled"), [("flat folder", False), ("npz", True)])
def test_every_step_takes_what_the_step_before_wrote(run_cli, tmp_path, kind, labelled):
    printed = {}
    for name, words in steps(tmp_path, write_images(tmp_path, kind)).items():
        result = run_cli(*words)
        assert result.exit_code == 0, result.stderr
        printed[name] = result.stdout.splitlines()
    assert printed["export"] == [str(tmp_path / "pack" / MANIFEST)]
    assert len(printed["build-engine"]) == 3
    assert printed["report"][0] == str(tmp_path / "report.html")
    pack = BudgetPack.open(tmp_path / "pack")
    assert [entry.name for entry in pack.entries] == ENTRIES
    assert pack.classes == (CLASSES if kind == "npz" else ())
    evaluation = Evaluation.read(tmp_path / "run" / "evaluation.json")
    assert evaluation.images.labelled is labelled
    assert [answers.top1_correct is not None for answers in evaluation.entries] == [labelled] * 3
    measurement = Measurement.read(tmp_path / "run" / "measurement.json")
    assert {(row.entry, row.batch_size) for row in measurement.rows} == {(name, n) for name in ENTRIES for n in (1, 4)}
    assert (tmp_path / "report.html").stat().st_size > 0


def test_engines_answer_as_the_gated_model_in_pytorch_on_the_same_images(place, in_pytorch):
    labels, answers = in_pytorch
    evaluation = Evaluation.read(place / "run" / "evaluation.json")
    assert [found.entry for found in evaluation.entries] == ENTRIES
    dense = scipy.special.softmax(answers["dense"][0], axis=1)
    for found in evaluation.entries:
        logits = answers[found.entry][0]
        assert found.agreeing == (logits.argmax(axis=1) == dense.argmax(axis=1)).sum()
        assert found.top1_correct == (logits.argmax(axis=1) == labels).sum()
        kl = scipy.stats.entropy(dense, scipy.special.softmax(logits, axis=1), axis=1)
        assert found.kl_nats == pytest.approx(kl, rel=1e-3, abs=1e-6)
    assert evaluation.entries[0].agreeing == NUM_IMAGES
    assert evaluation.entries[2].agreeing < NUM_IMAGES
    assert max(evaluation.entries[2].kl_nats) > 0.01


def test_samples_show_the_patches_that_pytorch_keeps(place, in_pytorch):
    evaluation = Evaluation.read(place / "run" / "evaluation.json")
    assert len(evaluation.samples) == 8
    for sample in evaluation.samples:
        for entry, (logits, kept) in in_pytorch[1].items():
            assert sample.predictions[entry] == logits[sample.index].argmax()
            assert sample.kept[entry] == tuple(
                (site, tuple(patches[sample.index].tolist())) for site, patches in kept.items()
            )
        assert sample.label == in_pytorch[0][sample.index]
    assert any(sample.kept["macs-0.5"] for sample in evaluation.samples)


def test_fewer_macs_were_asked_for_and_fewer_are_spent(place):
    dense, *pruned = BudgetPack.open(place / "pack").entries
    assert dense.plan.macs_fraction == 1
    for entry, limit in zip(pruned, (0.7, 0.5), strict=True):
        assert 0 < entry.plan.macs_fraction <= limit
        assert entry.plan.predicted_loss_nats > 0
    assert pruned[0].plan.predicted_loss_nats < pruned[1].plan.predicted_loss_nats


def test_engines_lose_on_held_out_images_what_their_plans_were_checked_to_lose(place):
    listing = list_images(place / "pets")
    held_out = {image.tobytes() for image in subset(listing, NUM_IMAGES - 10, 0, skip=10)}  # 8 scored, 2 calibrated on
    chosen = [image.tobytes() in held_out for image in load_images(place / "pets")]
    evaluation = Evaluation.read(place / "run" / "evaluation.json")
    for entry, found in zip(BudgetPack.open(place / "pack").entries[1:], evaluation.entries[1:], strict=True):
        assert entry.plan.chosen_by == entry.gate
        assert entry.plan.check.images.num_images == sum(chosen) == 20
        assert entry.plan.check.loss_nats == pytest.approx(np.array(found.kl_nats)[chosen].mean(), rel=1e-3, abs=1e-6)


def test_without_a_power_source_energy_is_missing_with_its_reason(place):
    measurement = Measurement.read(place / "run" / "measurement.json")
    assert measurement.power is None
    assert measurement.no_power_reason
    assert all(row.trials for row in measurement.rows)


def test_the_report_needs_no_network_and_names_every_entry(place):
    page = (place / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    fetched = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]+)", page)
    assert fetched
    assert [address for address in fetched if not address.startswith(("data:", "#"))] == []
    assert not re.search(r"<(?:link|iframe|object|embed)\b|@import|<script[^>]+src", page)
    for word in (*ENTRIES, NAME, "pets"):
        assert word in page
    for suffix in (".md", ".csv"):
        text = (place / "report").with_suffix(suffix).read_text()
        assert all(entry in text for entry in ENTRIES)


@pytest.mark.parametrize("command", ["build-engine", "evaluate", "bench"])
def test_every_command_that_reads_a_pack_refuses_one_whose_graph_was_altered(run_cli, place, tmp_path, command):
    shutil.copytree(place / "pack", tmp_path / "pack")
    graph = tmp_path / "pack" / "macs-0.5.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    words = {
        "build-engine": ["--backend", "onnxruntime"],
        "evaluate": ["--data", place / "pets"],
        "bench": ["--out", tmp_path / "run"],
    }
    result = run_cli(command, tmp_path / "pack", "--engines", place / "engines", *words[command])
    assert (result.exit_code, result.stdout) == (5, "")
    assert f"error: {graph} was altered: SHA-256 is " in result.stderr
    assert "hint: export the pack again" in result.stderr
    assert not (tmp_path / "run").exists()


def test_engines_of_a_pack_are_found_by_its_content_not_its_place(run_cli, place, tmp_path):
    shutil.copytree(place / "pack", tmp_path / "elsewhere")
    words = ["--engines", place / "engines", "--data", place / "pets", "--limit", "4"]
    assert run_cli("evaluate", tmp_path / "elsewhere", *words).exit_code == 0
