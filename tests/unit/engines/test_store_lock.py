"""One build at a time, and what a killed one left is cleared by the next."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest

from heartvit_edge.engines.store_lock import clear, left_overs, lock_store
from heartvit_edge.errors import InputError

KILLED = """
import os, signal, sys
from pathlib import Path
from heartvit_edge.engines.store_lock import lock_store
from heartvit_edge.spec.files import new_folder
engines = Path(sys.argv[1])
with lock_store(engines, print), new_folder(engines / "model" / "dense-tensorrt-fp16", force=True) as folder:
    (folder / "engine.plan").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_second_build_says_that_it_waits_and_begins_when_the_first_has_ended(tmp_path):
    order, told = [], []
    waiting = threading.Event()

    def tell(text):
        told.append(text)
        waiting.set()

    def second():
        with lock_store(tmp_path, tell):
            order.append("second")

    with lock_store(tmp_path, pytest.fail):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert told == [f"another build uses {tmp_path}: waiting for it to end"]


def test_the_lock_leaves_no_file_and_is_given_back(tmp_path):
    with lock_store(tmp_path / "engines", pytest.fail):
        pass
    assert list((tmp_path / "engines").iterdir()) == []
    handle = os.open(tmp_path / "engines", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)


def test_a_store_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "engines").write_text("")
    with pytest.raises(InputError, match=r"cannot use .*engines as a store"), lock_store(tmp_path / "engines", print):
        pass


def test_a_build_that_was_killed_gives_the_lock_back_and_leaves_what_can_be_cleared(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    with lock_store(tmp_path, pytest.fail):
        (left,) = left_overs(tmp_path)
        clear(left)
    assert list((tmp_path / "model").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["dense-tensorrt-fp16", "dense-tensorrt-int8", "dense-onnxruntime-fp32-batch1.2.4-level5"]
)
def test_an_engine_that_was_moved_away_by_a_killed_build_is_put_back(tmp_path, name):
    away = tmp_path / "model" / f".{name}.ab12_xyz.former"
    away.mkdir(parents=True)
    (away / "engine.plan").write_bytes(b"whole")
    assert left_overs(tmp_path) == [away]
    clear(away)
    assert (tmp_path / "model" / name / "engine.plan").read_bytes() == b"whole"


def test_an_engine_that_was_replaced_does_not_come_back(tmp_path):
    away = tmp_path / "model" / ".dense-tensorrt-fp16.ab12_xyz.former"
    away.mkdir(parents=True)
    (tmp_path / "model" / "dense-tensorrt-fp16").mkdir()
    clear(away)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["dense-tensorrt-fp16"]


def test_engines_and_files_of_others_are_no_left_overs(tmp_path):
    (tmp_path / "model" / "dense-tensorrt-fp16").mkdir(parents=True)
    for name in (".gitignore", ".vscode.settings", ".dense.ab12_xyz", "dense-tensorrt-fp16.ab12_xyz"):
        (tmp_path / "model" / name).write_text("*")
    assert left_overs(tmp_path) == []
