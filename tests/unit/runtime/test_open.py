"""The manifest chooses the runner, and TensorRT engines share one device."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.board import Board, noise
from fakes.cuda_double import FakeCuda

from heartvit_edge.errors import InputError
from heartvit_edge.runtime import open as module
from heartvit_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from heartvit_edge.runtime.open import CudaChoice, open_runner, open_runners
from heartvit_edge.runtime.tensorrt_runner import TensorRTRunner


@pytest.fixture
def board(tmp_path, monkeypatch):
    """Return a board whose CUDA is the fake device; ``board.opened`` lists (binding, device)."""
    board = Board(tmp_path, monkeypatch, "10.3.0")
    board.opened = []

    def open_cuda(binding):
        board.opened.append((binding, FakeCuda(board.script.device)))
        return board.opened[-1][1]

    monkeypatch.setattr(module, "open_cuda", open_cuda)
    return board


def test_engines_of_a_run_share_one_device_which_is_closed_at_the_end(board):
    engines = [board.build(entry=entry) for entry in ("dense", "macs-0.5")]
    with open_runners(engines, CudaChoice("pycuda")) as runners:
        for runner, entry in zip(runners, ("dense", "macs-0.5"), strict=True):
            found, expected = runner.infer(noise(2)), board.expected(noise(2), entry)
            np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-5)
    assert [(binding, cuda.closed) for binding, cuda in board.opened] == [("pycuda", True)]
    assert board.script.device.buffers == {}


@pytest.mark.parametrize("use_graphs", [True, False])
def test_graphs_are_used_unless_told_otherwise(board, use_graphs):
    with open_runner(*board.build(), CudaChoice(use_graphs=use_graphs)) as runner:
        for _ in range(3):
            runner.infer(noise(1))
    assert board.script.device.launches == (2 if use_graphs else 0)


def test_the_backend_of_the_manifest_chooses_the_runner_and_onnxruntime_opens_no_device(board):
    engines = [board.build()]
    with open_runners(engines) as (runner,):
        assert isinstance(runner, TensorRTRunner)
    board.opened.clear()
    manifest = engines[0][0].model_copy(
        update={
            "backend": "onnxruntime",
            "file": "macs-0.5.onnx",
            "sha256": board.pack.entry("macs-0.5").onnx_sha256,
            "options": (("provider", "CPUExecutionProvider"), ("intra_op_num_threads", "1")),
        }
    )
    with open_runners([(manifest, board.folder)]) as (runner,):
        assert isinstance(runner, OnnxRuntimeRunner)
    assert board.opened == []


def test_a_device_is_closed_where_an_engine_cannot_be_loaded(board):
    manifest, folder = board.build()
    (folder / manifest.file).unlink()
    with pytest.raises(InputError, match="cannot read"), open_runners([(manifest, folder)]):
        pass
    assert [cuda.closed for _, cuda in board.opened] == [True]
