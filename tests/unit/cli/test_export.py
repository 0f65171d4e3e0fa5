"""``heartvit-edge export``: what it writes and uses again, what it refuses, and what an interruption leaves."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import onnx
import pytest
from fakes.device_tables import make_device_table
from fakes.tiny_vit import IMG_SIZE, NAME, VARIANTS, kwargs_pairs, model_options, write_weights
from PIL import Image

from heartvit_edge.allocation.plan import make_plan
from heartvit_edge.export import forms, making
from heartvit_edge.sensitivity.scorers import SCORERS
from heartvit_edge.sensitivity.table import ARRAYS_FILE, MAP_FILE, read_table
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.pack import MANIFEST, BudgetPack
from heartvit_edge.spec.plan import PruningPlan

NUM_IMAGES = 12
SCORED = 8
COUNTS = ["--num-images", SCORED, "--held-out-images", "2", "--batch-size", "3"]


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, IMG_SIZE, IMG_SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, pixels):
    """Return a folder with weights, and noise as an npz."""
    folder = tmp_path_factory.mktemp("inputs")
    write_weights(folder / "w.safetensors")
    np.savez(folder / "noise.npz", images=pixels, labels=np.arange(NUM_IMAGES) % 5, classes=list("abcde"))
    return folder


@pytest.fixture
def export(run_cli, inputs):
    def run(out, *words, data=None):
        model = model_options(inputs / "w.safetensors")
        return run_cli("export", *model, "--data", data or inputs / "noise.npz", *COUNTS, "--out", out, *words)

    return run


def state_of(folder):
    """Return the time and content of every file below a folder."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def scorer_calls(monkeypatch):
    """Collect the number of images of each call of the scorer; ``stop_after`` calls it is interrupted as by Ctrl-C."""
    known, calls = SCORERS["removal-gate"], []

    class Calls(list):
        stop_after = None

    calls = Calls()

    def counted(batch):
        if calls.stop_after == len(calls):
            raise KeyboardInterrupt
        calls.append(len(batch.images))
        return known.score(batch)

    monkeypatch.setitem(SCORERS, "removal-gate", dataclasses.replace(known, score=counted))
    return calls


def test_the_path_of_the_manifest_goes_to_stdout_alone_and_the_pack_opens(export, tmp_path):
    result = export(tmp_path / "pack", "--budget", "0.5", "--budget", "0.8", "--budget", "1.0", "--budget", "macs=0.5")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'pack' / MANIFEST}\n"), result.stderr
    pack = BudgetPack.open(tmp_path / "pack")
    assert [entry.name for entry in pack.entries] == ["dense", "macs-0.8", "macs-0.5"]
    assert [entry.parity.num_images for entry in pack.entries] == [SCORED] * 3
    assert pack.classes == tuple("abcde")
    assert (pack.calibration.name, pack.calibration.num_images) == ("noise.npz", SCORED)
    for entry in pack.entries[1:]:
        assert entry.plan.macs_fraction <= entry.plan.budgets[0].limit
        assert entry.gate == "class-attention"
    for text in (
        "reading images",
        "scoring by removal-gate",
        "exporting and checking",
        "3/3",
        "of PyTorch's scale on 8",
    ):
        assert text in result.stderr


def test_scores_and_plans_lie_beside_the_pack_and_are_those_it_was_made_from(export, tmp_path):
    export(tmp_path / "pack", "--budget", "0.7")
    pack, table = BudgetPack.open(tmp_path / "pack"), read_table(tmp_path / "pack.scores")
    plan = PruningPlan.read(tmp_path / "pack.scores" / "plans" / "macs-0.7.json")
    assert pack.entries[1].plan == plan
    assert plan.sensitivity_sha256 == sha256_file(tmp_path / "pack.scores" / MAP_FILE)
    assert pack.source == table.info.source
    assert table.heads.shape == (SCORED, 4, 4)


