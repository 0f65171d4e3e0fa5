"""``heartvit-edge engines``: what it prints, what it says, and its exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fakes.board import Board
from fakes.cuda_double import COMPUTE_MS, COPY_MS, FakeCuda
from fakes.machines import orin

from heartvit_edge.engines import fingerprint
from heartvit_edge.engines.build import build_engine
from heartvit_edge.runtime import open as opening
from heartvit_edge.spec.engine import BatchRange
from heartvit_edge.spec.evaluation import Evaluation
from heartvit_edge.spec.measurement import Measurement


@pytest.fixture
def board(tmp_path, monkeypatch):
    """Return an Orin with two TensorRT engines in ``engines``, in which the command line runs."""
    monkeypatch.chdir(tmp_path)
    board = Board(tmp_path, monkeypatch, "10.3.0")
    board.machine = orin("10.3.0")
    monkeypatch.setattr(fingerprint, "detect_machine", lambda: board.machine)
    monkeypatch.setattr(opening, "open_cuda", lambda _: FakeCuda(board.script.device))
    board.folders = [board.build(entry=entry)[1].relative_to(tmp_path) for entry in ("dense", "macs-0.5")]
    return board


def test_list_prints_each_engine_and_says_why_one_does_not_fit(run_cli, board):
    result = run_cli("engines", "list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["engine", "batch", "MB", "attention", "fused", "fits"]
    assert [line.split()[-1] for line in lines[1:]] == ["yes", "yes"]
    assert lines[1].split()[0].endswith("dense-tensorrt-fp32-batch1.2.4")
    assert lines[1].split()[1] == "1:2:4"
    board.machine = orin("10.3.0", driver="540.5.0")
    result = run_cli("engines", "list")
    assert [line.split()[-1] for line in result.stdout.splitlines()[1:]] == ["no", "no"]
    assert f"{board.folders[0]}: driver: built with none, here 540.5.0" in result.stderr


def test_list_prints_json_with_the_whole_manifest(run_cli, board):
    rows = json.loads(run_cli("engines", "list", "--json").stdout)
    assert [row["folder"] for row in rows] == [str(folder) for folder in board.folders]
    assert rows[1]["manifest"]["entry"] == "macs-0.5"
    assert rows[1]["unfit"] is None


def test_verify_exits_5_for_an_altered_engine_and_3_for_a_foreign_one(run_cli, board):
    result = run_cli("engines", "verify")
    assert (result.exit_code, result.stdout) == (0, "".join(f"whole  {folder}\n" for folder in board.folders))
    board.machine = orin("10.7.0")
    result = run_cli("engines", "verify")
    assert result.exit_code == 3
    assert "--budget dense --batch-size 1:2:4" in result.stderr  # the command that rebuilds
    (board.folders[0] / "engine.plan").write_bytes(b"altered")
    result = run_cli("engines", "verify")
    assert result.exit_code == 5
    assert "engine.plan was altered" in result.stderr
    assert "heartvit-edge engines prune --force" in result.stderr


def test_prune_lists_first_and_removes_with_force(run_cli, board):
    (board.folders[0] / "engine.plan").write_bytes(b"altered")
    result = run_cli("engines", "prune")
    assert (result.exit_code, result.stdout) == (0, f"{board.folders[0]}\n")
    assert "nothing was removed: add --force" in result.stderr
    assert board.folders[0].is_dir()
    assert run_cli("engines", "prune", "--force").stdout == result.stdout
    assert not board.folders[0].exists()
    assert board.folders[1].is_dir()
    assert run_cli("engines", "prune").stdout == ""


@pytest.mark.parametrize("command", ["list", "verify", "prune"])
def test_a_store_that_is_not_there_exits_2_and_is_not_made(run_cli, tmp_path, command):
    result = run_cli("engines", command, "--engines", tmp_path / "none")
    assert result.exit_code == 2
    assert "there is no folder" in result.stderr
    assert not (tmp_path / "none").exists()


def test_time_prints_medians_in_trtexecs_words(run_cli, board):
    result = run_cli("engines", "time", *board.folders, "--duration", "0.01", "--json")
    assert result.exit_code == 0
    dense, pruned = json.loads(result.stdout)
    assert (dense["h2d_ms"], dense["compute_ms"], dense["d2h_ms"]) == (COPY_MS, COMPUTE_MS, COPY_MS)
    assert pruned["d2h_ms"] == 2 * COPY_MS  # logits and kept tokens
    assert (dense["batch_size"], pruned["engine"]) == (2, str(board.folders[1]))
    assert dense["num_samples"] >= 10
    assert dense["images_per_s"] > 0
    text = run_cli("engines", "time", board.folders[0], "--batch-size", "4", "--duration", "0.01", "--no-cuda-graph")
    assert text.stdout.splitlines()[0].split()[:6] == ["engine", "batch", "samples", "h2d", "ms", "gpu"]
    assert text.stdout.splitlines()[1].split()[:2] == ["dense-tensorrt-fp32-batch1.2.4", "4"]
    assert "medians; plain enqueues" in text.stderr


def test_time_refuses_an_engine_of_another_power_mode_unless_told(run_cli, board):
    board.machine = orin("10.3.0", power_mode="15W")
    result = run_cli("engines", "time", board.folders[0], "--duration", "0.01")
    assert result.exit_code == 3
    assert "power_mode: built with MAXN, here 15W" in result.stderr
    assert "--any-power-mode" in result.stderr
    assert run_cli("engines", "time", board.folders[0], "--duration", "0.01", "--any-power-mode").exit_code == 0


def test_time_refuses_an_engine_of_onnxruntime_before_any_is_loaded(run_cli, board, monkeypatch):
    dense = (board.folder, board.pack, "dense", "onnxruntime", "fp32", BatchRange())
    folder = build_engine(*dense, board.engines, board.machine, force=False)
    monkeypatch.setattr(opening, "open_runners", pytest.fail)
    result = run_cli("engines", "time", board.folders[0], folder)
    assert result.exit_code == 2
    assert f"{folder} is an engine of onnxruntime, expected one engine of tensorrt" in result.stderr


def test_bench_and_evaluate_take_the_variant_that_is_named(run_cli, board, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.zeros(4, dtype=np.int64))
    for entry in ("dense", "macs-0.5"):
        board.build(entry=entry, batch=BatchRange(min=4, opt=4, max=4))
    quick = ("--out", "run", "--duration", "0.02", "--trials", "1", "--power", "none")
    refused = run_cli("bench", board.folder, *quick)
    assert refused.exit_code == 2
    assert "engines of several kinds: tensorrt fp32 batch1.2.4, tensorrt fp32 batch4" in refused.stderr
    measured = run_cli("bench", board.folder, *quick, "--variant", "batch4")
    assert measured.exit_code == 0, measured.stderr
    measurement = Measurement.read(tmp_path / "run/measurement.json")
    assert (measurement.variant, {row.batch_size for row in measurement.rows}) == ("batch4", {4})
    assert "engines: tensorrt fp32 batch4, 2 from engines" in measured.stderr
    told = run_cli("evaluate", board.folder, "--data", "images.npz", "--variant", "batch4")
    assert told.exit_code == 0, told.stderr
    assert "engines: tensorrt fp32 batch4, 2 from engines" in told.stderr


def test_bench_and_evaluate_run_tensorrt_engines_from_the_command_line_to_their_files(run_cli, board, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.zeros(6, dtype=np.int64))
    board.machine = orin("10.3.0", power_mode="15W")
    chosen = ("--backend", "tensorrt", "--out", "run", "--cuda-binding", "pycuda")
    times = ("--duration", "0.02", "--trials", "1", "--power", "none", "--batch-size", "1,4")
    refused = run_cli("bench", board.folder, *chosen, *times)
    assert (refused.exit_code, "--any-power-mode" in refused.stderr) == (3, True)
    measured = run_cli("bench", board.folder, *chosen, *times, "--any-power-mode")
    assert measured.exit_code == 0, measured.stderr
    rows = Measurement.read(tmp_path / "run/measurement.json").rows
    assert [(row.entry, row.batch_size) for row in rows] == [
        *(("dense", 1), ("macs-0.5", 1)),
        *(("dense", 4), ("macs-0.5", 4)),
    ]
    evaluated = run_cli("evaluate", board.folder, "--data", "images.npz", *chosen, "--any-power-mode")
    assert evaluated.exit_code == 0, evaluated.stderr
    assert Evaluation.read(tmp_path / "run/evaluation.json").backend == "tensorrt"
    assert board.script.device.buffers == {}
