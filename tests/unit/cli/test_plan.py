"""``heartvit-edge plan``: what it prints and stores, what it uses again, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from fakes.tiny_vit import IMG_SIZE, load_tiny

from heartvit_edge.allocation.plan import make_plan
from heartvit_edge.data.images import load_images
from heartvit_edge.sensitivity.score import make_settings, score
from heartvit_edge.sensitivity.table import read_table
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.plan import PruningPlan


def write_scores(folder, *, seed=0):
    """Score four images of noise and return the folder of the scores."""
    folder.mkdir()
    pixels = np.random.default_rng(seed).integers(0, 256, (4, IMG_SIZE, IMG_SIZE, 3), dtype=np.uint8)
    np.savez(folder / "noise.npz", images=pixels)
    dense = load_tiny(folder)
    score(dense, load_images(folder / "noise.npz"), make_settings(dense.shape.depth), out=folder / "scores")
    return folder / "scores"


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    return write_scores(tmp_path_factory.mktemp("scored") / "first")


@pytest.fixture(scope="module")
def other_scores(tmp_path_factory):
    return write_scores(tmp_path_factory.mktemp("scored") / "second", seed=1)


def test_the_path_of_each_plan_goes_to_stdout_in_the_order_asked_for_each_once(run_cli, scores, tmp_path):
    budgets = ["--budget", "0.5", "--budget", "macs=0.8", "--budget", "0.50"]
    result = run_cli("plan", scores, *budgets, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [str(tmp_path / "macs-0.5.json"), str(tmp_path / "macs-0.8.json")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["macs-0.5.json", "macs-0.8.json"]


def test_the_stored_plan_is_the_solvers_and_says_which_scores_it_was_made_from(run_cli, scores, tmp_path):
    run_cli("plan", scores, "--budget", "0.6", "--out", tmp_path)
    table = read_table(scores)
    stored = PruningPlan.read(tmp_path / "macs-0.6.json")
    assert stored == make_plan(table, Budget(limit=0.6))
    assert stored.sensitivity_sha256 == table.info.digest()
    assert stored.macs_fraction <= 0.6


def test_a_plan_is_described_in_one_line_on_stderr(run_cli, scores, tmp_path):
    result = run_cli("plan", scores, "--budget", "0.6", "--out", tmp_path)
    stored = PruningPlan.read(tmp_path / "macs-0.6.json")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"macs-0.6: {stored.macs_fraction:.3f} of 0.00 GMACs, ")
    for site, count in stored.sites.items():
        assert f"{count} tokens from block {site}" in line
    assert f"{sum(len(block.kept_heads) for block in stored.blocks)} of 16 heads" in line


def test_without_out_plans_lie_beside_the_scores(run_cli, tmp_path):
    scores = write_scores(tmp_path / "own")
    assert run_cli("plan", scores, "--budget", "0.7").stdout == f"{scores / 'plans' / 'macs-0.7.json'}\n"


def test_without_leave_every_head_stays(run_cli, scores, tmp_path):
    run_cli("plan", scores, "--budget", "0.6", "--no-heads", "--out", tmp_path)
    stored = PruningPlan.read(tmp_path / "macs-0.6.json")
    assert all(len(block.kept_heads) == 4 for block in stored.blocks)
    assert not stored.prune_heads


def test_a_budget_of_everything_is_the_dense_plan(run_cli, scores, tmp_path):
    result = run_cli("plan", scores, "--budget", "1", "--out", tmp_path)
    assert PruningPlan.read(tmp_path / "macs-1.json").is_dense
    assert "all tokens, 16 of 16 heads" in result.stderr


def test_a_plan_of_the_same_scores_is_used_again_and_not_written(run_cli, scores, tmp_path):
    run_cli("plan", scores, "--budget", "0.6", "--out", tmp_path)
    path = tmp_path / "macs-0.6.json"
    before = path.stat().st_mtime_ns, path.read_bytes()
    result = run_cli("plan", scores, "--budget", "0.6", "--budget", "0.9", "--out", tmp_path)
    assert result.exit_code == 0
    assert f"plan {path} fits and is used again" in result.stderr
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    assert result.stdout.splitlines() == [str(path), str(tmp_path / "macs-0.9.json")]


@pytest.mark.parametrize("change", ["scores", "heads"])
def test_a_plan_of_other_scores_or_settings_is_replaced_only_with_force(
    run_cli, scores, other_scores, tmp_path, change
):
    run_cli("plan", scores, "--budget", "0.6", "--out", tmp_path)
    path = tmp_path / "macs-0.6.json"
    before = path.read_bytes()
    words = [other_scores] if change == "scores" else [scores, "--no-heads"]
    refused = run_cli("plan", *words, "--budget", "0.6", "--out", tmp_path)
    assert (refused.exit_code, refused.stdout, path.read_bytes()) == (2, "", before)
    assert f"error: {path} was made of other scores or settings" in refused.stderr
    assert "--force" in refused.stderr
    assert run_cli("plan", *words, "--budget", "0.6", "--out", tmp_path, "--force").exit_code == 0
    assert path.read_bytes() != before


def test_a_file_that_is_no_plan_is_named_and_replaced_only_with_force(run_cli, scores, tmp_path):
    path = tmp_path / "macs-0.6.json"
    path.write_text("mine")
    refused = run_cli("plan", scores, "--budget", "0.6", "--out", tmp_path)
    assert (refused.exit_code, path.read_text()) == (2, "mine")
    assert f"error: {path} is not JSON" in refused.stderr
    assert run_cli("plan", scores, "--budget", "0.6", "--out", tmp_path, "--force").exit_code == 0
    assert PruningPlan.read(path).macs_fraction <= 0.6


@pytest.mark.parametrize("budget", ["0", "-0.5", "1.2", "nan", "inf", "much", "macs=0", ""])
def test_a_budget_outside_its_range_exits_2_with_an_example(run_cli, scores, tmp_path, budget):
    result = run_cli("plan", scores, f"--budget={budget}", "--out", tmp_path / "plans")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: budget {budget!r} ")
    assert "(0, 1]" in result.stderr
    assert "--budget 0.7" in result.stderr
    assert not (tmp_path / "plans").exists()


def test_a_budget_of_an_unknown_quantity_exits_2(run_cli, scores):
    result = run_cli("plan", scores, "--budget", "latency=3")
    assert result.exit_code == 2
    assert "error: unknown budget 'latency'" in result.stderr


def test_no_budget_at_all_exits_2_with_the_command_to_type(run_cli, scores):
    result = run_cli("plan", scores)
    assert result.exit_code == 2
    assert f"hint: heartvit-edge plan {scores} --budget 0.7" in result.stderr


def test_a_budget_that_no_plan_meets_exits_4_and_says_what_can_be_met(run_cli, scores, tmp_path):
    result = run_cli("plan", scores, "--budget", "0.01", "--out", tmp_path / "plans")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "is the least" in result.stderr
    assert "hint: --budget 0." in result.stderr
    assert not (tmp_path / "plans").exists()
    feasible = result.stderr.partition("hint: --budget ")[2].split(",")[0]
    assert run_cli("plan", scores, "--budget", feasible, "--out", tmp_path / "plans").exit_code == 0


def test_a_folder_without_scores_exits_2_with_the_command_that_makes_them(run_cli, tmp_path):
    result = run_cli("plan", tmp_path / "nothing", "--budget", "0.7")
    assert result.exit_code == 2
    assert f"error: {tmp_path / 'nothing'} holds no scores" in result.stderr
    assert "hint: make them with: heartvit-edge score" in result.stderr


def test_scores_that_were_altered_exit_5(run_cli, tmp_path):
    scores = write_scores(tmp_path / "own")
    (scores / "sensitivity.npz").write_bytes(b"altered")
    result = run_cli("plan", scores, "--budget", "0.7")
    assert result.exit_code == 5
    assert "sensitivity.npz was altered" in result.stderr


def test_planning_needs_no_torch(scores, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['timm'] = None; from heartvit_edge.cli.app import main; main()"
    )
    words = ["plan", str(scores), "--budget", "0.7", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (f"{tmp_path / 'macs-0.7.json'}\n", 0), done.stderr