def test_plans_are_measured_with_the_gate_of_the_graphs_on_scored_images_and_on_those_left(export, tmp_path):
    result = export(tmp_path / "pack", "--budget", "0.7", "--plan-images", "6", "--gate", "attention-received")
    assert result.exit_code == 0, result.stderr
    entry = BudgetPack.open(tmp_path / "pack").entries[1]
    assert entry.plan.chosen_by == entry.gate == "attention-received"
    assert (entry.plan.refined_on.num_images, entry.plan.check.images.num_images) == (6, NUM_IMAGES - SCORED - 2)
    assert "tokens chosen by attention-received" in result.stderr


def test_without_plan_images_plans_stem_from_scores_alone(export, tmp_path):
    result = export(tmp_path / "pack", "--budget", "0.7", "--plan-images", "0")
    assert result.exit_code == 0, result.stderr
    stored = BudgetPack.open(tmp_path / "pack").entries[1].plan
    assert stored == make_plan(read_table(tmp_path / "pack.scores"), (Budget(limit=0.7),))
    assert (stored.refined_on, stored.check, stored.chosen_by) == (None, None, None)


def test_budgets_that_hold_together_name_one_entry_and_its_graph(export, tmp_path):
    words = ["--plan-images", "0", "--budget", "params=0.9,macs=0.6", "--budget", "0.8"]
    result = export(tmp_path / "pack", *words)
    assert result.exit_code == 0, result.stderr
    pack = BudgetPack.open(tmp_path / "pack")
    assert [entry.name for entry in pack.entries] == ["dense", "macs-0.8", "macs-0.6+params-0.9"]
    entry = pack.entries[2]
    assert entry.onnx == "macs-0.6+params-0.9.onnx"
    assert entry.plan.budgets == (Budget(limit=0.6), Budget(quantity="params", limit=0.9))
    assert entry.plan.macs_fraction <= 0.6
    stored = sorted(path.name for path in (tmp_path / "pack.scores" / "plans").iterdir())
    assert stored == ["macs-0.6+params-0.9.json", "macs-0.8.json"]


def test_a_loss_budget_is_kept_on_images_that_nothing_was_made_on(export, tmp_path):
    result = export(tmp_path / "pack", "--budget", "loss-nats=0.1")
    assert result.exit_code == 0, result.stderr
    assert "nats on images that it was not made on, standard error included, is over 0.1: tightened" in result.stderr
    entry = BudgetPack.open(tmp_path / "pack").entries[1]
    assert entry.name == "loss-nats-0.1"
    assert entry.plan.check.loss_nats + entry.plan.check.loss_stderr_nats <= 0.1
    assert entry.plan.macs_fraction < 0.9


def test_nested_plans_are_exported_largest_first(export, tmp_path):
    words = ["--plan-images", "0", "--nested", "--budget", "0.5", "--budget", "0.8"]
    assert export(tmp_path / "pack", *words).exit_code == 0
    _, large, small = (entry.plan for entry in BudgetPack.open(tmp_path / "pack").entries)
    assert small.nested_in_sha256 == large.digest()


def test_a_latency_budget_is_met_by_the_device_table(export, tmp_path):
    shape = read_table(scored_beside(export, tmp_path)).info.shape
    make_device_table(shape=shape, tokens=(4, 8, 12, 16, 17), heads=(1, 2, 4)).write(tmp_path / "table.json")
    words = ["--budget", "latency-ms=20", "--device-table", tmp_path / "table.json", "--plan-images", "0"]
    result = export(tmp_path / "pack", *words, "--scores", tmp_path / "first.scores")
    assert result.exit_code == 0, result.stderr
    entry = BudgetPack.open(tmp_path / "pack").entries[1]
    assert entry.name == "latency-ms-20"
    assert 15 < entry.plan.latency_ms <= 20


def scored_beside(export, tmp_path):
    """Export once and return the folder of its scores."""
    assert export(tmp_path / "first", "--budget", "0.9", "--plan-images", "0").exit_code == 0
    return tmp_path / "first.scores"


