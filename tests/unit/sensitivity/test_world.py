"""Several processes on one run: the same map as one process makes, one voice, and no waiting for the dead."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from fakes.small_scores import pictures
from fakes.tiny_vit import model_options, write_weights

from heartvit_edge.sensitivity.table import read_table

NUM_SCORED, NUM_HELD_OUT = 5, 3
PATIENCE_S = 240  # of the test; nothing is timed


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Return the words that follow ``heartvit-edge score``, up to --out: 5 images in batches of 2, and 3 held out."""
    folder = tmp_path_factory.mktemp("given")
    np.savez(folder / "noise.npz", images=pictures(NUM_SCORED + NUM_HELD_OUT))
    counts = ["--num-images", str(NUM_SCORED), "--held-out-images", str(NUM_HELD_OUT), "--batch-size", "2"]
    model = model_options(write_weights(folder / "weights.safetensors"))
    return [*model, "--data", str(folder / "noise.npz"), *counts, "--sites", "1,3"]


def one_thread(**variables):
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return kept | {"OMP_NUM_THREADS": "1", "COLUMNS": "240", "CUDA_VISIBLE_DEVICES": ""} | variables


def test_two_processes_make_the_map_of_one_and_only_the_first_speaks(given, run_cli, tmp_path):
    alone = run_cli("score", *given, "--out", tmp_path / "one")
    assert alone.exit_code == 0, alone.stderr
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    launcher += ["--master-port", str(free_port()), "-m", "heartvit_edge"]
    done = subprocess.run(
        [*launcher, "score", *given, "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env=one_thread(),
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'two' / 'sensitivity.json'}\n"
    assert done.stderr.count("scoring by removal-gate") == 1
    assert f"{NUM_SCORED + NUM_HELD_OUT}/{NUM_SCORED + NUM_HELD_OUT}" in done.stderr.split("scoring by")[1]
    assert done.stderr.count("reading images") == 1
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["sensitivity.json", "sensitivity.npz"]
    one, two = read_table(tmp_path / "one"), read_table(tmp_path / "two")
    assert list(two.tokens) == list(one.tokens) == [1, 3]
    for found, expected in [(two.heads, one.heads), *((two.tokens[site], one.tokens[site]) for site in one.tokens)]:
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-6
    assert (two.info.images, two.info.calibration_images) == (one.info.images, one.info.calibration_images)
    for found, expected in zip(two.info.calibration, one.info.calibration, strict=True):
        assert found.component == expected.component
        assert found.model_dump(exclude={"component"}) == pytest.approx(
            expected.model_dump(exclude={"component"}), rel=1e-4
        )


PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from fakes.small_scores import image_set, tiny_dense
from heartvit_edge.errors import HeartViTError
from heartvit_edge.sensitivity.score import score
from heartvit_edge.sensitivity.scorers import SCORERS
from heartvit_edge.sensitivity.world import join_world
from heartvit_edge.spec.sensitivity import ScoreSettings
from torch import distributed

out, settings = Path(sys.argv[1]), ScoreSettings(sites=(1,))
distributed.init_process_group("gloo")
rank = distributed.get_rank()
told = []
table = score(tiny_dense(), image_set(1), settings, out=out / "few", advance=told.append)
print(rank, "few", table.heads.shape, table.info.arrays_sha256, sum(told))
table = score(tiny_dense(), image_set(1), settings, out=out / "few")
print(rank, "again", table.heads.shape, table.info.arrays_sha256)
assert distributed.is_initialized()
with join_world() as world:
    print(rank, "gathered", world.gather(rank + 10), world.share(rank + 20))
if rank == 1:
    def fail(batch):
        raise ZeroDivisionError("a bug in one process")
    SCORERS["removal-gate"] = replace(SCORERS["removal-gate"], score=fail)
try:
    score(tiny_dense(), image_set(4), settings, out=out / "failing", batch_size=2)
except HeartViTError as err:
    print(rank, "failing", err.exit_code, err)
    sys.exit(err.exit_code)
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def pair(tmp_path_factory, repository):
    """Run the program above as two processes of one group; return the folder, and both streams and codes."""
    folder = tmp_path_factory.mktemp("pair")
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    place["PYTHONPATH"] = str(repository / "tests")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=one_thread(**place, RANK=str(rank)),
        )
        for rank in range(2)
    ]
    try:
        streams = [process.communicate(timeout=PATIENCE_S) for process in started]
    finally:
        for process in started:
            process.kill()
    return folder, streams, [process.returncode for process in started]


def test_a_process_without_a_batch_still_returns_the_whole_map(pair):
    _, streams, _ = pair
    lines = [output.splitlines() for output, _ in streams]
    assert lines[0][0].split()[1:-1] == lines[1][0].split()[1:-1]
    assert "few (1, 4, 4)" in lines[0][0]
    assert [line[0].split()[-1] for line in lines] == ["1", "0"]


def test_stored_scores_are_shared_and_a_group_of_the_callers_is_kept(pair):
    _, streams, _ = pair
    again = [output.splitlines()[1].split()[1:] for output, _ in streams]
    assert again[0] == again[1]
    gathered = [output.splitlines()[2] for output, _ in streams]
    assert gathered == ["0 gathered [10, 11] 20", "1 gathered [] 20"]


def test_a_process_whose_peer_failed_ends_with_a_message_and_keeps_its_batches(pair):
    folder, streams, codes = pair
    assert "ZeroDivisionError: a bug in one process" in streams[1][1]
    assert codes == [3, 1]
    assert "0 failing 3 another process of this run has ended" in streams[0][0]
    assert not (folder / "failing" / "sensitivity.json").exists()
    assert [path.name for path in folder.glob("failing/.shards/*/*")] == ["000000.npz"]
