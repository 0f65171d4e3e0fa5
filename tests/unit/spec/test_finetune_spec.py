"""A fine-tune's file names what was kept, and refuses what does not fit together."""

from __future__ import annotations

import pytest
from fakes.finetune_runs import answers, entry, finetune_run
from pydantic import ValidationError

from heartvit_edge.spec.finetune import FinetuneRecipe, FinetuneRun


def test_a_run_is_read_as_it_was_written(tmp_path):
    run = finetune_run(entry(), entry(control=True))
    run.write(tmp_path / "finetune.json")
    assert FinetuneRun.read(tmp_path / "finetune.json") == run


def test_what_an_entry_answers_afterwards_is_of_the_epoch_that_was_kept():
    kept = entry(agreeing=(60, 90, 80), epoch=2)
    assert kept.after == kept.history[1].held_out
    assert kept.after.num_agreeing == 90


def test_the_control_is_read_after_as_many_epochs():
    run = finetune_run(entry(), entry(control=True, agreeing=(99, 97, 95)))
    assert [run.control_at(epoch).num_agreeing for epoch in (1, 2, 3)] == [99, 97, 95]
    assert finetune_run(entry()).control_at(1) is None


def test_with_gates_only_the_dense_model_is_its_own_control():
    run = finetune_run(entry(), gates_only=True)
    assert run.control_at(3) == run.dense == answers(100)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"epoch": 4}, "epoch 4 was kept of 3"),
        ({"name": "control"}, "the control, and nothing else, has no plan"),
        ({"plan": None}, "the control, and nothing else, has no plan"),
        ({"plan_sha256": "0" * 64}, "is not the one that plan_sha256 names"),
    ],
)
def test_an_entry_that_does_not_fit_together_is_refused(update, message):
    good = entry()
    with pytest.raises(ValidationError, match=message):
        type(good).model_validate(good.model_dump() | update)


def test_two_entries_of_one_name_are_refused():
    with pytest.raises(ValidationError, match="different names"):
        finetune_run(entry(), entry())


def test_a_step_s_images_are_those_of_all_processes():
    recipe = FinetuneRecipe(epochs=1, batch_size=4, accumulate=3, num_processes=2)
    assert recipe.images_per_step == 24
