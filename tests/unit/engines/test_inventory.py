"""The store's inventory: what fits, what is whole, and what could go without loss."""

from __future__ import annotations

import pytest
from fakes.board import Board
from fakes.machines import DESKTOP, orin

from heartvit_edge.engines import inventory, store
from heartvit_edge.errors import CheckError, InputError, MachineError

HERE = orin("10.3.0")


@pytest.fixture
def board(tmp_path, monkeypatch):
    """Return a board with two engines in its store."""
    board = Board(tmp_path, monkeypatch, "10.3.0")
    board.folders = [board.build(entry=entry)[1] for entry in ("dense", "macs-0.5")]
    return board


def test_every_engine_is_listed_with_its_size_and_whether_it_fits(board):
    found = inventory.list_engines(board.engines, HERE)
    assert [one.folder for one in found] == board.folders
    for one in found:
        assert one.num_bytes == sum(path.stat().st_size for path in one.folder.iterdir())
        assert one.unfit == ""
    elsewhere = inventory.list_engines(board.engines, orin("10.7.0", power_mode="15W"))
    assert elsewhere[0].unfit == "power_mode: built with MAXN, here 15W; tensorrt: built with 10.3.0, here 10.7.0"


def test_an_engine_whose_manifest_cannot_be_read_is_listed_with_the_reason(board):
    (board.folders[0] / store.MANIFEST).write_text("{")
    found = inventory.list_engines(board.engines, HERE)
    assert found[0].manifest is None
    assert "is not JSON" in found[0].unfit


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        inventory.list_engines(tmp_path / "none", HERE)


def test_an_altered_engine_is_found_by_its_hash_and_a_foreign_one_by_its_machine(board):
    assert [error for _, error in inventory.verify_engines(board.engines, HERE)] == [None, None]
    with (board.folders[0] / "engine.plan").open("ab") as file:
        file.write(b"\0")
    (_, altered), (_, whole) = inventory.verify_engines(board.engines, HERE)
    assert isinstance(altered, CheckError)
    assert whole is None
    (_, _), (_, foreign) = inventory.verify_engines(board.engines, orin("10.3.0", driver="540.5.0"))
    assert isinstance(foreign, MachineError)


def test_nothing_of_use_goes(board):
    assert inventory.find_waste(board.engines, HERE) == []


def test_engines_and_timings_of_another_power_mode_stay(board):
    board.build(entry="dense", machine=orin("10.3.0", power_mode="15W", num_sms=6))
    assert inventory.find_waste(board.engines, HERE) == []


def test_altered_and_foreign_engines_left_overs_and_foreign_timings_go(board):
    dense, pruned = board.folders
    (dense / "engine.plan").write_bytes(b"altered")
    left = dense.parent / ".dense-tensorrt-fp32.ab12cd34"
    left.mkdir()
    other = {path: reason for path, reason in inventory.find_waste(board.engines, HERE)}
    assert other.keys() == {left, dense}
    assert "was altered" in other[dense]
    elsewhere = {path for path, _ in inventory.find_waste(board.engines, orin("10.7.0"))}
    (timings,) = (board.engines / "timing-cache").iterdir()
    assert elsewhere == {left, dense, pruned, timings}


def test_what_goes_takes_its_empty_folder_along_and_leaves_the_store(board):
    for waste in inventory.find_waste(board.engines, orin("10.7.0")):
        inventory.remove(waste)
    assert list(board.engines.iterdir()) == []


def test_folders_that_are_no_engines_are_never_touched(board):
    for name in ("photos", "notes-fp16", ".cache.ab12cd34"):
        (board.engines / "mine" / name).mkdir(parents=True)
    (board.engines / "mine" / "file-tensorrt-fp16").write_text("a file")
    paths = {path for path, _ in inventory.find_waste(board.engines, DESKTOP)}
    assert not any("mine" in path.parts for path in paths)
