"""bench --profile-table measures what one block costs, stores it, and refuses what does not go with it."""

from __future__ import annotations

import functools
import importlib.util
import json

import numpy as np
import pytest
from fakes.device_tables import make_device_table
from fakes.tiny_pack import SHAPE, make_tiny_pack

from heartvit_edge.allocation.device_cost import block_costs, check_table, staircase
from heartvit_edge.bench import profile_table as bench_profile
from heartvit_edge.cli import profile_table as command
from heartvit_edge.power.choose import choose
from heartvit_edge.power.none import NoSampler
from heartvit_edge.power.sampler import PowerLostError
from heartvit_edge.spec.device_table import DeviceTable

QUICK = ("--tokens", "8", "--duration", "0.02", "--trials", "2", "--backend", "onnxruntime")


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiled") / "pack"
    make_tiny_pack(folder)
    return folder


@pytest.fixture
def profile(run_cli, pack, tmp_path):
    def run(*args, table=tmp_path / "table.json"):
        return run_cli("bench", pack, "--profile-table", table, *args)

    return run


@pytest.fixture
def no_jtop(monkeypatch, tmp_path):
    """jetson-stats is installed and its service is not running, whatever this machine has."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: find("json" if name == "jtop" else name))
    monkeypatch.setattr(bench_profile, "choose", functools.partial(choose, root=tmp_path))


@pytest.mark.usefixtures("no_jtop")
def test_a_table_is_measured_stored_and_printed_with_its_path(profile, tmp_path):
    result = profile("--heads", "1,2", *QUICK)
    assert result.exit_code == 0, result.stderr
    table = DeviceTable.read(tmp_path / "table.json")
    assert (table.shape, table.tokens, table.heads, table.batch_size) == (SHAPE, (8, 17), (1, 2), 1)
    assert (table.backend, table.precision, table.num_rounds) == ("onnxruntime", "fp32", 2)
    assert table.command.startswith("heartvit-edge bench ")
    title, header, *rows, fixed, energy, path = result.stdout.splitlines()
    assert title == "ms of one block, batch size 1, onnxruntime fp32"
    assert header.split() == ["tokens", "1", "head", "2", "heads"]
    shown = [[float(cell) for cell in row.split()] for row in rows]
    assert shown == [
        [count, *(float(f"{value:.4g}") for value in row)]
        for count, row in zip(table.tokens, table.block_ms, strict=True)
    ]
    dense_ms = table.fixed_ms + SHAPE.depth * table.block_ms[-1][-1]
    assert fixed == f"all but the blocks: {table.fixed_ms:.4g} ms; with 2 dense blocks: {dense_ms:.4g} ms"
    assert energy == f"no energy: {table.no_energy_reason}"
    assert "jtop service is not running" in table.no_energy_reason
    assert path == str(tmp_path / "table.json")
    assert list(tmp_path.iterdir()) == [tmp_path / "table.json"]
    assert "backend: onnxruntime (asked for; " in result.stderr


def test_a_plan_can_read_the_table(profile, tmp_path):
    assert profile("--power", "none", "--heads", "1", *QUICK).exit_code == 0
    table = DeviceTable.read(tmp_path / "table.json")
    check_table(table, SHAPE)
    costs, extrapolated = block_costs(table, "latency-ms", (4, 8, 12, 17), (1, 2))
    assert (costs[0] >= 0).all()
    assert (np.diff(costs[1:], axis=0) >= 0).all()  # timings of some microseconds may well fit a flat line
    assert extrapolated.tolist() == [[True, True]] + [[False, False]] * 3
    assert staircase(table, 2)[-1] == 17


def test_without_counts_the_grid_is_one_that_suits_the_model(profile, tmp_path):
    args = ("--power", "none", "--duration", "0.01", "--trials", "1", "--backend", "onnxruntime")
    assert profile("--precision", "fp16", "--batch-size", "3", *args).exit_code == 0
    table = DeviceTable.read(tmp_path / "table.json")
    assert (table.tokens, table.heads) == ((4, 8, 12, 16, 17), (1, 2))
    assert (table.precision, table.batch_size) == ("fp16", 3)


def test_json_is_the_stored_table_and_its_path(profile, tmp_path):
    result = profile("--json", "--power", "none", "--heads", "2", *QUICK)
    printed = json.loads(result.stdout)
    assert printed.pop("device_table") == str(tmp_path / "table.json")
    assert DeviceTable.model_validate(printed) == DeviceTable.read(tmp_path / "table.json")


def test_energy_is_printed_with_what_was_read():
    shown = command._as_text(make_device_table(mj=lambda tokens, heads: 2.0 * tokens * heads)).splitlines()
    assert shown[7] == "mJ of one block, gross, from constant; a test"
    assert shown[-2].split() == ["17", "34", "68"]
    assert shown[-1] == "all but the blocks: 2 mJ; with 2 dense blocks: 138 mJ"


def test_a_table_that_exists_is_kept_without_force_and_replaced_with_it(profile, tmp_path):
    target = tmp_path / "table.json"
    target.write_text("mine")
    refused = profile("--power", "none", "--heads", "2", *QUICK)
    assert refused.exit_code == 2
    assert f"error: {target} exists already" in refused.stderr
    assert "--force" in refused.stderr
    assert "building" not in refused.stderr
    assert target.read_text() == "mine"
    assert profile("--power", "none", "--heads", "2", "--force", *QUICK).exit_code == 0
    assert DeviceTable.read(target).heads == (2,)


@pytest.mark.parametrize(
    ("args", "said", "hint"),
    [
        (("--out", "run"), "--out is about built engines", "leave --out out"),
        (("--budget", "0.5"), "--budget is about built engines", "leave --budget out"),
        (("--engines", "engines"), "--engines is about built engines", "leave --engines out"),
        (("--idle", "0"), "--idle is about built engines", "leave --idle out"),
        (("--total-rail", "VDD_IN"), "--total-rail is about built engines", "leave --total-rail out"),
        (("--bandwidth", "10"), "--bandwidth is about built engines", "leave --bandwidth out"),
        (("--batch-size", "1,8"), "a device table holds for one batch size, found --batch-size 1,8", "--batch-size 1"),
        (("--tokens", "18"), "--tokens names 18, the dense model has 17", "--tokens 8"),
        (("--heads", "3"), "--heads names 3, the dense model has 2", "--heads 1"),
        (("--heads", "none"), "--heads is 'none', expected whole numbers of at least 1", "--heads 1,8"),
    ],
)
def test_what_does_not_go_with_a_table_exits_2_with_the_cure(profile, tmp_path, args, said, hint):
    result = profile(*args)
    assert result.exit_code == 2
    assert f"error: {said}" in result.stderr
    assert hint in result.stderr.partition("hint: ")[2]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--tokens", "--heads"])
def test_counts_without_a_table_exit_2(run_cli, pack, tmp_path, option):
    result = run_cli("bench", pack, "--out", tmp_path / "run", option, "1")
    assert result.exit_code == 2
    assert f"error: {option} goes with --profile-table alone\nhint: leave {option} out" in result.stderr


def test_neither_a_run_nor_a_table_exits_2(run_cli, pack):
    result = run_cli("bench", pack)
    assert result.exit_code == 2
    assert "error: --out is missing, expected a folder for measurement.json\nhint: add --out run" in result.stderr


def test_a_table_that_is_a_folder_or_lies_in_a_file_is_refused_before_anything_runs(profile, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("a file")
    for table, said in (("folder", "exists already"), ("file/table.json", "is a file, expected a folder")):
        result = profile("--power", "none", table=tmp_path / table)
        assert result.exit_code == 2
        assert said in result.stderr
    forced = profile("--power", "none", "--force", table=tmp_path / "folder")
    assert "is a folder, expected the name of a file" in forced.stderr


def test_a_new_folder_is_made_for_the_table(profile, tmp_path):
    target = tmp_path / "new" / "folder" / "table.json"
    assert profile("--power", "none", "--heads", "2", *QUICK, table=target).exit_code == 0
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.usefixtures("no_jtop")
def test_jtop_that_was_asked_for_and_is_missing_exits_3_and_leaves_nothing(profile, tmp_path):
    result = profile("--power", "jtop", *QUICK)
    assert result.exit_code == 3
    assert "error: the jtop service is not running" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_dies_in_mid_run_exits_3_and_the_table_is_kept(profile, monkeypatch, tmp_path):
    class DyingSampler(NoSampler):
        def stop(self):
            raise PowerLostError("jtop was lost 1.0 s into the run (9 readings): killed", hint="restart it")

    monkeypatch.setattr(bench_profile, "check_power", lambda asked: None)  # noqa: ARG005
    monkeypatch.setattr(bench_profile, "choose", lambda asked, **_: DyingSampler("a test"))  # noqa: ARG005
    result = profile("--power", "jtop", "--heads", "2", *QUICK)
    assert result.exit_code == 3
    assert "error: jtop was lost 1.0 s into the run (9 readings): killed\nhint: restart it" in result.stderr
    assert DeviceTable.read(tmp_path / "table.json").no_energy_reason.startswith("jtop was lost")


def test_an_interrupted_profile_leaves_nothing(profile, monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_profile, "_measure", interrupt)
    result = profile("--power", "none", "--heads", "2", *QUICK)
    assert result.exit_code == 130
    assert list(tmp_path.iterdir()) == []
