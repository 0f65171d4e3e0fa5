"""Budgets that share a graph share one TensorRT engine: on the disk, and in the device's memory."""

from __future__ import annotations

import os

import numpy as np
import pytest
from fakes.adaptive_pack import make_adaptive_pack
from fakes.board import Board, noise
from fakes.cuda_double import FakeCuda
from fakes.machines import orin
from fakes.tensorrt_surface import VERSIONS

from heartvit_edge.engines.store import LAYERS, load_engine
from heartvit_edge.runtime import open as opening
from heartvit_edge.runtime.open import open_runners
from heartvit_edge.runtime.verify import verify_engine
from heartvit_edge.spec.layers import EngineLayers

BUDGETS = ("macs-0.8", "macs-0.6")
BUILD = "Builder.build_serialized_network"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adaptive") / "pack"
    return folder, make_adaptive_pack(folder)


@pytest.fixture
def make_board(made, tmp_path, monkeypatch):
    """Return a function that gives a board of a release with the pack of one graph for two budgets."""

    def make(version="10.3.0"):
        board = Board(tmp_path, monkeypatch, version, make_pack=lambda _: made[1])
        board.folder = made[0]
        monkeypatch.setattr(opening, "open_cuda", lambda _: FakeCuda(board.script.device))
        return board

    return make


@pytest.mark.parametrize("version", VERSIONS)
def test_one_engine_is_built_and_loaded_for_all_budgets_of_a_graph(make_board, version):
    board = make_board(version)
    engines = [board.build(entry=entry, force=False, verify=verify_engine) for entry in BUDGETS]
    assert len(board.script.arguments(BUILD)) == 1
    (first, place), (second, other) = engines
    assert (first.sha256, first.profile, second.profile) == (second.sha256, 0, 1)
    assert (place / first.file).samefile(other / second.file)
    assert first.outputs[1].shape != second.outputs[1].shape
    board.script.calls.clear()
    with open_runners(engines) as runners:
        for batch in (2, 1, 2, 2):  # plain, then captured, then launched, in turn
            for runner, entry in zip(runners, BUDGETS, strict=True):
                found, expected = runner.infer(noise(batch)), board.expected(noise(batch), entry)
                np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-4)
                np.testing.assert_array_equal(found["kept_3"], expected["kept_3"])
    assert len(board.script.arguments("Runtime.deserialize_cuda_engine")) == 1
    assert board.script.device.buffers == {}


def test_each_budgets_layer_table_and_facts_are_of_its_own_profile(make_board):
    board = make_board()
    for number, entry in enumerate(BUDGETS):
        manifest, folder = board.build(entry=entry, force=False)
        layers = EngineLayers.read(folder / LAYERS)
        assert (layers.budget, layers.engine_sha256) == (entry, manifest.sha256)
        assert {layer.name.partition(" [profile ")[2] for layer in layers.layers} == {f"{number}]" if number else ""}
        assert {"free_mib", "workspace_mib", "timing_cache", "layers", "fused_attention"} == set(dict(manifest.facts))
    assert "macs-0.6: shares the engine of macs-0.8, which has a profile for it" in board.told
    assert load_engine(folder, orin("10.3.0")) == manifest


def test_force_builds_anew_but_once_for_all_budgets_of_one_command(make_board):
    board = make_board()
    _, folder = board.build(entry="macs-0.8")
    board.build(entry="macs-0.6")
    assert len(board.script.arguments(BUILD)) == 2
    board.build(entry="macs-0.6", fresh={folder})
    assert len(board.script.arguments(BUILD)) == 2


@pytest.mark.parametrize("spoil", ["altered", "gone", "another machine", "another batch"])
def test_an_engine_that_is_not_whole_and_the_same_is_not_shared(make_board, spoil):
    board = make_board()
    manifest, folder = board.build(entry="macs-0.8")
    changes = {}
    if spoil == "altered":
        (folder / manifest.file).write_bytes(b"altered")
    elif spoil == "gone":
        (folder / "manifest.json").unlink()
    elif spoil == "another machine":
        changes = {"machine": orin("10.3.0", driver="540.5.0")}
    else:
        changes = {"batch": manifest.batch.model_copy(update={"max": 8})}
    board.build(entry="macs-0.6", force=False, **changes)
    assert len(board.script.arguments(BUILD)) == 2


def test_where_files_cannot_be_linked_the_engine_is_copied(make_board, monkeypatch):
    board = make_board()
    first, place = board.build(entry="macs-0.8")

    def refuse(*_):
        raise OSError("this file system has no links")

    monkeypatch.setattr(os, "link", refuse)
    second, other = board.build(entry="macs-0.6", force=False, verify=None)
    assert second.sha256 == first.sha256
    assert not (place / first.file).samefile(other / second.file)
    assert (place / first.file).read_bytes() == (other / second.file).read_bytes()


def test_removing_one_budgets_engine_leaves_the_others(make_board):
    board = make_board()
    _, place = board.build(entry="macs-0.8")
    manifest, other = board.build(entry="macs-0.6", force=False)
    (place / manifest.file).unlink()
    assert load_engine(other, orin("10.3.0")) == manifest


def test_a_graph_of_constant_counts_has_an_engine_of_its_own(make_board):
    manifest, _ = make_board().build(entry="dense")
    assert (manifest.budgets, manifest.profile) == ((), 0)