EARLY = {
    "loss, not measured": (["--budget", "loss-nats=0.1", "--plan-images", "0"], "a plan for loss-nats-0.1 is accepted"),
    "loss, not checked": (["--budget", "loss-nats=0.1", "--check-images", "0"], "a plan for loss-nats-0.1 is accepted"),
    "no table": (["--budget", "latency-ms=4"], "a budget of latency-ms needs a table"),
    "nested quantities": (["--nested", "--budget", "0.7", "--budget", "params=0.9"], "plans are nested by one budget"),
    "symmetric, fewer sites": (["--budget", "0.7", "--symmetric", "--max-sites", "2"], "a symmetric plan drops tokens"),
}


@pytest.mark.parametrize(("words", "message"), EARLY.values(), ids=EARLY)
def test_budgets_and_options_that_do_not_fit_exit_2_before_anything_is_loaded(
    export, tmp_path, monkeypatch, words, message
):
    monkeypatch.setattr("heartvit_edge.model.zoo.load_dense", None)
    result = export(tmp_path / "pack", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: {message}" in result.stderr
    assert "hint: " in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_device_table_of_another_model_is_refused_before_scoring(export, tmp_path, scorer_calls):
    make_device_table().write(tmp_path / "table.json")
    result = export(tmp_path / "pack", "--budget", "latency-ms=4", "--device-table", tmp_path / "table.json")
    assert result.exit_code == 2
    assert "error: the device table is of another model" in result.stderr
    assert scorer_calls == []


def test_an_error_that_has_nothing_to_do_with_named_scores_keeps_its_own_hint(export, tmp_path):
    words = ["--scores", tmp_path / "scores", "--num-images", NUM_IMAGES, "--budget", "loss-nats=0.1"]
    result = export(tmp_path / "pack", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there are no images to check it on" in result.stderr
    assert "hint: give --data more images than --num-images and --held-out-images take for scores" in result.stderr
    assert not (tmp_path / "scores").exists()  # refused before any is scored
    assert "--scores" not in result.stderr.partition("hint: ")[2]


def test_a_plan_made_by_plan_with_the_gate_is_used_again_by_export(run_cli, export, inputs, tmp_path):
    scores, counts = tmp_path / "scores", ["--plan-images", 4, "--check-images", 2]
    assert export(tmp_path / "first", "--budget", "0.9", "--scores", scores, "--plan-images", 0).exit_code == 0
    data = ["--data", inputs / "noise.npz", "--weights", inputs / "w.safetensors"]
    planned = run_cli("plan", scores, *data, *counts, "--gate", "class-attention", "--budget", "0.7")
    assert planned.exit_code == 0, planned.stderr
    result = export(tmp_path / "pack", "--budget", "0.7", "--scores", scores, *counts)
    assert result.exit_code == 0, result.stderr
    assert f"plan {scores / 'plans' / 'macs-0.7.json'} fits and is used again" in result.stderr


def test_baselines_carry_out_each_plan_at_equal_macs_in_their_own_way(export, tmp_path):
    words = ["--plan-images", "0", "--budget", "0.5", "--gate", "attention-received"]
    baselines = [word for name in ("random", "class-attention", "merge") for word in ("--baseline", name)]
    result = export(tmp_path / "pack", *words, *baselines)
    assert result.exit_code == 0, result.stderr
    pack = BudgetPack.open(tmp_path / "pack")
    found = [(entry.name, entry.role, entry.compares_with, entry.gate, entry.reduction) for entry in pack.entries]
    assert found == [
        ("dense", "dense", None, None, "drop"),
        ("macs-0.5", "pruned", None, "attention-received", "drop"),
        ("macs-0.5.random", "baseline", "macs-0.5", "random", "drop"),
        ("macs-0.5.class-attention", "baseline", "macs-0.5", "class-attention", "drop"),
        ("macs-0.5.merge", "baseline", "macs-0.5", None, "merge"),
    ]
    for entry in pack.entries:
        if entry.compares_with is not None:
            assert entry.plan == pack.entry(entry.compares_with).plan
    assert "5/5" in result.stderr


@pytest.mark.parametrize("reduction", ["fuse", "merge"])
def test_a_reduction_stands_in_the_pack_and_its_plans_are_those_of_dropping(export, tmp_path, reduction):
    words = ["--budget", "0.6", "--plan-images", "4", "--check-images", "0"]
    assert export(tmp_path / "drop", *words).exit_code == 0
    result = export(tmp_path / "pack", *words, "--reduction", reduction, "--scores", tmp_path / "drop.scores")
    assert result.exit_code == 0, result.stderr
    dropped, found = (BudgetPack.open(tmp_path / name).entries[1] for name in ("drop", "pack"))
    assert found.plan == dropped.plan
    assert (found.reduction, found.gate) == (reduction, None if reduction == "merge" else "class-attention")
    listed = [output.shape[1] for output in dropped.outputs[1:]]
    expected = [count - 1 for count in listed] if reduction == "fuse" else listed
    assert [output.shape[1] for output in found.outputs[1:]] == expected


def test_a_plan_that_drops_no_token_gets_no_baseline_and_that_is_said(export, tmp_path):
    words = ["--budget", "params=0.9", "--budget", "0.7", "--unit-groups", 4, "--plan-images", 0]
    result = export(tmp_path / "pack", *words, "--baseline", "random")
    assert result.exit_code == 0, result.stderr
    pack = BudgetPack.open(tmp_path / "pack")
    bare = [entry.name for entry in pack.entries[1:] if not entry.plan.sites]
    assert bare
    for name in bare:
        assert f"{name} drops no token, so there is nothing that a baseline would choose otherwise" in result.stderr
        assert f"{name}.random" not in [entry.name for entry in pack.entries]


BAD_BASELINES = {
    "unknown": (["--budget", "0.7", "--baseline", "magic"], "'magic' is not one of"),
    "no budget": (["--baseline", "random"], "no --budget was given"),
    "unknown reduction": (["--budget", "0.7", "--reduction", "pool"], "'pool' is not one of"),
}


@pytest.mark.parametrize(("words", "message"), BAD_BASELINES.values(), ids=BAD_BASELINES)
def test_a_baseline_or_reduction_that_cannot_be_exits_2_before_anything_is_loaded(
    export, tmp_path, monkeypatch, words, message
):
    monkeypatch.setattr("heartvit_edge.model.zoo.load_dense", None)
    result = export(tmp_path / "pack", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_class_attention_baseline_of_a_model_without_class_token_exits_2_before_scoring(
    run_cli, inputs, tmp_path, scorer_calls
):
    variant = "average pooling without class token"
    weights = write_weights(tmp_path / "w.safetensors", variant)
    model = model_options(weights, kwargs=VARIANTS[variant][1])
    words = ["--data", inputs / "noise.npz", *COUNTS, "--budget", "0.7", "--plan-images", 0, "--out", tmp_path / "pack"]
    result = run_cli("export", *model, *words, "--baseline", "class-attention")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: baseline class-attention reads a class token, the model has none" in result.stderr
    assert "hint: leave --baseline class-attention out" in result.stderr
    assert scorer_calls == []
    result = run_cli("export", *model, *words, "--baseline", "random", "--baseline", "merge")
    assert result.exit_code == 0, result.stderr
    names = [entry.name for entry in BudgetPack.open(tmp_path / "pack").entries]
    assert names == ["dense", "macs-0.7", "macs-0.7.random", "macs-0.7.merge"]


def test_mlp_units_that_plans_removed_are_gone_from_the_graphs(export, tmp_path):
    words = ["--unit-groups", 4, "--budget", "params=0.7", "--plan-images", 0]
    assert export(tmp_path / "pack", *words).exit_code == 0
    pack = BudgetPack.open(tmp_path / "pack")
    plan = pack.entry("params-0.7").plan
    assert any(block.kept_units is not None for block in plan.blocks)
    dense, pruned = (onnx.load(tmp_path / "pack" / pack.entry(name).onnx) for name in ("dense", "params-0.7"))
    assert sum(map(_size, pruned.graph.initializer)) < sum(map(_size, dense.graph.initializer))


def _size(tensor):
    return int(np.prod(tensor.dims))


def test_two_exports_of_the_same_input_are_the_same_bytes(export, tmp_path):
    for name in ("one", "two"):
        assert export(tmp_path / name, "--budget", "0.7").exit_code == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_scores_and_plans_whose_inputs_are_the_same_are_used_again(export, tmp_path, scorer_calls):
    scores = tmp_path / "scores"
    export(tmp_path / "one", "--budget", "0.7", "--scores", scores)
    before, scored = state_of(scores), len(scorer_calls)
    assert scored > 0
    result = export(tmp_path / "two", "--budget", "0.7", "--scores", scores)
    assert result.exit_code == 0, result.stderr
    assert f"scores in {scores} fit and are used again" in result.stderr
    assert f"plan {scores / 'plans' / 'macs-0.7.json'} fits and is used again" in result.stderr
    assert len(scorer_calls) == scored
    assert state_of(scores) == before
    assert scores / ARRAYS_FILE in before


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--scorer", "class-attention"], "scorer or setting"),
        (["--sites", "2"], "scorer or setting"),
        (["--num-images", "5"], "image set"),
    ],
)
def test_scores_of_something_else_are_refused_and_left_as_they_are(export, tmp_path, words, what):
    scores = tmp_path / "scores"
    export(tmp_path / "one", "--budget", "0.7", "--scores", scores)
    before = state_of(scores)
    for force in ([], ["--force"]):  # --force is for the pack: scores that were named are the user's
        result = export(tmp_path / "two", "--budget", "0.7", "--scores", scores, *words, *force)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"error: {scores} holds scores of another {what}" in result.stderr
        assert "hint: name another folder with --scores, or leave --scores out" in result.stderr
        assert state_of(scores) == before
        assert not (tmp_path / "two").exists()


def test_scores_of_another_model_are_refused(run_cli, export, inputs, tmp_path):
    export(tmp_path / "one", "--budget", "0.7", "--scores", tmp_path / "scores")
    other = model_options(write_weights(tmp_path / "other.safetensors", seed=1))
    words = ["--data", inputs / "noise.npz", *COUNTS, "--budget", "0.7", "--scores", tmp_path / "scores"]
    result = run_cli("export", *other, *words, "--out", tmp_path / "two")
    assert result.exit_code == 2
    assert "holds scores of another model" in result.stderr


def test_plans_of_another_setting_are_refused(export, tmp_path):
    export(tmp_path / "one", "--budget", "0.7", "--scores", tmp_path / "scores")
    result = export(tmp_path / "two", "--budget", "0.7", "--scores", tmp_path / "scores", "--no-heads")
    assert result.exit_code == 2
    assert "macs-0.7.json was made of other scores, images or settings" in result.stderr
    assert "hint: name another folder with --scores, or leave --scores out" in result.stderr
    assert not (tmp_path / "two").exists()


def test_a_pack_that_exists_is_kept_without_force_before_anything_is_loaded(export, tmp_path, monkeypatch):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "notes.txt").write_text("mine")
    monkeypatch.setattr("heartvit_edge.model.zoo.load_dense", None)
    result = export(tmp_path / "pack", "--budget", "0.7")
    assert result.exit_code == 2
    assert f"error: {tmp_path / 'pack'} exists already" in result.stderr
    assert "--force" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]
    assert (tmp_path / "pack" / "notes.txt").read_text() == "mine"


