"""``heartvit-edge export --gate learned`` and ``--finetuned``, and ``finetune`` of what they wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from fakes.finetune_runs import entry
from fakes.learned import trained_gate
from fakes.tiny_vit import IMG_SIZE, images, load_tiny, model_options, write_weights

from heartvit_edge.cli import learned_gates
from heartvit_edge.errors import InputError
from heartvit_edge.export.entries import planned_entries
from heartvit_edge.export.finetuned import Tuned, with_finetuned
from heartvit_edge.finetune.load import load_finetuned
from heartvit_edge.gating.distil import DistilSettings
from heartvit_edge.gating.fitted import with_fitted
from heartvit_edge.gating.stored import load_gate
from heartvit_edge.model.checkpoint import read_tensors, state_sha256
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.finetune import FINETUNE, FinetuneRun
from heartvit_edge.spec.gate import TrainedGate
from heartvit_edge.spec.pack import MANIFEST, BudgetPack
from heartvit_edge.spec.plan import PruningPlan

NUM_IMAGES = 50  # 8 scored, 2 held out, 4 checked on: 36 are left
COUNTS = ["--num-images", 8, "--held-out-images", 2, "--plan-images", 4, "--check-images", 4, "--batch-size", 4]
LABEL = "macs-0.7"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Return a folder with weights, and noise as an npz."""
    folder = tmp_path_factory.mktemp("inputs")
    write_weights(folder / "w.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, IMG_SIZE, IMG_SIZE, 3), dtype=np.uint8)
    np.savez(folder / "noise.npz", images=pixels)
    np.savez(folder / "few.npz", images=pixels[:45])
    return folder


@pytest.fixture
def run(run_cli, inputs):
    def run(command, *words, data="noise.npz"):
        model = model_options(inputs / "w.safetensors")
        if command == "export":
            common = [*model, "--data", inputs / data, *COUNTS, "--sites", "1,3", "--budget", "0.7", "--no-heads"]
            return run_cli("export", *common, *words)
        options = ["--data", inputs / data, "--held-out-images", 10, "--batch-size", 8, "--workers", 0, "--epochs", 1]
        return run_cli("finetune", words[0], *model, *options, *words[1:])

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the folder in which the first test that asks for it leaves a pack with a learned gate and its scores."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def pack(run, made):
    """Return a pack whose gate learnt, made once for this module."""
    if not (made / "pack").exists():
        result = run("export", "--gate", "learned", "--baseline", "random", "--out", made / "pack")
        assert result.exit_code == 0, result.stderr
        (made / "said.txt").write_text(result.stderr)
    return made / "pack"


@pytest.fixture
def tuned(run, made, pack):
    """Return a fine-tune of the pack's gate and weights, with its control, made once for this module."""
    if not (made / "tuned").exists():
        result = run("finetune", pack, "--control", "--out", made / "tuned", "--seed", 1)
        assert result.exit_code == 0, result.stderr
    return made / "tuned"


@pytest.fixture
def both(run, made, tuned):
    """Return a pack of the same plan with its baseline and what was fine-tuned, made once for this module."""
    if not (made / "both").exists():
        words = ["--gate", "learned", "--scores", made / "pack.scores", "--baseline", "random", "--finetuned", tuned]
        result = run("export", *words, "--finetuned", tuned, "--out", made / "both")
        assert result.exit_code == 0, result.stderr
    return made / "both"


def test_the_pack_carries_the_gate_that_learnt_for_the_plan_that_the_scores_made(pack, made):
    entry = BudgetPack.open(pack).entry(LABEL)
    plan = PruningPlan.read(made / "pack.scores" / "plans" / f"{LABEL}.json")
    known = TrainedGate.read(made / "pack.scores" / "gates" / f"{LABEL}.json")
    assert (entry.gate, entry.plan, plan.chosen_by) == ("learned", plan, "scores")
    assert known.fitted_from_sha256 == known.plan_sha256 == plan.digest()  # noise: no other counts are surely better
    assert (known.images.num_images, known.held_out.num_images) == (32, 4)
    assert entry.gate_weights_sha256 == known.weights_sha256 == sha256_file(pack / entry.gate_weights)
    assert entry.gate_macs == known.macs
    assert entry.macs == plan.macs + known.macs
    assert entry.parity.num_images == 8
    assert BudgetPack.open(pack).entry(f"{LABEL}.random").gate_macs is None


@pytest.mark.usefixtures("pack")
def test_what_was_learnt_from_and_how_well_is_said(made):
    said = (made / "said.txt").read_text()
    known = TrainedGate.read(made / "pack.scores" / "gates" / f"{LABEL}.json")
    assert "gates learn from 32 images and are measured on 4 others (36 of 1024 are left)" in said
    for text in ("scoring tokens for the gate", "teaching the gate", "exporting and checking"):
        assert text in said
    first = known.sites[0]
    assert f"{first.mass_kept:.3f} of {first.best_mass_kept:.3f} at block {first.block}" in said
    assert f"loses {known.answers.kl_nats:.3g} ± {known.answers.kl_stderr_nats:.2g} nats" in said
    assert f"{known.answers.num_agreeing / 4:.3f} agreement on 4 held-out images" in said
    assert f"{known.macs_fraction:.2%} of the dense MACs" in said


def test_a_gate_that_fits_is_used_again_and_not_taught(run, made, pack, tmp_path, monkeypatch):
    monkeypatch.setattr("heartvit_edge.gating.learn.learn_gate", None)
    words = ["--gate", "learned", "--scores", made / "pack.scores", "--reduction", "fuse", "--out", tmp_path / "again"]
    result = run("export", *words)
    assert result.exit_code == 0, result.stderr
    assert f"gate {made / 'pack.scores' / 'gates' / LABEL}.json fits and is used again" in result.stderr
    first, again = BudgetPack.open(pack).entry(LABEL), BudgetPack.open(tmp_path / "again").entry(LABEL)
    assert (again.gate, again.reduction) == ("learned", "fuse")
    assert again.gate_weights_sha256 == first.gate_weights_sha256


@pytest.mark.usefixtures("pack")
def test_a_gate_that_learnt_otherwise_is_refused_and_left_as_it_is(run, made, tmp_path):
    path = made / "pack.scores" / "gates" / f"{LABEL}.json"
    before = path.read_bytes()
    words = ["--gate", "learned", "--gate-images", 33, "--scores", made / "pack.scores", "--out", tmp_path / "again"]
    result = run("export", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{path} learnt for another plan, or from other images or settings" in result.stderr
    assert "hint: name another folder with --scores, or leave --scores out" in result.stderr
    assert path.read_bytes() == before
    assert not (tmp_path / "again").exists()


@pytest.fixture
def fitting(pack, monkeypatch):
    """Let the search find that the first site should keep a token more, and the last one fewer."""

    def found(plan, _gate, _images, _held_out, cost, _effort, _reduction):
        counts = {site: tokens - 1 for site, tokens in plan.sites.items()}
        first, last = min(counts), max(counts)
        return with_fitted(plan, counts | {first: counts[first] + 1, last: counts[last] - 1}, cost)

    monkeypatch.setattr("heartvit_edge.gating.learn.fitted_plan", found)
    return pack  # made with the search as it is


def test_counts_that_fit_the_gate_are_those_of_the_pack_and_lie_beside_it(run, made, fitting, tmp_path):
    again = ["--gate", "learned", "--scores", tmp_path / "scores", "--out"]
    result = run("export", *again, tmp_path / "pack")
    assert result.exit_code == 0, result.stderr
    before = PruningPlan.read(tmp_path / "scores" / "plans" / f"{LABEL}.json")
    assert before == PruningPlan.read(made / "pack.scores" / "plans" / f"{LABEL}.json")
    entry, folder = BudgetPack.open(tmp_path / "pack").entry(LABEL), tmp_path / "scores" / "gates"
    own, known = PruningPlan.read(folder / f"{LABEL}.plan.json"), TrainedGate.read(folder / f"{LABEL}.json")
    first, last = min(before.sites), max(before.sites)
    assert own.sites == before.sites | {first: before.sites[first] + 1, last: before.sites[last] - 1}
    assert (entry.plan, own.chosen_by, own.check) == (own, "learned", None)
    assert (own.refined_on, own.decided_on) == (known.images, known.held_out)
    assert (known.plan_sha256, known.fitted_from_sha256) == (own.digest(), before.digest())
    assert own.predicted_loss_nats == known.answers.kl_nats
    assert f"{LABEL}: counts fitted to its gate: {own.sites[first]} tokens from block {first}" in result.stderr
    assert entry.onnx_sha256 != BudgetPack.open(fitting).entry(LABEL).onnx_sha256
    session = onnxruntime.InferenceSession(tmp_path / "pack" / f"{LABEL}.onnx", providers=["CPUExecutionProvider"])
    kept = session.run([f"kept_{last}"], {"images": images(2).numpy()})[0]
    assert kept.shape == (2, own.sites[last] - 1)
    result = run("export", *again, tmp_path / "again")
    assert result.exit_code == 0, result.stderr
    assert f"gate {folder / LABEL}.json fits and is used again" in result.stderr
    assert BudgetPack.open(tmp_path / "again").entry(LABEL).onnx_sha256 == entry.onnx_sha256
    result = run("export", "--keep-counts", *again, tmp_path / "kept")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "has token counts fitted to it, and --keep-counts asks for the plan's" in result.stderr
    words = ["--gate", folder / f"{LABEL}.json", "--gates-only", "--out", tmp_path / "run"]
    result = run("finetune", folder / f"{LABEL}.plan.json", *words)
    assert result.exit_code == 0, result.stderr
    result = run("finetune", tmp_path / "scores" / "plans" / f"{LABEL}.json", *words)
    assert result.exit_code == 2
    assert f"hint: name the plan beside the gate, {folder / LABEL}.plan.json" in result.stderr


def test_counts_are_kept_where_asked(run, fitting, tmp_path):
    result = run("export", "--gate", "learned", "--keep-counts", "--out", tmp_path / "pack")
    assert result.exit_code == 0, result.stderr
    assert BudgetPack.open(tmp_path / "pack").entry(LABEL).plan == BudgetPack.open(fitting).entry(LABEL).plan


@pytest.mark.parametrize(("allowed", "over"), [(0.99, True), (1.01, False)])
def test_a_gate_over_its_plans_loss_budget_is_told(capsys, allowed, over):
    found = trained_gate()
    loses = found.answers.kl_nats + found.answers.kl_stderr_nats
    budget = Budget(quantity="loss-nats", limit=allowed * loses)
    learned_gates.tell_gate(found, entry().plan.model_copy(update={"budgets": (budget,)}))
    said = capsys.readouterr().err
    assert f"loses {found.answers.kl_nats:.3g} ± " in said
    assert (f"over its budget of {budget.limit:g}, which holds with the scores choosing" in said) is over


UNFITTED = {
    "no gate learns": ([], "counts are fitted to a gate that learns"),
    "symmetric": (["--gate", "learned", "--symmetric"], "a symmetric plan keeps the same share at every site"),
    "nested": (["--gate", "learned", "--nested"], "a nested plan keeps what a smaller one keeps"),
    "adaptive": (["--gate", "learned", "--form", "adaptive-shape"], "--form adaptive-shape has its counts set"),
}


@pytest.mark.parametrize(("words", "reason"), UNFITTED.values(), ids=UNFITTED)
def test_counts_that_cannot_be_fitted_exit_2_before_anything_is_scored(run, tmp_path, words, reason):
    result = run("export", "--fit-counts", *words, "--out", tmp_path / "pack")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"--fit-counts cannot be: {reason}" in result.stderr
    assert "hint: " in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_few_images_are_learnt_from_in_batches_that_leave_some_steps_an_epoch(inputs):
    from heartvit_edge.data.images import list_images

    dense = load_tiny(inputs)
    lesson = learned_gates.draw_lesson(dense, list_images(inputs / "noise.npz"), 10, 100, 3)
    assert (len(lesson.images), len(lesson.held_out)) == (35, 5)
    assert lesson.settings == DistilSettings(batch_size=8, seed=3)


REFUSED = {
    "too few images": (["--gate", "learned"], "few.npz", "few.npz has 45 images, of which 31 are left to teach a gate"),
    "merge": (["--gate", "learned", "--reduction", "merge"], "noise.npz", "--reduction merge goes by likeness"),
    "join without it": (["--reduction", "join"], "noise.npz", "--reduction join weighs nats against likeness"),
    "images for no gate": (["--gate-images", "40"], "noise.npz", "--gate-images teach a gate, and none is to learn"),
    "scores that cannot choose": (
        ["--gate", "learned", "--scorer", "taylor"],
        "noise.npz",
        "those of taylor cannot be taken again on the tokens left",
    ),
}


@pytest.mark.parametrize(("words", "data", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_learnt_exits_2_before_anything_is_scored(run, tmp_path, words, data, message):
    result = run("export", *words, "--out", tmp_path / "pack", data=data)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "hint: " in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_gates_alone_are_trained_from_the_weights_of_the_pack(run, pack, tmp_path):
    result = run("finetune", pack, "--gates-only", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    stored = FinetuneRun.read(tmp_path / "run" / FINETUNE)
    (entry,), recipe = stored.entries, stored.recipe
    assert (recipe.feature_weight, recipe.gate_weight) == (0, 1)
    weights = pack / BudgetPack.open(pack).entry(LABEL).gate_weights
    assert (entry.name, entry.gate) == (LABEL, "learned")
    assert entry.gate_from_sha256 == state_sha256(read_tensors(weights))
    after = read_tensors(tmp_path / "run" / entry.gate_weights)
    assert any(not (after[name] == value).all() for name, value in read_tensors(weights).items())


@pytest.mark.usefixtures("pack")
def test_a_gate_is_named_by_its_file_for_a_plan(run, made, tmp_path):
    folder = made / "pack.scores"
    plan, gate = folder / "plans" / f"{LABEL}.json", folder / "gates" / f"{LABEL}.json"
    result = run("finetune", plan, "--gate", gate, "--gates-only", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    (entry,) = FinetuneRun.read(tmp_path / "run" / FINETUNE).entries
    weights = load_gate(gate, PruningPlan.read(plan)).state_dict()
    assert (entry.gate, entry.gate_from_sha256) == ("learned", state_sha256(weights))
    result = run("finetune", plan, "--gate", "magic", "--out", tmp_path / "other")
    assert result.exit_code == 2
    assert "--gate 'magic' is no gate, expected one of class-attention, attention-received" in result.stderr


def test_a_baseline_and_a_fused_entry_are_no_start_of_a_training(run, made, pack, tmp_path):
    result = run("finetune", pack, "--budget", f"{LABEL}.random", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert f"{LABEL}.random is a baseline entry" in result.stderr
    assert f"hint: --budget {LABEL}" in result.stderr
    words = ["--gate", "learned", "--scores", made / "pack.scores", "--reduction", "fuse", "--out", tmp_path / "fused"]
    assert run("export", *words).exit_code == 0
    result = run("finetune", tmp_path / "fused", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert f"{LABEL} does not drop tokens but fuses them, which is not trained" in result.stderr


@pytest.fixture
def joined(run, made):
    """Return a folder with a pack whose tokens join, and its scores, made once for this module."""
    folder = made / "joined"
    if not folder.exists():
        words = ["--gate", "learned", "--keep-counts", "--scores", folder / "scores", "--reduction", "join"]
        result = run("export", *words, "--out", folder / "pack")
        assert result.exit_code == 0, result.stderr
    return folder


def test_a_gate_for_joining_is_taught_by_what_joining_leaves_and_serves_nothing_else(run, joined, tmp_path):
    words = ["--gate", "learned", "--keep-counts", "--scores", joined / "scores", "--out"]
    gate = joined / "scores" / "gates" / f"{LABEL}.json"
    known, found = TrainedGate.read(gate), BudgetPack.open(joined / "pack").entry(LABEL)
    assert (known.reduction, found.reduction, found.gate) == ("join", "join", "learned")
    result = run("export", *words, tmp_path / "dropped")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{gate} learnt where tokens join others, and here they are dropped" in result.stderr
    assert "hint: " in result.stderr


def test_what_joins_is_trained_behind_its_gate_and_exported_as_it_was_trained(run, inputs, joined, tmp_path):
    gate, plan = (joined / "scores" / "gates" / f"{LABEL}{end}" for end in (".json", ".plan.json"))
    for number, words in enumerate(([joined / "pack"], [plan, "--gate", gate])):
        result = run("finetune", *words, "--out", tmp_path / f"run-{number}")
        assert result.exit_code == 0, result.stderr
        (stored,) = FinetuneRun.read(tmp_path / f"run-{number}" / FINETUNE).entries
        assert stored.reduction == "join"
        result = run("finetune", *words, "--gates-only", "--out", tmp_path / "gates")
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"{LABEL}: a gate is trained as if tokens were dropped, and here they join others" in result.stderr
        assert "hint: leave --gates-only and --gate-weight out" in result.stderr
    words = ["--gate", "learned", "--keep-counts", "--scores", joined / "scores", "--reduction", "join"]
    result = run("export", *words, "--finetuned", tmp_path / "run-0", "--out", tmp_path / "pack")
    assert result.exit_code == 0, result.stderr
    assert BudgetPack.open(tmp_path / "pack").entry(f"{LABEL}.finetuned").reduction == "join"
    batch = images(6)
    session = onnxruntime.InferenceSession(
        tmp_path / "pack" / f"{LABEL}.finetuned.onnx", providers=["CPUExecutionProvider"]
    )
    model = load_finetuned(tmp_path / "run-0", LABEL, load_tiny(inputs))
    with torch.no_grad():
        expected = model(batch)[0].numpy()
        model.reduction = "drop"
        dropped = model(batch)[0].numpy()
    logits = session.run(["logits"], {"images": batch.numpy()})[0]
    np.testing.assert_allclose(logits, expected, atol=1e-4 * float(abs(expected).max()))
    assert abs(logits - dropped).max() > 1e-2 * float(abs(expected).max())


def test_fine_tuned_models_stand_beside_those_they_compare_with(pack, tuned, both):
    found = BudgetPack.open(both)
    assert [(entry.name, entry.role, entry.compares_with, entry.gate) for entry in found.entries] == [
        ("dense", "dense", None, None),
        ("control", "control", "dense", None),
        (LABEL, "pruned", None, "learned"),
        (f"{LABEL}.finetuned", "finetuned", LABEL, "learned"),
        (f"{LABEL}.random", "baseline", LABEL, "random"),
    ]
    own, trained = found.entry(LABEL), found.entry(f"{LABEL}.finetuned")
    assert trained.plan == own.plan
    assert trained.onnx_sha256 != own.onnx_sha256
    assert own.onnx_sha256 == BudgetPack.open(pack).entry(LABEL).onnx_sha256
    stored = FinetuneRun.read(tuned / FINETUNE).find(LABEL)
    weights = read_tensors(both / trained.gate_weights)
    assert state_sha256(weights) == state_sha256(read_tensors(tuned / stored.gate_weights))


def test_the_graph_of_a_fine_tuned_entry_answers_as_the_fine_tuned_model(tuned, both, inputs):
    dense, batch = load_tiny(inputs), images(6)
    for name, stored in ((f"{LABEL}.finetuned", LABEL), ("control", "control")):
        session = onnxruntime.InferenceSession(both / f"{name}.onnx", providers=["CPUExecutionProvider"])
        with torch.no_grad():
            expected = load_finetuned(tuned, stored, dense)(batch)
        expected = expected[0] if isinstance(expected, tuple) else expected
        logits = session.run(["logits"], {"images": batch.numpy()})[0]
        np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4 * float(expected.abs().max()))


def test_a_run_of_another_plan_or_of_none_of_the_packs_is_refused(run, tuned, tmp_path):
    words = ["--finetuned", tuned, "--out", tmp_path / "pack"]
    result = run("export", *words)  # the same budget, with the plan that class attention made
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{tuned} holds {LABEL} of another plan than this pack's" in result.stderr
    assert "--scores PACK.scores" in result.stderr
    assert not (tmp_path / "pack").exists()
    alone = FinetuneRun.read(tuned / FINETUNE)
    alone = alone.model_copy(update={"entries": alone.entries[:1]})
    alone.write(tmp_path / "alone" / FINETUNE)
    words = ["--plan-images", 0, "--budget", "0.9", "--scores", tmp_path / "scores", "--out", tmp_path / "pack"]
    run_words = [*words, "--finetuned", tmp_path / "alone"]
    renamed = alone.entries[0].model_copy(update={"name": "macs-0.3"})
    alone.model_copy(update={"entries": (renamed,)}).write(tmp_path / "alone" / FINETUNE, force=True)
    result = run("export", *run_words)
    assert result.exit_code == 2
    assert "holds macs-0.3, and this pack's plans are macs-0.9, macs-0.7" in result.stderr


def test_one_entry_of_each_name_has_room_and_what_has_no_place_is_told(pack, tuned, inputs):
    dense, plan = load_tiny(inputs), BudgetPack.open(pack).entry(LABEL).plan
    entries = planned_entries(dense, [plan], "class-attention")
    first = FinetuneRun.read(tuned / FINETUNE)
    model, control = first.entries
    other = first.model_copy(update={"entries": (model.model_copy(update={"weights_sha256": "f" * 64}),)})
    with pytest.raises(InputError, match=f"elsewhere holds another {LABEL} than a run named before it"):
        with_finetuned(entries, dense, [Tuned(tuned, first), Tuned(Path("elsewhere"), other)], print)
    again = first.model_copy(update={"entries": (control, model.model_copy(update={"name": "macs-0.3"}))})
    told = []
    found = with_finetuned(entries, dense, [Tuned(tuned, first), Tuned(tuned, again)], told.append)
    assert [entry.name for entry in found] == ["dense", "control", LABEL, f"{LABEL}.finetuned"]
    assert told == [f"{tuned}: macs-0.3 is no entry of this pack and is left out"]


@pytest.mark.usefixtures("tuned")
def test_a_run_of_another_model_is_refused_before_anything_is_scored(run_cli, inputs, tuned, tmp_path):
    other = model_options(write_weights(tmp_path / "other.safetensors", seed=3))
    words = ["--data", inputs / "noise.npz", *COUNTS, "--budget", "0.7", "--finetuned", tuned, "--out"]
    result = run_cli("export", *other, *words, tmp_path / "pack")
    assert result.exit_code == 2
    assert f"{tuned} was made from vit_tiny_patch16_224 with other weights or another shape" in result.stderr
    assert "scoring" not in result.stderr
    result = run_cli("export", *other, *words[:-3], "--finetuned", tmp_path, "--out", tmp_path / "pack")
    assert result.exit_code == 2
    assert f"cannot read {tmp_path / FINETUNE}" in result.stderr
    assert not (tmp_path / "pack" / MANIFEST).exists()
