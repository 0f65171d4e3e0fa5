"""``heartvit-edge finetune``: what it reads, prints, adds to and refuses."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from fakes.small_finetune import write_images
from fakes.tiny_vit import NAME, load_tiny, model_options, plan_of, write_weights

from heartvit_edge.export.entries import planned_entries
from heartvit_edge.export.pack import write_pack
from heartvit_edge.finetune.load import load_finetuned
from heartvit_edge.spec.finetune import FINETUNE, FinetuneRun

FEW = ["--held-out-images", "16", "--batch-size", "8", "--workers", "0"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Return a folder with weights, labelled and bare images, a pack of two budgets, and a plan."""
    folder = tmp_path_factory.mktemp("inputs")
    write_weights(folder / "w.safetensors")
    write_images(folder / "noise.npz")
    write_images(folder / "bare.npz", labelled=False)
    dense = load_tiny(folder)
    plans = [
        plan_of(dense.shape, {1: 13, 3: 7}, source=dense.source),
        plan_of(dense.shape, {2: 9}, source=dense.source, limit=0.7),
    ]
    plans[0].write(folder / "plan.json")
    batches = [np.zeros((2, 3, 32, 32), dtype=np.float32)]
    entries = planned_entries(dense, plans, "class-attention")
    write_pack(dense, entries, folder / "pack", batches=batches, classes=(), calibration=None)
    return folder


@pytest.fixture
def finetune(run_cli, inputs, tmp_path):
    def run(source, *words, epochs=1, data="noise.npz", model=None):
        named = model if model is not None else model_options(inputs / "w.safetensors")
        options = ["--data", inputs / data, "--epochs", epochs, "--out", tmp_path / "run", *FEW]
        return run_cli("finetune", inputs / source, *named, *options, *words)

    return run


def test_a_pack_s_budgets_are_trained_beside_the_control_and_the_table_and_path_are_printed(finetune, tmp_path):
    result = finetune("pack", "--control", epochs=2)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1] == str(tmp_path / "run" / FINETUNE)
    rows = [line.split() for line in lines[1:7]]
    assert [row[0] for row in rows] == ["dense", "control", "macs-0.7", "macs-0.7", "macs-0.5", "macs-0.5"]
    assert [row[1] for row in rows] == ["0", "2", "0", "2", "0", "2"]
    assert [row[-1] == "points" for row in rows] == [False, False, False, True, False, True]
    run = FinetuneRun.read(tmp_path / "run" / FINETUNE)
    assert [entry.name for entry in run.entries] == ["macs-0.7", "macs-0.5", "control"]
    assert (run.images.num_images, run.held_out.num_images) == (24, 16)
    for text in (
        "reading images",
        "macs-0.5: epoch 1 of 2",
        "control: epoch 1: loss 0, held-out KL 0 nats",
        "control: ends here: the loss is exactly 0",
        "matrix products in fp32, on 1 x ",
    ):
        assert text in result.stderr
    dense = load_tiny(tmp_path)
    for entry in run.entries:
        load_finetuned(tmp_path / "run", entry.name, dense)


def test_one_budget_of_a_pack_can_be_picked_and_the_control_added_later(finetune, tmp_path):
    first = finetune("pack", "--budget", "macs-0.5")
    assert first.exit_code == 0, first.stderr
    assert "no control: --control" in first.stdout
    second = finetune("pack", "--budget", "macs-0.5", "--control")
    assert second.exit_code == 0, second.stderr
    assert "macs-0.5: " in second.stderr and "holds it already" in second.stderr
    assert "no control" not in second.stdout
    assert [e.name for e in FinetuneRun.read(tmp_path / "run" / FINETUNE).entries] == ["macs-0.5", "control"]


def test_a_plan_is_trained_with_the_gate_that_is_named_or_fits_the_model(finetune, tmp_path):
    result = finetune("plan.json")
    assert result.exit_code == 0, result.stderr
    run = FinetuneRun.read(tmp_path / "run" / FINETUNE)
    assert run.entries[0].gate == "class-attention"
    assert (run.recipe.feature_weight, run.recipe.gate_weight) == (1, 0)
    result = finetune("plan.json", "--gate", "attention-received", "--force")
    assert result.exit_code == 0, result.stderr
    assert FinetuneRun.read(tmp_path / "run" / FINETUNE).entries[0].gate == "attention-received"


def test_every_setting_reaches_the_recipe(finetune, tmp_path):
    words = {
        "--accumulate": "2", "--optimizer": "lion", "--lr": "0.002", "--gate-lr": "0.02", "--min-lr": "0.0002",
        "--weight-decay": "0.03", "--schedule": "linear", "--warmup-epochs": "0.5", "--clip-grad": "0",
        "--augment": "crop", "--temperature": "2.5", "--token-weight": "0.1", "--feature-weight": "0.2",
        "--label-weight": "0.3", "--gate-weight": "0.4", "--removal-start": "3", "--removal-end": "0.3",
        "--removal-anneal": "exponential", "--ema": "0.99", "--patience": "7", "--seed": "5",
    }  # fmt: skip
    result = finetune(
        "plan.json", *(word for pair in words.items() for word in pair), "--grad-checkpointing", "--no-amp"
    )
    assert result.exit_code == 0, result.stderr
    found = FinetuneRun.read(tmp_path / "run" / FINETUNE).recipe.model_dump()
    assert found == {
        "epochs": 1, "batch_size": 8, "accumulate": 2, "num_processes": 1, "optimizer": "lion", "learning_rate": 0.002,
        "gate_learning_rate": 0.02, "min_learning_rate": 0.0002, "weight_decay": 0.03, "schedule": "linear",
        "warmup_epochs": 0.5, "clip_grad": None, "augmentation": "crop", "temperature": 2.5, "token_weight": 0.1,
        "feature_weight": 0.2, "label_weight": 0.3, "gates_only": False, "gate_weight": 0.4, "removal_start": 3.0,
        "removal_end": 0.3, "removal_anneal": "exponential", "ema_decay": 0.99, "patience": 7, "precision": "fp32",
        "grad_checkpointing": True, "seed": 5,
    }  # fmt: skip