def test_a_folder_that_is_no_pack_is_refused_even_with_force_before_anything_is_loaded(export, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").write_text("mine")
    monkeypatch.setattr("heartvit_edge.model.zoo.load_dense", None)
    result = export(tmp_path / "photos", "--budget", "0.7", "--force")
    assert result.exit_code == 2
    assert f"error: {tmp_path / 'photos'} is no budget pack" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    assert (tmp_path / "photos" / "notes.txt").read_text() == "mine"


def test_with_force_pack_and_its_own_scores_are_replaced(export, tmp_path):
    export(tmp_path / "pack", "--budget", "0.7", "--sites", "1,2")
    result = export(tmp_path / "pack", "--budget", "0.6", "--sites", "2", "--force")
    assert result.exit_code == 0, result.stderr
    assert [entry.name for entry in BudgetPack.open(tmp_path / "pack").entries] == ["dense", "macs-0.6"]
    assert read_table(tmp_path / "pack.scores").info.settings.sites == (2,)


@pytest.mark.parametrize("budget", ["0", "-0.5", "1.5", "nan", "half", "macs=2"])
def test_a_budget_outside_its_range_exits_2_before_anything_is_loaded(export, tmp_path, monkeypatch, budget):
    monkeypatch.setattr("heartvit_edge.model.zoo.load_dense", None)
    result = export(tmp_path / "pack", "--budget", "0.7", f"--budget={budget}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: budget {budget!r} ")
    assert "(0, 1]" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_budget_exits_2_with_an_example(export, tmp_path):
    result = export(tmp_path / "pack")
    assert result.exit_code == 2
    assert result.stderr == "error: no --budget was given\nhint: for example: --budget 0.7 --budget 0.5\n"


def test_a_budget_that_no_plan_meets_exits_4_and_leaves_no_pack(export, tmp_path):
    result = export(tmp_path / "pack", "--budget", "0.01")
    assert result.exit_code == 4
    assert "is the least" in result.stderr
    assert not (tmp_path / "pack").exists()


@pytest.mark.parametrize("out", [".", "..", "/"])
def test_a_place_that_is_no_folder_of_its_own_is_refused(export, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    result = export(out, "--budget", "0.7", "--force")
    assert result.exit_code == 2
    assert f"error: --out {out} is no folder of its own" in result.stderr


def test_an_unknown_gate_is_named_with_those_there_are(export, tmp_path):
    result = export(tmp_path / "pack", "--budget", "0.7", "--gate", "oracle")
    assert result.exit_code == 2
    for word in ("--gate", "oracle", "class-attention", "attention-received"):
        assert word in result.stderr


def test_the_gate_asked_for_is_the_one_exported(export, tmp_path):
    export(tmp_path / "pack", "--budget", "0.7", "--gate", "attention-received")
    assert BudgetPack.open(tmp_path / "pack").entries[1].gate == "attention-received"


@pytest.fixture
def export_pooled(run_cli, inputs, tmp_path):
    """Export a model without class token."""
    variant = "average pooling without class token"
    words = [NAME, "--img-size", IMG_SIZE, "--weights", write_weights(tmp_path / "pooled.safetensors", variant)]
    for pair in kwargs_pairs(VARIANTS[variant][1]):
        words += ["--model-kwargs", pair]
    data = ["--data", inputs / "noise.npz", *COUNTS, "--budget", "0.7"]
    return lambda *more: run_cli("export", *words, *data, "--out", tmp_path / "pack", *more)


def test_a_model_without_class_token_is_gated_by_the_attention_received(export_pooled, tmp_path):
    result = export_pooled()
    assert result.exit_code == 0, result.stderr
    pack = BudgetPack.open(tmp_path / "pack")
    assert (pack.shape.pool, pack.shape.num_prefix_tokens) == ("avg", 0)
    assert pack.entries[1].gate == "attention-received"


def test_a_gate_that_the_model_cannot_feed_is_refused_before_scoring(export_pooled, scorer_calls, tmp_path):
    result = export_pooled("--gate", "class-attention")
    assert result.exit_code == 2
    assert "error: gate class-attention reads a class token, the model has none" in result.stderr
    assert "hint: --gate attention-received" in result.stderr
    assert scorer_calls == []
    assert not (tmp_path / "pack").exists()


@pytest.mark.parametrize(("folders", "expected"), [(list("vwxyz"), tuple("vwxyz")), (list("vwx"), ())])
def test_class_names_come_from_the_folder_where_it_has_one_for_each_class(export, tmp_path, pixels, folders, expected):
    for index, image in enumerate(pixels):
        path = tmp_path / "pets" / folders[index % len(folders)] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    result = export(tmp_path / "pack", "--budget", "0.7", data=tmp_path / "pets")
    assert result.exit_code == 0, result.stderr
    assert BudgetPack.open(tmp_path / "pack").classes == expected
    assert ("the images name 3 of the model's 5 classes" in result.stderr) == (expected == ())


def test_a_graph_that_differs_from_pytorch_exits_5_and_leaves_the_scores_but_no_pack(export, tmp_path, monkeypatch):
    write = making.store_graph

    def perturbed(source, path, **given):
        module = copy.deepcopy(source.module)
        module.backbone.head.bias += 0.5
        write(dataclasses.replace(source, module=module), path, **given)

    monkeypatch.setattr(making, "store_graph", perturbed)
    result = export(tmp_path / "pack", "--budget", "0.7")
    assert (result.exit_code, result.stdout) == (5, "")
    assert "error: dense: logits differ from PyTorch by 0.5" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pack.scores"]
    monkeypatch.setattr(making, "store_graph", write)
    again = export(tmp_path / "pack", "--budget", "0.7")
    assert again.exit_code == 0
    assert "fit and are used again" in again.stderr


def test_ctrl_c_while_scoring_leaves_no_map_and_no_pack_and_the_next_run_goes_on(export, tmp_path, scorer_calls):
    export(tmp_path / "whole", "--budget", "0.7")
    calls_of_a_whole_run = list(scorer_calls)
    scorer_calls.clear()
    scorer_calls.stop_after = 2
    result = export(tmp_path / "pack", "--budget", "0.7")
    assert result.exit_code != 0
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "pack").exists()
    assert not (tmp_path / "pack.scores" / MAP_FILE).exists()
    assert not (tmp_path / "pack.scores" / ARRAYS_FILE).exists()
    assert not (tmp_path / "pack.scores" / "plans").exists()

    scorer_calls.stop_after = None
    assert export(tmp_path / "pack", "--budget", "0.7").exit_code == 0
    assert list(scorer_calls) == calls_of_a_whole_run  # no batch was scored twice
    assert sorted(path.name for path in (tmp_path / "pack.scores").iterdir()) == ["plans", MAP_FILE, ARRAYS_FILE]
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "pack" / path.name).read_bytes()


