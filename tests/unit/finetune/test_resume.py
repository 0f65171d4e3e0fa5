"""A fine-tune that was killed ends as one that was not, to the last bit."""

from __future__ import annotations

import pytest
import torch
from fakes.small_finetune import RECIPE, STEPS, StoppedHere, pruning_plan, run_small
from fakes.trainable_gate import TrainableGate
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from heartvit_edge.errors import InputError
from heartvit_edge.finetune.folder import LOGS, STATES
from heartvit_edge.finetune.subject import Subject

EVERYTHING = RECIPE.model_copy(
    update={
        "epochs": 3,
        "batch_size": 4,
        "accumulate": 2,
        "ema_decay": 0.9,
        "warmup_epochs": 0.5,
        "token_weight": 0.5,
        "feature_weight": 0.5,
        "label_weight": 0.1,
        "patience": 2,
        "augmentation": "strong",
    }
)


def everything(dense):
    """Return a subject whose gate has weights and draws for dropout."""
    gate = TrainableGate(dense.shape.embed_dim, 1, dropout=0.3)
    return [Subject(pruning_plan(dense), gate)]


def files(out):
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.*"))}


@pytest.fixture(scope="module")
def whole(dense, data, tmp_path_factory):
    """Return the folder of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run_small(dense, data, out, EVERYTHING, subjects=everything(dense))
    return out


@pytest.mark.parametrize("stop_after", [1, 2, STEPS, STEPS + 2, 3 * STEPS])
def test_weights_and_history_are_those_of_a_run_that_nothing_stopped(dense, data, whole, tmp_path, stop_after):
    told = []
    with pytest.raises(StoppedHere):
        run_small(
            dense, data, tmp_path / "run", EVERYTHING, subjects=everything(dense), stop_after=stop_after, save_every=2
        )
    torch.manual_seed(12345)  # the other process's generator stands elsewhere
    run_small(dense, data, tmp_path / "run", EVERYTHING, subjects=everything(dense), save_every=2, told=told)
    assert files(tmp_path / "run") == files(whole)
    resumed = [message for message in told if "goes on" in message]
    assert len(resumed) == (stop_after >= 2)  # the first state is stored after two steps


def test_a_stopped_run_leaves_its_state_and_no_weights_and_a_finished_one_no_state(dense, data, whole, tmp_path):
    with pytest.raises(StoppedHere):
        run_small(dense, data, tmp_path / "run", stop_after=STEPS + 1)
    assert list(files(tmp_path / "run")) == ["finetune.json"]
    assert [path.name for path in (tmp_path / "run" / STATES).iterdir()] == ["macs-0.5.pt"]
    assert list((whole / STATES).iterdir()) == []


def test_the_second_model_is_resumed_without_training_the_first_again(dense, data, tmp_path):
    with pytest.raises(StoppedHere):
        run_small(dense, data, tmp_path / "run", control=True, stop_after=3 * STEPS + 1)
    before = files(tmp_path / "run")
    told = []
    run = run_small(dense, data, tmp_path / "run", control=True, told=told)
    assert [entry.name for entry in run.entries] == ["macs-0.5", "control"]
    assert files(tmp_path / "run")["macs-0.5.safetensors"] == before["macs-0.5.safetensors"]
    assert any(message.startswith("macs-0.5: ") and "holds it already" in message for message in told)
    assert any(message.startswith("control: goes on after epoch 1") for message in told)
    assert not any(message.startswith("macs-0.5: epoch") for message in told)


def test_a_state_of_another_gate_is_refused(dense, data, tmp_path):
    with pytest.raises(StoppedHere):
        run_small(dense, data, tmp_path / "run", stop_after=STEPS + 1)
    with pytest.raises(InputError, match="another plan or gate"):
        run_small(dense, data, tmp_path / "run", subjects=[Subject(pruning_plan(dense), "attention-received")])


def test_tensorboard_shows_each_step_once_after_a_resume(dense, data, tmp_path):
    with pytest.raises(StoppedHere):
        run_small(dense, data, tmp_path / "run", stop_after=2 * STEPS)  # logged, but not stored
    run = run_small(dense, data, tmp_path / "run")
    shown = EventAccumulator(str(tmp_path / "run" / LOGS / "macs-0.5")).Reload()
    assert [event.step for event in shown.Scalars("train/loss")] == [STEPS, 2 * STEPS]
    kl = shown.Scalars("held_out/kl_nats")
    assert [event.step for event in kl] == [STEPS, 2 * STEPS]
    assert [event.value for event in kl] == pytest.approx([r.held_out.kl_nats for r in run.entries[0].history])
    assert {"train/kl", "train/loss", "train/lr", "held_out/agreement", "held_out/top1"} <= set(shown.Tags()["scalars"])
