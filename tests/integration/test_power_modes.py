"""bench in several power modes, in a process of its own, on a stand-in for jetson-stats: the former mode returns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from fakes.jtop_process import write_package
from fakes.tiny_engines import make_tiny_engines

from heartvit_edge.spec.measurement import Measurement

PATIENCE_S = 120
"""For a machine that has other things to do; nothing here waits for it to pass."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    make_tiny_engines(folder)
    return folder


@pytest.fixture
def board(tmp_path):
    (tmp_path / "packages").mkdir()
    return write_package(tmp_path / "packages", "30W")


@pytest.fixture
def start(built, board, repository, tmp_path):
    def run(*args, out="run"):
        command = [sys.executable, "-m", "heartvit_edge", "bench", str(built / "pack"), "--engines"]
        command += [str(built / "engines"), "--out", str(tmp_path / out), "--idle", "0", *args]
        path = os.pathsep.join([str(board.parent), str(repository)])
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path, "COLUMNS": "240"},
        )

    return run


def wait_for(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def everything_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


QUICK = ("--duration", "0.05", "--trials", "2", "--power", "none", "--yes")


def test_each_mode_is_measured_by_name_into_a_folder_of_its_own_and_the_former_put_back(start, board, tmp_path):
    run = start("--power-mode", "MAXN,15W", *QUICK)
    out, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, err
    assert everything_in(tmp_path / "run") == ["15W/measurement.json", "MAXN/measurement.json"]
    for mode in ("MAXN", "15W"):
        assert Measurement.read(tmp_path / "run" / mode / "measurement.json").machine.power_mode == mode
        assert f"power mode: {mode}\n" in err
    assert "the board's power mode will change from 30W to MAXN, then 15W, and back to 30W" in err
    assert "power mode: 30W again" in err
    assert board.read_text() == "30W"
    assert len([line for line in out.splitlines() if line.endswith("measurement.json")]) == 2


def test_the_figures_of_each_mode_are_one_line_of_json(start):
    run = start("--power-mode", "MAXN,15W", "--json", *QUICK)
    out, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, err
    assert [json.loads(line)["power_mode"] for line in out.splitlines()] == ["MAXN", "15W"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_a_sweep_that_is_ended_puts_the_former_mode_back_and_leaves_whole_files_alone(
    start, board, tmp_path, number, code
):
    run = start("--power-mode", "MAXN", "--power-mode", "15W", *QUICK, "--duration", "0.4")
    wait_for(lambda: (tmp_path / "run/MAXN/measurement.json").exists() and board.read_text() == "15W")
    run.send_signal(number)
    run.communicate(timeout=PATIENCE_S)
    assert run.returncode == code
    wait_for(lambda: board.read_text() == "30W")  # SIGKILL leaves it to the process that set the mode
    assert everything_in(tmp_path / "run") == ["MAXN/measurement.json"]
    Measurement.read(tmp_path / "run/MAXN/measurement.json")


def test_modes_are_not_changed_where_nobody_can_say_yes(start, board, tmp_path):
    run = start("--power-mode", "MAXN", *QUICK[:-1])
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 2
    assert "that needs a yes\nhint: add --yes" in err
    assert board.read_text() == "30W"
    assert not (tmp_path / "run").exists()


def test_an_unknown_mode_is_refused_before_anything_is_set(start, board):
    run = start("--power-mode", "MAXN,50W", *QUICK)
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 2
    assert "this board has no power mode 50W, only MAXN, 15W, 30W" in err
    assert board.read_text() == "30W"


@pytest.mark.parametrize("name", ["../x", "a/b", "", "MAXN,,15W"])
def test_a_mode_that_is_no_name_is_refused(run_cli, built, tmp_path, name):
    result = run_cli("bench", built / "pack", "--out", tmp_path / "run", "--power-mode", name, "--yes")
    assert result.exit_code == 2
    assert "expected the name of a mode" in result.stderr