def test_ctrl_c_while_exporting_leaves_no_pack(export, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(forms, "check_parity", interrupted)
    result = export(tmp_path / "pack", "--budget", "0.7")
    assert result.exit_code != 0
    assert [path.name for path in tmp_path.iterdir()] == ["pack.scores"]


def test_graphs_that_take_any_count_are_shared_and_run_with_each_budgets(export, run_cli, inputs, tmp_path):
    words = ["--budget", "0.8", "--budget", "0.6", "--sites", "1,2", "--symmetric", "--no-heads"]
    result = export(tmp_path / "pack", *words, "--form", "adaptive-shape", "--parity-batch-sizes", "1,3")
    assert result.exit_code == 0, result.stderr
    pack = BudgetPack.open(tmp_path / "pack")
    large, small = pack.entries[1:]
    assert [entry.form for entry in pack.entries] == ["static", "adaptive-shape", "adaptive-shape"]
    assert large.onnx == small.onnx == "adaptive-shape.onnx"
    assert large.num_keep != small.num_keep
    assert all(entry.parity.batch_sizes == (1, 3) for entry in pack.entries)
    assert "macs-0.8 and macs-0.6 share adaptive-shape.onnx" in result.stderr
    store = ["--engines", tmp_path / "engines"]
    built = run_cli("build-engine", tmp_path / "pack", "--backend", "onnxruntime", *store)
    assert built.exit_code == 0, built.stderr
    data = ["--data", inputs / "noise.npz", "--out", tmp_path / "run", *store]
    assert run_cli("evaluate", tmp_path / "pack", *data).exit_code == 0
    words = ["--duration", "0.02", "--trials", "1", "--batch-size", "1", "--out", tmp_path / "run", *store]
    assert run_cli("bench", tmp_path / "pack", *words).exit_code == 0


def test_plans_that_cannot_share_a_graph_are_told_with_what_would_make_it_one(export, tmp_path):
    words = ["--budget", "0.8", "--budget", "0.5", "--sites", "1,2", "--form", "adaptive-shape"]
    result = export(tmp_path / "pack", *words)
    assert result.exit_code == 0, result.stderr
    assert "adaptive-shape-2.onnx" in result.stderr
    assert "differ; one graph for all: --" in result.stderr


def test_the_weights_of_static_graphs_go_into_one_file_where_that_is_asked(export, tmp_path):
    words = ["--budget", "0.8", "--budget", "0.6", "--no-heads"]
    assert export(tmp_path / "pack", *words).exit_code == 0
    assert export(tmp_path / "aside", *words, "--external-data").exit_code == 0
    whole, aside = (BudgetPack.open(tmp_path / name) for name in ("pack", "aside"))
    assert (whole.weights, aside.weights) == (None, "weights.bin")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "aside").iterdir()}
    one = (tmp_path / "pack" / "dense.onnx").stat().st_size
    assert sizes["weights.bin"] < 1.5 * one  # aligned to pages, and each tensor of three graphs once


