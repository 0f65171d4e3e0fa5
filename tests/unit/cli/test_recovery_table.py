"""The table of what came back, beside the control or a word that there is none."""

from __future__ import annotations

import re

from fakes.finetune_runs import answers, entry, finetune_run

from heartvit_edge.bench.statistics import wilson
from heartvit_edge.cli.recovery_table import NO_CONTROL, recovery_table


def cells(table):
    """Return the words of each line, split where two spaces or more are."""
    return [re.split(r" {2,}", line) for line in table.splitlines()]


def test_without_a_control_the_column_says_so():
    header, dense, before, after, *_ = cells(recovery_table(finetune_run(entry())))
    assert header[-1] == "recovery over control"
    assert NO_CONTROL == "no control: --control"
    assert after[-1] == NO_CONTROL
    assert dense[:2] == ["dense", "0"]
    assert before[:2] == ["macs-0.5", "0"]
    assert after[:2] == ["macs-0.5", "3"]


def test_recovery_is_of_the_points_between_the_pruned_model_and_the_control():
    control = entry(control=True, agreeing=(100, 100, 98), correct=(91, 92, 93), before=answers(100, 90))
    run = finetune_run(entry(correct=(70, 80, 88)), control, correct=90)
    _, dense, shown, before, after, *_ = cells(recovery_table(run))
    assert shown[:3] == ["control", "3", "93.0 (86.3\N{EN DASH}96.6)"]
    assert dense[2].startswith("90.0 (")
    assert before[2].startswith("50.0 (")
    assert after[2].startswith("88.0 (")
    assert after[-1] == "+38.0 of +43.0 points"


def test_without_labels_recovery_is_of_agreement():
    table = recovery_table(finetune_run(entry(), entry(control=True, agreeing=(99, 99, 97))))
    assert cells(table)[4][-1] == "+30.0 of +47.0 points"
    assert "recovery in points of agreement, as the images have no labels" in table


def test_the_control_is_shown_at_every_epoch_at_which_a_plan_was_kept():
    plans = [entry(epoch=1), entry("macs-0.7", agreeing=(70, 85, 80), epoch=2)]
    run = finetune_run(*plans, entry(control=True, agreeing=(100, 96, 92)), patience=1)
    table = recovery_table(run)
    controls = [line for line in cells(table) if line[0] == "control"]
    assert [line[1] for line in controls] == ["1", "2"]
    assert [line[3].split()[0] for line in controls] == ["100.0", "96.0"]
    recovered = [line[-1] for line in cells(table) if line[0].startswith("macs") and line[1] != "0"]
    assert recovered == ["+10.0 of +50.0 points", "+35.0 of +46.0 points"]
    assert "the epochs were chosen on these images" in table


def test_with_gates_only_the_dense_model_is_the_control():
    table = recovery_table(finetune_run(entry(), gates_only=True))
    assert cells(table)[3][-1] == "+30.0 of +50.0 points"
    assert not any(line.startswith("control") for line in table.splitlines())
    assert "the dense model is its own control" in table


def test_intervals_are_wilson_s():
    low, high = wilson(80, 100)
    assert f"80.0 ({100 * low:.1f}\N{EN DASH}{100 * high:.1f})" in recovery_table(finetune_run(entry()))


def test_a_control_that_nothing_teaches_is_told():
    run = finetune_run(entry(), entry(control=True))
    assert "the control has nothing to learn" in recovery_table(run)
    assert "nothing to learn" not in recovery_table(finetune_run(entry()))
    taught = finetune_run(entry(correct=(1, 2, 3)), entry(control=True, correct=(1, 2, 3)), correct=1, label_weight=0.1)
    assert "nothing to learn" not in recovery_table(taught)
