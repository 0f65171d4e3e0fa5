"""``heartvit-edge score``: what it prints and writes, what it refuses, and which images it keeps apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes.small_scores import pictures
from fakes.tiny_vit import model_options, write_weights

from heartvit_edge.cli import export, score
from heartvit_edge.cli.console import is_first_process
from heartvit_edge.cli.host_options import load_host_input
from heartvit_edge.sensitivity.explain import explain_map
from heartvit_edge.sensitivity.table import read_table
from heartvit_edge.spec.pack import BudgetPack


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Return the words that follow ``score``, up to --out: 4 of 9 images, and 3 held out."""
    folder = tmp_path_factory.mktemp("given")
    np.savez(folder / "noise.npz", images=pictures(9), labels=np.arange(9) % 5)
    counts = ["--num-images", "4", "--held-out-images", "3", "--sites", "1,3"]
    return [*model_options(write_weights(folder / "weights.safetensors")), "--data", str(folder / "noise.npz"), *counts]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    return tmp_path_factory.mktemp("scored") / "scores"


def test_the_path_of_the_map_goes_to_stdout_alone(run_cli, given, scored):
    result = run_cli("score", *given, "--out", scored)
    assert (result.stdout, result.exit_code) == (f"{scored / 'sensitivity.json'}\n", 0)
    assert "scoring by removal-gate" in result.stderr
    assert "7/7" in result.stderr
    info = read_table(scored).info
    assert (info.images.num_images, info.calibration_images.num_images, info.settings.sites) == (4, 3, (1, 3))
    assert [found.component for found in info.calibration] == ["token", "head", "token-set", "token-set-path"]


def test_explain_prints_the_summary_before_the_path(run_cli, given, scored):
    run_cli("score", *given, "--out", scored)
    result = run_cli("score", *given, "--out", scored, "--explain")
    assert result.stdout == f"{explain_map(read_table(scored).info)}\n{scored / 'sensitivity.json'}\n"
    assert f"scores in {scored} fit and are used again" in result.stderr


def test_held_out_images_are_none_of_those_scored(given):
    weights, data = (given[given.index(word) + 1] for word in ("--weights", "--data"))
    kwargs = [given[index + 1] for index, word in enumerate(given) if word == "--model-kwargs"]
    found = load_host_input(given[0], [Path(weights)], 32, kwargs, Path(data), 4, 3, 0)
    scored = {image.tobytes() for image in found.scored}
    held_out = {image.tobytes() for image in found.held_out}
    assert (len(scored), len(held_out), len(scored | held_out)) == (4, 3, 7)
    assert scored | held_out < {image.tobytes() for image in pictures(9)}


def test_other_settings_in_the_same_folder_need_force(run_cli, given, scored):
    run_cli("score", *given, "--out", scored)
    result = run_cli("score", *given, "--out", scored, "--seed", "1")
    assert (result.stdout, result.exit_code) == ("", 2)
    assert "holds scores of another image set" in result.stderr
    assert "add --force" in result.stderr


def test_altered_scores_exit_5_until_they_are_made_again(run_cli, given, tmp_path):
    run_cli("score", *given, "--out", tmp_path / "s")
    (tmp_path / "s" / "sensitivity.npz").write_bytes(b"altered")
    result = run_cli("score", *given, "--out", tmp_path / "s")
    assert result.exit_code == 5
    assert "sensitivity.npz was altered" in result.stderr
    assert run_cli("score", *given, "--out", tmp_path / "s", "--force").exit_code == 0
    assert len(read_table(tmp_path / "s").heads) == 4


def test_scorers_that_give_no_loss_need_no_held_out_images(run_cli, given, tmp_path):
    result = run_cli("score", *given, "--out", tmp_path / "s", "--scorer", "class-attention")
    assert result.exit_code == 0
    assert "4/4" in result.stderr
    assert read_table(tmp_path / "s").info.calibration_images is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sites", "0"], "must be blocks 1 to 3"),
        (["--sites", "1;2"], "is not a list of blocks"),
        (["--probes", "4"], "takes no --probes"),
        (["--unit-groups", "7"], "7 unit groups do not divide the 128 hidden units"),
        (["--scorer", "magnitude", "--unit-groups", "4"], "scores no MLP units"),
    ],
)
def test_options_that_cannot_be_used_exit_2_and_write_nothing(run_cli, given, tmp_path, words, message):
    result = run_cli("score", *given, "--out", tmp_path / "s", *words)
    assert (result.stdout, result.exit_code) == ("", 2)
    assert message in result.stderr
    assert not (tmp_path / "s").exists()


def test_many_classes_bring_a_word_about_the_cheaper_scorer(run_cli, given, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "MANY_CLASSES", 5)
    words = "removal-gate runs one backward pass for each of 5 classes; --scorer fisher-mc runs 8 instead"
    assert words in run_cli("score", *given, "--out", tmp_path / "exact").stderr
    assert "backward" not in run_cli("score", *given, "--out", tmp_path / "mc", "--scorer", "fisher-mc").stderr


@pytest.mark.parametrize(
    ("world_size", "rank", "speaks"), [(None, None, True), ("1", "0", True), ("2", "0", True), ("2", "1", False)]
)
def test_only_the_first_of_several_processes_speaks(monkeypatch, world_size, rank, speaks):
    for name, value in (("WORLD_SIZE", world_size), ("RANK", rank)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert is_first_process() is speaks


def test_a_pack_carries_the_scores_that_its_plans_were_made_from(run_cli, given, tmp_path):
    result = run_cli("export", *given, "--budget", "0.8", "--out", tmp_path / "pack")
    assert result.exit_code == 0, result.stderr
    pack = BudgetPack.open(tmp_path / "pack")
    table = read_table(tmp_path / "pack.scores")
    assert pack.sensitivity == table.info
    assert pack.entries[1].plan.sensitivity_sha256 == pack.sensitivity.digest()
    assert (len(pack.sensitivity.heads_mean), pack.sensitivity.calibration != ()) == (4, True)


def test_export_leaves_the_pack_to_the_first_process(run_cli, given, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "is_first_process", lambda: False)
    result = run_cli("export", *given, "--budget", "0.8", "--out", tmp_path / "pack")
    assert (result.stdout, result.exit_code) == ("", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["pack.scores"]