@pytest.mark.parametrize("sizes", ["0", "1,x", ""])
def test_batch_sizes_that_are_none_are_refused(export, tmp_path, sizes):
    result = export(tmp_path / "pack", "--budget", "0.7", "--parity-batch-sizes", sizes)
    assert result.exit_code == 2
    assert "--parity-batch-sizes" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reduction", ["drop", "fuse", "merge"])
def test_a_stem_and_tails_are_built_evaluated_and_measured(export, run_cli, inputs, tmp_path, reduction):
    words = ["--budget", "0.6", "--no-heads", "--form", "adaptive-input", "--buckets", "3", "--reduction", reduction]
    result = export(tmp_path / "pack", *words)
    assert result.exit_code == 0, result.stderr
    entry = BudgetPack.open(tmp_path / "pack").entries[1]
    assert (entry.form, entry.routing.images.num_images) == ("adaptive-input", SCORED)
    assert 1 <= len(entry.routing.tails) <= 3
    assert entry.routing.check.images.num_images == NUM_IMAGES - SCORED - 2
    assert "tails by the share of scored images that need them" in result.stderr
    assert "on 2 other images it loses" in result.stderr
    store = ["--engines", tmp_path / "engines"]
    built = run_cli("build-engine", tmp_path / "pack", "--backend", "onnxruntime", *store)
    assert built.exit_code == 0, built.stderr
    data = ["--data", inputs / "noise.npz", "--out", tmp_path / "run", *store]
    assert run_cli("evaluate", tmp_path / "pack", *data).exit_code == 0
    words = ["--duration", "0.02", "--trials", "1", "--batch-size", "1", "--out", tmp_path / "run", *store]
    measured = run_cli("bench", tmp_path / "pack", *words)
    assert measured.exit_code == 0, measured.stderr
    page = run_cli("report", tmp_path / "run", "--out", tmp_path / "page.html")
    assert page.exit_code == 0, page.stderr


def test_buckets_without_tails_are_refused(export, tmp_path):
    result = export(tmp_path / "pack", "--budget", "0.7", "--buckets", "3")
    assert result.exit_code == 2
    assert "--form adaptive-input" in result.stderr
    assert list(tmp_path.iterdir()) == []
