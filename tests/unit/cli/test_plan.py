"""``heartvit-edge plan``: what it prints and stores, what it uses again, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
from fakes.device_tables import NO_ENERGY, make_device_table, product_ms
from fakes.scored_folders import write_scored

from heartvit_edge.allocation.explain import explain_plan
from heartvit_edge.allocation.plan import PlanOptions, make_plan
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.plan import PruningPlan


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    return write_scored(tmp_path_factory.mktemp("scored") / "first")


@pytest.fixture(scope="module")
def scores(scored):
    return scored.folder


@pytest.fixture(scope="module")
def other_scores(tmp_path_factory):
    return write_scored(tmp_path_factory.mktemp("scored") / "second", seed=1).folder


@pytest.fixture(scope="module")
def table(scored, tmp_path_factory):
    """Return the path of a device table of the scored model, without energy."""
    path = tmp_path_factory.mktemp("table") / "table.json"
    make_device_table(shape=scored.dense.shape, tokens=(4, 8, 12, 16, 17), heads=(2, 4)).write(path)
    return path


def test_the_path_of_each_plan_goes_to_stdout_in_the_order_asked_for_each_once(run_cli, scores, tmp_path):
    budgets = ["--budget", "0.5", "--budget", "macs=0.8", "--budget", "0.50"]
    result = run_cli("plan", scores, *budgets, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [str(tmp_path / "macs-0.5.json"), str(tmp_path / "macs-0.8.json")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["macs-0.5.json", "macs-0.8.json"]


def test_the_stored_plan_is_the_solvers_and_says_which_scores_it_was_made_from(run_cli, scored, tmp_path):
    run_cli("plan", scored.folder, "--budget", "0.6", "--out", tmp_path)
    stored = PruningPlan.read(tmp_path / "macs-0.6.json")
    assert stored == make_plan(scored.table, (Budget(limit=0.6),))
    assert stored.sensitivity_sha256 == scored.table.info.digest()
    assert stored.macs_fraction <= 0.6
    assert (stored.refined_on, stored.chosen_by, stored.check) == (None, None, None)


def test_budgets_joined_by_commas_are_met_by_one_plan(run_cli, scores, tmp_path):
    result = run_cli(
        "plan", scores, "--budget", "params=0.9,macs=0.7", "--budget", "0.7,params=0.90", "--out", tmp_path
    )
    path = tmp_path / "macs-0.7+params-0.9.json"
    assert (result.stdout, result.exit_code) == (f"{path}\n", 0)
    stored = PruningPlan.read(path)
    assert stored.budgets == (Budget(limit=0.7), Budget(quantity="params", limit=0.9))
    assert stored.macs_fraction <= 0.7
    assert sum(len(block.kept_heads) for block in stored.blocks) < 16  # tokens have no weights


def test_explain_prints_each_plan_before_the_paths(run_cli, scores, tmp_path):
    budgets = ["--budget", "0.6", "--budget", "0.8"]
    result = run_cli("plan", scores, *budgets, "--out", tmp_path, "--explain")
    paths = [tmp_path / "macs-0.6.json", tmp_path / "macs-0.8.json"]
    texts = [explain_plan(PruningPlan.read(path)) for path in paths]
    assert result.stdout == "\n".join([*texts, *map(str, paths)]) + "\n"


def test_only_the_sites_asked_for_drop_tokens(run_cli, scores, tmp_path):
    run_cli("plan", scores, "--budget", "0.8", "--sites", "2", "--out", tmp_path)
    stored = PruningPlan.read(tmp_path / "macs-0.8.json")
    assert list(stored.sites) == [2]
    assert stored.allowed_sites == (2,)


def test_no_more_sites_than_asked_for_drop_tokens(run_cli, scores, tmp_path):
    for most, folder in ((None, "any"), (1, "one")):
        words = [] if most is None else ["--max-sites", most]
        run_cli("plan", scores, "--budget", "0.75", "--no-heads", *words, "--out", tmp_path / folder)
    free, limited = (PruningPlan.read(tmp_path / folder / "macs-0.75.json") for folder in ("any", "one"))
    assert len(free.sites) > 1
    assert len(limited.sites) == limited.max_sites == 1
    assert limited.predicted_loss_nats > free.predicted_loss_nats


def test_a_symmetric_plan_keeps_the_same_share_at_each_site_and_as_many_heads_in_each_block(run_cli, scores, tmp_path):
    run_cli("plan", scores, "--budget", "0.6", "--symmetric", "--out", tmp_path)
    stored = PruningPlan.read(tmp_path / "macs-0.6.json")
    assert stored.symmetric
    first, second, third = (count - 1 for count in stored.sites.values())
    share = first / 16
    assert (second, third) == (round(16 * share**2), round(16 * share**3))
    assert len({len(block.kept_heads) for block in stored.blocks}) == 1


def test_nested_plans_keep_a_part_of_the_next_larger_one_whatever_the_order_asked_for(run_cli, scores, tmp_path):
    budgets = ["--budget", "0.5", "--budget", "0.8", "--budget", "0.65"]
    result = run_cli("plan", scores, *budgets, "--nested", "--out", tmp_path)
    paths = [tmp_path / f"macs-{limit}.json" for limit in ("0.5", "0.8", "0.65")]
    assert result.stdout.splitlines() == list(map(str, paths))
    small, large, middle = map(PruningPlan.read, paths)
    assert large.nested_in_sha256 is None
    for inner, outer in ((middle, large), (small, middle)):
        assert inner.nested_in_sha256 == outer.digest()
        for own, other in zip(inner.blocks, outer.blocks, strict=True):
            assert own.num_tokens <= other.num_tokens
            assert set(own.kept_heads) <= set(other.kept_heads)


def test_a_latency_budget_is_met_by_the_device_table(run_cli, scores, table, tmp_path):
    result = run_cli("plan", scores, "--budget", "latency-ms=20", "--device-table", table, "--out", tmp_path)
    assert result.stdout == f"{tmp_path / 'latency-ms-20.json'}\n", result.stderr
    stored = PruningPlan.read(tmp_path / "latency-ms-20.json")
    expected = 0.25 + sum(product_ms(block.num_tokens, len(block.kept_heads)) for block in stored.blocks)
    assert stored.latency_ms == pytest.approx(expected)
    assert 15 < stored.latency_ms <= 20
    assert (stored.energy_mj, stored.extrapolated, stored.binding) == (None, False, ("latency-ms",))


def test_a_plan_says_where_the_device_table_was_left(run_cli, scores, table, tmp_path):
    words = ["--device-table", table, "--out", tmp_path, "--explain"]
    result = run_cli("plan", scores, "--budget", "latency-ms=8", *words)
    stored = PruningPlan.read(tmp_path / "latency-ms-8.json")
    assert min(len(block.kept_heads) for block in stored.blocks) == 1  # 2 and 4 were measured
    assert stored.extrapolated
    assert "read outside of what the device table measured" in result.stdout


def test_energy_is_planned_where_the_device_table_has_it(run_cli, scored, tmp_path):
    path = tmp_path / "table.json"
    full = make_device_table(mj=lambda tokens, heads: tokens * heads, shape=scored.dense.shape, heads=(1, 2, 3, 4))
    full.write(path)
    words = ["--budget", "energy-mj=150", "--device-table", path, "--out", tmp_path]
    assert run_cli("plan", scored.folder, *words).exit_code == 0
    stored = PruningPlan.read(tmp_path / "energy-mj-150.json")
    assert stored.energy_mj == pytest.approx(2 + sum(b.num_tokens * len(b.kept_heads) for b in stored.blocks))
    assert stored.energy_mj <= 150


def test_a_plan_is_described_in_one_line_on_stderr(run_cli, scores, tmp_path):
    result = run_cli("plan", scores, "--budget", "0.6", "--out", tmp_path)
    stored = PruningPlan.read(tmp_path / "macs-0.6.json")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"macs-0.6: {stored.macs_fraction:.3f} of 0.00 GMACs, ")
    for site, count in stored.sites.items():
        assert f"{count} tokens from block {site}" in line
    assert f"{sum(len(block.kept_heads) for block in stored.blocks)} of 16 heads" in line


def test_without_out_plans_lie_beside_the_scores(run_cli, tmp_path):
    scores = write_scored(tmp_path / "own").folder
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


CHANGES = {
    "heads": ["--no-heads"],
    "symmetric": ["--symmetric"],
    "sites": ["--sites", "1,2"],
    "most sites": ["--max-sites", "2"],
    "nested": ["--nested", "--budget", "0.9"],
    "scores": [],
    "device table": [],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_plan_of_other_scores_or_settings_is_replaced_only_with_force(
    run_cli, scores, other_scores, table, tmp_path, change
):
    run_cli("plan", scores, "--budget", "0.6", "--out", tmp_path)
    path = tmp_path / "macs-0.6.json"
    before = path.read_bytes()
    words = [other_scores if change == "scores" else scores, *CHANGES[change]]
    words += ["--device-table", table] if change == "device table" else []
    refused = run_cli("plan", *words, "--budget", "0.6", "--out", tmp_path)
    assert (refused.exit_code, refused.stdout, path.read_bytes()) == (2, "", before)
    assert f"error: {path} was made of other scores, images or settings" in refused.stderr
    assert "--force" in refused.stderr
    assert run_cli("plan", *words, "--budget", "0.6", "--out", tmp_path, "--force").exit_code == 0
    assert path.read_bytes() != before
    again = run_cli("plan", *words, "--budget", "0.6", "--out", tmp_path)
    assert f"plan {path} fits and is used again" in again.stderr


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
    assert "that may stay: --budget macs=0.7" in result.stderr
    assert not (tmp_path / "plans").exists()


REFUSED = {
    "unknown quantity": (["--budget", "latency=3"], "unknown budget 'latency' in 'latency=3', expected one of macs, "),
    "share above one": (["--budget", "params=1.5"], "budget 'params=1.5' is not in (0, 1]"),
    "no latency": (["--budget", "latency-ms=0"], "budget 'latency-ms=0' is not above 0"),
    "one part unknown": (["--budget", "0.7,speed=2"], "unknown budget 'speed'"),
    "a quantity twice": (["--budget", "0.7,macs=0.6"], "budget '0.7,macs=0.6' limits one quantity twice"),
    "latency without table": (["--budget", "0.7,latency-ms=4"], "a budget of latency-ms needs a table of what blocks"),
    "energy without table": (["--budget", "energy-mj=4"], "a budget of energy-mj needs a table of what blocks"),
    "loss without images": (
        ["--budget", "0.7", "--budget", "0.5,loss-nats=0.1"],
        "a plan for macs-0.5+loss-nats-0.1 is accepted by what it loses when measured, and there are no images",
    ),
    "weights without images": (["--budget", "0.7", "--weights", "w.pt"], "--weights is for measuring plans, which"),
    "gate without images": (["--budget", "0.7", "--gate", "class-attention"], "--gate is for measuring plans, which"),
    "site not scored": (["--budget", "0.7", "--sites", "2,5"], "site 5 is not scored, only 1, 2, 3"),
    "no list of sites": (["--budget", "0.7", "--sites", "1;2"], "--sites '1;2' is not a list of blocks"),
    "nested quantities": (
        ["--nested", "--budget", "0.7", "--budget", "params=0.9"],
        "plans are nested by one budget each, all of one quantity",
    ),
    "nested joint budget": (["--nested", "--budget", "0.7,params=0.9"], "plans are nested by one budget each"),
    "symmetric, fewer sites": (
        ["--budget", "0.7", "--symmetric", "--max-sites", "1"],
        "a symmetric plan drops tokens at every site, and --max-sites leaves some out",
    ),
    "no table": (["--budget", "0.7", "--device-table", "none.json"], "cannot read none.json"),
}


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_exits_2_with_a_hint_and_writes_nothing(
    run_cli, scores, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    result = run_cli("plan", scores, *words, "--out", tmp_path / "plans")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: {message}" in result.stderr
    assert "hint: " in result.stderr or message.startswith("cannot read")
    assert list(tmp_path.iterdir()) == []


def test_a_device_table_of_another_model_exits_2_and_names_the_differences(run_cli, scores, tmp_path):
    make_device_table().write(tmp_path / "table.json")
    words = ["--budget", "latency-ms=4", "--device-table", tmp_path / "table.json", "--out", tmp_path / "plans"]
    result = run_cli("plan", scores, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert (
        "error: the device table is of another model: embed_dim is 8, the model's 32; num_heads is 2" in result.stderr
    )
    assert not (tmp_path / "plans").exists()


def test_an_energy_budget_by_a_table_without_energy_exits_2_and_says_why_it_has_none(run_cli, scores, table, tmp_path):
    words = ["--budget", "energy-mj=4", "--device-table", table, "--out", tmp_path / "plans"]
    result = run_cli("plan", scores, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: the device table has no energy: {NO_ENERGY}" in result.stderr
    assert not (tmp_path / "plans").exists()


def test_parts_of_mlps_cannot_be_timed_by_a_device_table(run_cli, table, tmp_path):
    scored = write_scored(tmp_path / "own", unit_groups=4)
    words = ["--budget", "latency-ms=20", "--device-table", table]
    result = run_cli("plan", scored.folder, *words)
    assert result.exit_code == 2
    assert "error: a device table does not know what a part of an MLP costs" in result.stderr
    assert run_cli("plan", scored.folder, "--budget", "0.5").exit_code == 0
    stored = PruningPlan.read(scored.folder / "plans" / "macs-0.5.json")
    assert stored == make_plan(scored.table, (Budget(limit=0.5),), PlanOptions())
    assert stored.unit_groups == 4


def test_no_budget_at_all_exits_2_with_the_command_to_type(run_cli, scores):
    result = run_cli("plan", scores)
    assert result.exit_code == 2
    assert f"hint: heartvit-edge plan {scores} --budget 0.7" in result.stderr


def test_a_budget_that_no_plan_meets_exits_4_and_says_what_can_be_met(run_cli, scores, tmp_path):
    result = run_cli("plan", scores, "--budget", "0.01", "--out", tmp_path / "plans")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "is the least" in result.stderr
    assert "hint: --budget macs=0." in result.stderr
    assert not (tmp_path / "plans").exists()
    feasible = result.stderr.partition("hint: --budget ")[2].split(",")[0]
    assert run_cli("plan", scores, "--budget", feasible, "--out", tmp_path / "plans").exit_code == 0


def test_a_folder_without_scores_exits_2_with_the_command_that_makes_them(run_cli, tmp_path):
    result = run_cli("plan", tmp_path / "nothing", "--budget", "0.7")
    assert result.exit_code == 2
    assert f"error: {tmp_path / 'nothing'} holds no scores" in result.stderr
    assert "hint: make them with: heartvit-edge score" in result.stderr


def test_scores_that_were_altered_exit_5(run_cli, tmp_path):
    scores = write_scored(tmp_path / "own").folder
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
