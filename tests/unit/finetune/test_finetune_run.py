"""What a fine-tune trains, counts, keeps and refuses."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from fakes.small_finetune import NUM_HELD_OUT, RECIPE, image_parts, pruning_plan, run_small, write_images
from fakes.tiny_vit import load_tiny, plan_of
from fakes.trainable_gate import TrainableGate
from torch.nn import functional

from heartvit_edge.data.preprocess import preprocess
from heartvit_edge.errors import CheckError, InputError
from heartvit_edge.finetune.data import TrainingImages
from heartvit_edge.finetune.folder import LOGS
from heartvit_edge.finetune.load import load_finetuned
from heartvit_edge.finetune.subject import Subject
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.model.checkpoint import read_tensors, state_sha256
from heartvit_edge.spec.finetune import FINETUNE, FinetuneRun


def with_gate(dense, **kwargs):
    return [Subject(pruning_plan(dense), TrainableGate(dense.shape.embed_dim, 1, **kwargs))]


def held_out_inputs(dense, data):
    """Return the inputs (B, 3, S, S) and labels (B,) of the held-out images."""
    images = image_parts(data)[1]
    (batch,) = preprocess(images, dense.preprocessing, len(images))
    return torch.from_numpy(batch), torch.from_numpy(images.labels)


@pytest.fixture(scope="module")
def made(dense, data, tmp_path_factory):
    """Return the folder of a run with its control, taught by labels too, and the run."""
    out = tmp_path_factory.mktemp("made") / "run"
    return out, run_small(dense, data, out, RECIPE.model_copy(update={"label_weight": 0.5}), control=True)


def test_what_is_returned_is_what_is_stored(made):
    out, run = made
    assert FinetuneRun.read(out / FINETUNE) == run
    assert [entry.name for entry in run.entries] == ["macs-0.5", "control"]
    assert [len(entry.history) for entry in run.entries] == [RECIPE.epochs] * 2


def test_the_stored_answers_are_those_of_the_stored_weights(dense, data, made):
    out, run = made
    inputs, labels = held_out_inputs(dense, data)
    expected = dense.module(inputs)
    for entry in run.entries:
        model = load_finetuned(out, entry.name, dense)
        with torch.no_grad():
            logits = model(inputs) if entry.plan is None else model(inputs)[0]
        kl = functional.kl_div(logits.log_softmax(1), expected.softmax(1), reduction="none").sum(1)
        assert entry.after.kl_nats == pytest.approx(kl.mean().item(), rel=1e-4, abs=1e-7)
        assert entry.after.kl_stderr_nats == pytest.approx(kl.std().item() / math.sqrt(NUM_HELD_OUT), rel=1e-4)
        assert entry.after.num_agreeing == (logits.argmax(1) == expected.argmax(1)).sum()
        assert entry.after.num_correct == (logits.argmax(1) == labels).sum()
        assert entry.after.num_images == NUM_HELD_OUT


def test_before_the_first_step_a_plan_answers_as_its_gated_model_and_the_control_as_the_dense_model(dense, data, made):
    _, run = made
    inputs, _ = held_out_inputs(dense, data)
    pruned = GatedViT(dense.module, pruning_plan(dense), "class-attention")(inputs)[0]
    agreeing = (pruned.argmax(1) == dense.module(inputs).argmax(1)).sum()
    assert run.entries[0].before.num_agreeing == agreeing < NUM_HELD_OUT
    assert run.entries[1].before == run.dense
    assert (run.dense.kl_nats, run.dense.num_agreeing) == (0, NUM_HELD_OUT)


def test_training_lowers_its_loss(dense, data, tmp_path):
    longer = RECIPE.model_copy(update={"epochs": 6, "augmentation": "none", "learning_rate": 3e-3})
    history = run_small(dense, data, tmp_path / "run", longer).entries[0].history
    assert history[-1].loss < 0.5 * history[0].loss


def test_every_weight_moves_and_the_dense_model_is_left_as_it_is(dense, data, tmp_path):
    before = state_sha256(dense.module.state_dict())
    out = tmp_path / "run"
    run_small(dense, data, out, subjects=with_gate(dense))
    assert state_sha256(dense.module.state_dict()) == before
    untrained = GatedViT(dense.module, pruning_plan(dense), TrainableGate(32, 1))
    trained = load_finetuned(out, "macs-0.5", dense, TrainableGate(32, 1, seed=9))
    for name, value in trained.state_dict().items():
        assert not torch.equal(value, untrained.state_dict()[name]), name


def test_gates_alone_leave_every_other_weight_as_it_was_and_need_no_labels(dense, tmp_path):
    out = tmp_path / "run"
    bare = write_images(tmp_path / "bare.npz", labelled=False)
    only = RECIPE.model_copy(update={"gates_only": True})
    run = run_small(dense, bare, out, only, subjects=with_gate(dense))
    untrained = GatedViT(dense.module, pruning_plan(dense), TrainableGate(32, 1))
    trained = load_finetuned(out, "macs-0.5", dense, TrainableGate(32, 1, seed=9))
    moved = {
        name for name, value in trained.state_dict().items() if not torch.equal(value, untrained.state_dict()[name])
    }
    assert moved == {"gate.layer.weight", "gate.layer.bias"}
    assert run.control_at(1) == run.dense
    assert run.entries[0].after.num_correct is None


def test_a_gate_learns_to_keep_what_the_dense_model_needs(dense, data, tmp_path):
    settings = {"gates_only": True, "epochs": 10, "gate_learning_rate": 3e-2, "augmentation": "none"}
    steady = {"removal_start": 0.3, "removal_end": 0.3}  # so that the epochs' losses are of one kind
    plan = plan_of(dense.shape, {1: 6}, source=dense.source)
    subjects = [Subject(plan, TrainableGate(dense.shape.embed_dim, 1))]
    only = RECIPE.model_copy(update=settings | steady)
    history = run_small(dense, data, tmp_path / "run", only, subjects=subjects).entries[0].history
    assert history[-1].loss < 0.7 * history[0].loss


def test_a_gate_that_is_left_alone_keeps_its_weights_and_every_other_moves(dense, data, tmp_path):
    out = tmp_path / "run"
    run_small(dense, data, out, RECIPE.model_copy(update={"gate_weight": 0.0}), subjects=with_gate(dense))
    before = GatedViT(dense.module, pruning_plan(dense), TrainableGate(32, 1)).state_dict()
    after = load_finetuned(out, "macs-0.5", dense, TrainableGate(32, 1, seed=9)).state_dict()
    still = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert {"gate.layer.weight", "gate.layer.bias"} <= still
    assert not any(name.endswith("weight") for name in still if name.startswith("backbone."))


def test_a_control_that_only_the_dense_model_teaches_stays_the_dense_model_and_ends_early(dense, data, tmp_path):
    out, told = tmp_path / "run", []
    run = run_small(dense, data, out, RECIPE.model_copy(update={"weight_decay": 0.0}), control=True, told=told)
    control = load_finetuned(out, "control", dense)
    assert state_sha256(control.state_dict()) == state_sha256(dense.module.state_dict())
    assert [record.loss for record in run.find("control").history] == [0.0]
    assert run.control_at(2) == run.control_at(1) == run.dense
    assert [one for one in told if one.startswith("control: ends here: the loss is exactly 0")]
    assert [record.loss > 0 for record in run.find("macs-0.5").history] == [True, True]


def test_a_control_whose_weights_decay_is_trained_to_the_end(dense, data, tmp_path):
    decays = RECIPE.model_copy(update={"weight_decay": 0.05})
    assert len(run_small(dense, data, tmp_path / "run", decays, control=True).find("control").history) == 2


def test_the_control_is_trained_on_the_inputs_of_the_pruned_model_in_their_order(dense, data, tmp_path, monkeypatch):
    known, keys = TrainingImages.__getitem__, []

    def recorded(self, key):
        if key[0] > 0:  # epochs count from 1; held-out images are of none
            keys.append(key)
        return known(self, key)

    monkeypatch.setattr(TrainingImages, "__getitem__", recorded)
    run_small(dense, data, tmp_path / "run", control=True)
    half = len(keys) // 2
    assert half == 2 * 24
    assert keys[:half] == keys[half:]


def test_accumulated_batches_take_the_step_of_one_batch_of_their_size(dense, data, tmp_path):
    weights = []
    for batch_size, accumulate in ((8, 1), (2, 4)):
        out = tmp_path / f"run-{accumulate}"
        sized = RECIPE.model_copy(update={"batch_size": batch_size, "accumulate": accumulate, "optimizer": "sgd"})
        run_small(dense, data, out, sized)
        weights.append(read_tensors(out / "macs-0.5.safetensors"))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5)


def test_a_moving_average_is_kept_between_the_first_and_the_last_weights(dense, data, tmp_path):
    name = "blocks.1.attn.proj.weight"
    found = {}
    for decay in (None, 0.5):
        out = tmp_path / f"run-{decay}"
        run_small(dense, data, out, RECIPE.model_copy(update={"ema_decay": decay, "epochs": 1}))
        found[decay] = read_tensors(out / "macs-0.5.safetensors")[name]
    start = GatedViT(dense.module, pruning_plan(dense), "class-attention").backbone.state_dict()[name]
    assert not torch.equal(found[0.5], found[None])
    assert (found[0.5] - start).norm() < (found[None] - start).norm()


def test_training_stops_after_epochs_without_a_smaller_kl_and_keeps_the_best(dense, data, tmp_path):
    wild = RECIPE.model_copy(update={"epochs": 12, "patience": 2, "learning_rate": 0.3, "schedule": "constant"})
    run = run_small(dense, data, tmp_path / "run", wild, control=True)
    entry = run.entries[0]
    losses = [record.held_out.kl_nats for record in entry.history]
    assert losses.index(min(losses)) + 1 == entry.epoch
    assert len(losses) == entry.epoch + 2 < 12
    assert entry.after.kl_nats == min(losses)
    assert len(run.find("control").history) == 12  # so that it answers at every epoch
    assert run.control_at(entry.epoch) == run.find("control").history[entry.epoch - 1].held_out
    inputs, _ = held_out_inputs(dense, data)
    logits = load_finetuned(tmp_path / "run", "macs-0.5", dense)(inputs)[0]
    assert (logits.argmax(1) == dense.module(inputs).argmax(1)).sum() == entry.after.num_agreeing


def test_a_loss_that_is_no_number_ends_the_training_with_what_was_stored(dense, data, tmp_path):
    wild = RECIPE.model_copy(update={"learning_rate": 1e30, "clip_grad": None, "optimizer": "sgd"})
    with pytest.raises(CheckError, match="the training diverged") as caught:
        run_small(dense, data, tmp_path / "run", wild)
    assert "--lr" in caught.value.hint
    assert list((tmp_path / "run").glob("*.safetensors")) == []


def test_a_control_and_plans_can_be_added_to_a_run_that_is_done(dense, data, tmp_path):
    out = tmp_path / "run"
    alone = run_small(dense, data, out)
    assert alone.control_at(1) is None
    other = Subject(plan_of(dense.shape, {2: 9}, source=dense.source, limit=0.7), "attention-received")
    more = run_small(dense, data, out, subjects=[other], control=True)
    assert [entry.name for entry in more.entries] == ["macs-0.5", "macs-0.7", "control"]
    assert more.entries[0] == alone.entries[0]


def test_a_finished_run_is_used_again_and_begun_again_by_force(dense, data, tmp_path):
    out, told = tmp_path / "run", []
    first = run_small(dense, data, out)
    (out / "kept.txt").write_text("of the user")
    again = run_small(dense, data, out, told=told)
    assert (again, told) == (first, [f"macs-0.5: {out} holds it already"])
    other = RECIPE.model_copy(update={"seed": 1})
    forced = run_small(dense, data, out, other, force=True)
    assert forced.recipe.seed == 1
    assert forced.entries[0].weights_sha256 != first.entries[0].weights_sha256
    assert (out / "kept.txt").read_text() == "of the user"
    assert len(list((out / LOGS / "macs-0.5").iterdir())) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.1}, "learning_rate 0.001 where 0.1 is asked for"),
        ({"epochs": 3, "seed": 4}, "epochs 2 where 3 is asked for, seed 0 where 4 is asked for"),
    ],
)
def test_a_run_of_other_settings_is_refused(dense, data, made, settings, message):
    out, run = made
    with pytest.raises(InputError, match=message) as caught:
        run_small(dense, data, out, run.recipe.model_copy(update=settings))
    assert "--out" in caught.value.hint
    assert "--force" in caught.value.hint
    assert FinetuneRun.read(out / FINETUNE) == run


def test_a_run_of_other_images_plans_or_gates_is_refused(dense, data, made, tmp_path):
    out, run = made
    with pytest.raises(InputError, match="with other training images"):
        run_small(
            dense,
            write_images(tmp_path / "bare.npz", labelled=False),
            out,
            run.recipe.model_copy(update={"label_weight": 0.0}),
        )
    for subject in (
        Subject(pruning_plan(dense), "attention-received"),
        Subject(plan_of(dense.shape, {2: 9}, source=dense.source), "class-attention"),
    ):
        with pytest.raises(InputError, match=r"holds macs-0\.5 with another plan or gate"):
            run_small(dense, data, out, run.recipe, subjects=[subject])


def test_a_folder_that_is_no_fine_tune_is_never_replaced(dense, data, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("")
    for force in (False, True):
        with pytest.raises(InputError, match="exists and is no fine-tune"):
            run_small(dense, data, tmp_path / "photos", force=force)
    assert (tmp_path / "photos" / "one.jpg").exists()


def test_a_plan_of_another_model_is_refused(dense, data, tmp_path):
    other = load_tiny(tmp_path, seed=5)
    with pytest.raises(InputError, match="made for vit_tiny_patch16_224 at 32 px with other weights") as caught:
        run_small(dense, data, tmp_path / "run", subjects=[Subject(pruning_plan(other), "class-attention")])
    assert "--weights plain-5.safetensors" in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_gates_alone_need_a_gate_with_weights(dense, data, tmp_path):
    only = RECIPE.model_copy(update={"gates_only": True})
    with pytest.raises(InputError, match="--gates-only trains a gate's weights, and gate class-attention has none"):
        run_small(dense, data, tmp_path / "run", only)
    heads = Subject(plan_of(dense.shape, kept_heads={0: [1]}, source=dense.source), None)
    with pytest.raises(InputError, match="its plan drops no tokens"):
        run_small(dense, data, tmp_path / "run", only, subjects=[heads])


def test_a_plan_that_removes_nothing_is_refused(dense, data, tmp_path):
    with pytest.raises(InputError, match="removes nothing"):
        run_small(dense, data, tmp_path / "run", subjects=[Subject(plan_of(dense.shape, source=dense.source), None)])


def test_what_is_not_done_or_was_altered_cannot_be_loaded(dense, made, tmp_path):
    out, _ = made
    with pytest.raises(InputError, match=r"holds no finished 'macs-0\.3', only macs-0\.5, control"):
        load_finetuned(out, "macs-0.3", dense)
    with pytest.raises(InputError, match="with other weights or another shape"):
        load_finetuned(out, "macs-0.5", load_tiny(tmp_path, seed=5))
    path = out / "control.safetensors"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(CheckError, match="was altered"):
            load_finetuned(out, "control", dense)
    finally:
        path.write_bytes(content)


def test_a_gate_with_weights_is_loaded_into_the_module_that_is_given(dense, data, tmp_path):
    out = tmp_path / "run"
    run = run_small(dense, data, out, subjects=with_gate(dense))
    entry = run.entries[0]
    assert (entry.gate, entry.gate_weights) == ("TrainableGate", "macs-0.5.gate.safetensors")
    stored = read_tensors(out / entry.gate_weights)
    fresh = TrainableGate(32, 1, seed=9)
    loaded = load_finetuned(out, "macs-0.5", dense, fresh).gate.state_dict()
    for name, value in stored.items():
        assert torch.equal(loaded[name], value)
        assert not torch.equal(fresh.state_dict()[name], value)  # the caller's is left as it is
    with pytest.raises(ValueError, match="has weights, and no module"):
        load_finetuned(out, "macs-0.5", dense)


def test_gates_with_other_weights_are_other_gates(dense, data, tmp_path):
    out = tmp_path / "run"
    run_small(dense, data, out, subjects=with_gate(dense))
    with pytest.raises(InputError, match="another plan or gate"):
        run_small(dense, data, out, subjects=with_gate(dense, seed=1))


def test_what_a_run_depends_on_is_in_its_file(made, dense, data):
    _, run = made
    train, held_out = image_parts(data)
    assert (run.source, run.shape, run.preprocessing) == (dense.source, dense.shape, dense.preprocessing)
    assert (run.images, run.held_out) == (train.ref(), held_out.ref())
    assert run.entries[0].plan == pruning_plan(dense)
    assert run.entries[0].plan_sha256 == pruning_plan(dense).digest()
    rates = [record.learning_rate for record in run.entries[0].history]
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
