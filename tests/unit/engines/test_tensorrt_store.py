"""TensorRT engines in the store: what lies beside them, what is refused, and what a build that ends early leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from fakes.board import Board
from fakes.machines import orin
from fakes.tensorrt_surface import VERSIONS

from heartvit_edge.engines import store, timing_cache
from heartvit_edge.errors import CheckError, InputError, MachineError
from heartvit_edge.spec.engine import BuildSettings
from heartvit_edge.spec.layers import EngineLayers


@pytest.fixture(params=VERSIONS)
def board(request, tmp_path, monkeypatch):
    """Return a board with each release in turn."""
    return Board(tmp_path, monkeypatch, request.param)


@pytest.fixture
def one_board(tmp_path, monkeypatch):
    """Return a board with the release of JetPack 6.2."""
    return Board(tmp_path, monkeypatch, "10.3.0")


def test_manifest_and_layer_table_tell_what_was_built(board):
    manifest, folder = board.build("fp16", settings=BuildSettings(optimization_level=4))
    layers = EngineLayers.read(folder / store.LAYERS)
    assert layers.engine_sha256 == manifest.sha256
    options, facts = dict(manifest.options), dict(manifest.facts)
    assert options["optimization_level"] == "4"
    assert (facts["free_mib"], facts["workspace_mib"], facts["timing_cache"]) == ("2048", "1024", "new")
    if board.version == "8.6.1":
        assert facts["fused_attention"].startswith("unknown")
    else:
        assert facts["fused_attention"] == "1 of 2 blocks"
        assert f"{len(layers.layers)} layers ({facts['layers']}); attention fused: 1 of 2 blocks" in board.told[-1]
    assert manifest.machine.power_mode == "MAXN"


def test_free_memory_of_another_day_does_not_make_another_engine(board):
    first, folder = board.build()
    assert board.build(force=False) == (first, folder)
    assert board.told[-1] == f"macs-0.5: the engine in {folder} is current, nothing to build"


@pytest.mark.parametrize("settings", [BuildSettings(optimization_level=5), BuildSettings(sparse=True)])
def test_other_settings_make_another_engine_beside_the_first_and_what_rebuilds_it_names_them(one_board, settings):
    _, first = one_board.build()
    manifest, folder = one_board.build(settings=settings, force=False)
    assert folder.name == f"{first.name}-{'sparse' if settings.sparse else 'level5'}"
    assert store.settings_of(manifest) == settings
    with pytest.raises(InputError, match=r"the engine in .* is another one: driver") as caught:
        one_board.build(settings=settings, force=False, machine=orin("10.3.0", driver="540.5.0"))
    assert ("--sparse" if settings.sparse else "--optimization-level 5") in caught.value.hint


def test_an_engine_without_a_readable_layer_table_is_stored_and_says_so(one_board):
    one_board.script.layer_table = "not JSON"
    manifest, folder = one_board.build()
    assert not (folder / store.LAYERS).exists()
    assert dict(manifest.facts)["layers"].startswith("unknown: the engine inspector's table cannot be read")


@pytest.mark.parametrize(
    "change",
    [
        {"driver": "540.5.0"},
        {"board": "Jetson Orin NX 16GB (p3767-0000)"},
        {"power_mode": "MODE_15W"},
        {"versions": (("tensorrt", "10.7.0"),)},
        {"l4t": "39.2.0"},
        {"cuda": "13.2.1"},
        {"num_sms": 14},
    ],
)
def test_a_changed_driver_board_power_mode_or_tensorrt_is_refused_with_the_command_that_rebuilds(one_board, change):
    _, folder = one_board.build(settings=BuildSettings(optimization_level=5))
    with pytest.raises(MachineError, match="was built on another machine") as caught:
        store.load_engine(folder, orin("10.3.0", **change))
    assert f"--budget macs-0.5 --batch-size 1:2:4 --engines {one_board.engines} --optimization-level 5 --force" in (
        caught.value.hint
    )


def test_only_an_engine_of_another_power_mode_can_be_run_all_the_same(one_board):
    manifest, folder = one_board.build()
    other = orin("10.3.0", power_mode="MODE_15W", num_sms=6)
    refusal = "num_sms: built with 16, here 6; power_mode: built with MAXN, here MODE_15W"
    with pytest.raises(MachineError, match=refusal) as caught:
        store.load_engine(folder, other)
    assert caught.value.hint.endswith("--any-power-mode")
    assert store.load_engine(folder, other, any_power_mode=True) == manifest
    both = orin("10.3.0", power_mode="MODE_15W", driver="540.5.0")
    with pytest.raises(MachineError, match="driver") as caught:
        store.load_engine(folder, both, any_power_mode=True)
    assert "--any-power-mode" not in caught.value.hint


def test_timings_are_kept_for_each_machine_and_shared_by_its_engines(one_board):
    assert [dict(one_board.build(entry=entry)[0].facts)["timing_cache"] for entry in ("dense", "macs-0.5")] == [
        "new",
        "reused",
    ]
    one_board.build(machine=orin("10.3.0", power_mode="MODE_15W"))
    assert len(list((one_board.engines / timing_cache.FOLDER).iterdir())) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_that_is_stopped_leaves_nothing(board, number):
    board.script.during_build = lambda: os.kill(os.getpid(), number)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        board.build()
    left = [path for path in board.engines.rglob("*") if path.is_file() and timing_cache.FOLDER not in path.parts]
    assert left == []
    assert list(board.engines.glob("tiny*/*")) == []


KILLED = """
import os, signal, sys
from pathlib import Path
import pytest
from fakes.board import Board
board = Board(Path(sys.argv[1]), pytest.MonkeyPatch(), "10.3.0")
board.script.during_build = lambda: os.kill(os.getpid(), signal.SIGKILL)
board.build("fp16")
"""


def test_what_a_killed_build_had_written_goes_with_the_next_and_lies_nowhere_else(tmp_path, monkeypatch, repository):
    (tmp_path / "temporary").mkdir()
    paths = os.pathsep.join(map(str, (repository, repository / "tests")))
    places = os.environ | {"TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], env=places, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list((tmp_path / "temporary").rglob("*.onnx")) == []
    (left,) = (tmp_path / "engines").glob("tiny*/.*")
    assert {path.name for path in left.rglob("*")} >= {"half.onnx"}
    _, folder = Board(tmp_path, monkeypatch, "10.3.0").build()
    assert list(folder.parent.iterdir()) == [folder]
    assert {path.name for path in folder.iterdir()} == {"engine.plan", "layers.json", "manifest.json"}


def test_a_build_that_fails_leaves_nothing_but_the_former_engine(board):
    manifest, folder = board.build()
    board.script.builds = False
    with pytest.raises(CheckError):
        board.build()
    assert store.load_engine(folder, orin(board.version)) == manifest
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_too_little_memory_ends_a_build_before_it_begins(one_board, tmp_path):
    from heartvit_edge.engines import build
    from heartvit_edge.spec.engine import BatchRange

    with pytest.raises(MachineError, match="too little memory to build"):
        build.build_engine(
            one_board.folder,
            one_board.pack,
            "dense",
            "tensorrt",
            "fp32",
            BatchRange(),
            tmp_path / "other",
            orin("10.3.0"),
            force=False,
            memory=lambda _: (1 << 20, 8 << 30),
        )
    assert one_board.script.calls == []


def test_settings_of_tensorrt_are_refused_for_onnxruntime(one_board):
    from heartvit_edge.engines import build
    from heartvit_edge.spec.engine import BatchRange

    with pytest.raises(InputError, match="are TensorRT's, found backend onnxruntime"):
        build.build_engine(
            one_board.folder,
            one_board.pack,
            "dense",
            "onnxruntime",
            "fp32",
            BatchRange(),
            one_board.engines,
            orin("10.3.0"),
            force=False,
            settings=BuildSettings(sparse=True),
        )