@pytest.fixture
def refused(finetune, tmp_path):
    """Return a function that runs the command, asserts that it leaves nothing, and returns its messages."""

    def run(*words, code=2, **kwargs):
        result = finetune(*words, **kwargs)
        assert result.exit_code == code, result.stderr
        assert result.stdout == ""
        assert not (tmp_path / "run").exists()
        return result.stderr

    return run


def test_weights_of_another_model_are_refused_with_those_that_were_planned_for(refused, tmp_path):
    other = model_options(write_weights(tmp_path / "other.safetensors", seed=3))
    for source in ("pack", "plan.json"):
        told = refused(source, model=other)
        assert "with other weights or another shape than this vit_tiny_patch16_224 at 32 px" in told
        assert f"hint: give the model that was scored: {NAME} --img-size 32 --weights plain-0.safetensors" in told
        assert "reading images" not in told


@pytest.mark.parametrize(
    "words",
    [("--gate-lr", "1e-4"), ("--removal-start", "2"), ("--removal-end", "0.1"), ("--removal-anneal", "cosine")],
    ids=lambda words: words[0],
)
def test_what_teaches_a_gate_is_refused_where_the_gate_keeps_its_weights(refused, words):
    told = refused("plan.json", *words)
    assert f"{words[0]} is for teaching a gate, and here it keeps its weights" in told
    assert "hint: add --gate-weight 1, or --gates-only" in told


def test_labels_are_missed_only_where_they_have_a_weight(refused, finetune):
    told = refused("plan.json", "--label-weight", "0.5", data="bare.npz")
    assert "--label-weight 0.5 needs labels, and bare.npz has none" in told
    result = finetune("plan.json", data="bare.npz")
    assert result.exit_code == 0, result.stderr
    assert "recovery in points of agreement" in result.stdout


def test_gates_without_weights_cannot_be_trained_alone(refused):
    told = refused("pack", "--gates-only")
    assert "--gates-only trains a gate's weights, and gate class-attention has none" in told
    assert "hint: leave --gates-only out" in told


@pytest.mark.parametrize("package", ["accelerate", "tensorboard"])
def test_a_missing_package_is_told_with_the_command_that_installs_it(refused, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    told = refused("plan.json", code=3)
    assert f"error: not installed: {package}" in told
    assert "hint: pip install 'heartvit-edge[finetune]'" in told


def test_no_epochs_are_refused(refused):
    assert "Invalid value for '--epochs'" in refused("plan.json", epochs=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr", "0"], "learning_rate is 0.0: Input should be greater than 0"),
        (["--ema", "1"], "ema_decay is 1.0: Input should be less than 1"),
        (["--optimizer", "adm"], "timm has no optimiser 'adm'"),
        (["--budget", "macs-0.5"], "--budget picks entries of a pack"),
        (["--held-out-images", "40"], "noise.npz has 40 images, of which --held-out-images 40 leaves none"),
        (["--batch-size", "25"], "a step takes 25 images, and there are 24"),
        (["--num-images", "5"], "a step takes 8 images, and there are 5"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(refused, words, message):
    assert message in refused("plan.json", *words)


def test_a_gate_is_not_chosen_for_a_pack_and_an_entry_must_exist(refused):
    assert "the entries of" in refused("pack", "--gate", "class-attention")
    assert "the pack has no entry 'macs-0.3', only dense, macs-0.7, macs-0.5" in refused("pack", "--budget", "macs-0.3")
    assert "plan dense removes nothing" in refused("pack", "--budget", "dense")


def test_bf16_needs_a_gpu(refused, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    told = refused("plan.json", "--amp", code=3)
    assert "--amp needs a GPU that computes in bf16, found no GPU with CUDA" in told
    assert "hint: --no-amp" in told


def test_a_run_of_other_settings_is_refused_and_replaced_by_force(finetune, tmp_path):
    assert finetune("plan.json").exit_code == 0
    before = (tmp_path / "run" / FINETUNE).read_text()
    result = finetune("plan.json", "--lr", "0.5")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "holds a fine-tune with learning_rate 5e-06 where 0.5 is asked for" in result.stderr
    assert (tmp_path / "run" / FINETUNE).read_text() == before
    assert finetune("plan.json", "--lr", "0.5", "--force").exit_code == 0
    assert FinetuneRun.read(tmp_path / "run" / FINETUNE).recipe.learning_rate == 0.5
