"""The TensorRT runner, on the double of every release that it supports and a device in host memory."""

from __future__ import annotations

import copy
import sys

import numpy as np
import onnxruntime
import pytest
from fakes.cuda_double import FakeCudaMemory
from fakes.machines import orin
from fakes.tensorrt_double import VERSIONS, Script, make_tensorrt, read_surface
from fakes.tiny_pack import make_tiny_pack

from heartvit_edge.engines import build
from heartvit_edge.errors import CheckError, InputError, MachineError
from heartvit_edge.runtime.tensorrt_runner import TensorRTRunner
from heartvit_edge.spec.engine import BatchRange, EngineManifest


def noise(batch, seed=0):
    """Return a seeded batch of noise."""
    return np.random.default_rng(seed).standard_normal((batch, 3, 32, 32), dtype=np.float32)


class Board:
    """A pack, the double of a release, and engines built with it."""

    def __init__(self, tmp_path, monkeypatch, version, surface=None):
        self.script = Script()
        self.version = version
        self.engines = tmp_path / "engines"
        self.folder = tmp_path / "pack"
        self.pack = make_tiny_pack(self.folder)
        self.memories = []
        monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(version, self.script, surface))

    def memory(self):
        self.memories.append(FakeCudaMemory(self.script.device))
        return self.memories[-1]

    def build(self, precision="fp32", batch=None):
        folder = build.build_engine(
            self.folder,
            self.pack,
            "macs-0.5",
            "tensorrt",
            precision,
            batch or BatchRange(min=1, opt=2, max=4),
            self.engines,
            orin(self.version),
            force=True,
        )
        return EngineManifest.read(folder / "manifest.json"), folder

    def runner(self, precision="fp32", **changes):
        manifest, folder = self.build(precision)
        return TensorRTRunner(manifest.model_copy(update=changes), folder, self.memory)

    def expected(self, images):
        """Return the outputs of the pack's graph on ONNX Runtime, by name."""
        session = onnxruntime.InferenceSession(self.folder / "macs-0.5.onnx", providers=["CPUExecutionProvider"])
        return dict(zip(["logits", "kept_1"], session.run(["logits", "kept_1"], {"images": images}), strict=True))


@pytest.fixture(params=VERSIONS)
def board(request, tmp_path, monkeypatch):
    """Return a board with each release in turn."""
    return Board(tmp_path, monkeypatch, request.param)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-2)])
def test_an_engine_answers_as_its_graph_at_every_batch_size(board, precision, tolerance):
    with board.runner(precision) as runner:
        for batch in (1, 4, 2):
            images = noise(batch, seed=batch)
            found, expected = runner.infer(images), board.expected(images)
            assert list(found) == ["logits", "kept_1"]
            np.testing.assert_allclose(found["logits"], expected["logits"], atol=tolerance)
            np.testing.assert_array_equal(found["kept_1"], expected["kept_1"])
            assert (found["logits"].dtype, found["kept_1"].dtype) == (np.float32, np.int32)


def test_a_later_call_leaves_earlier_outputs_alone(board):
    with board.runner() as runner:
        first = runner.infer(noise(2, seed=1))
        before = first["logits"].copy()
        runner.infer(noise(2, seed=2))
    np.testing.assert_array_equal(first["logits"], before)


def test_a_batch_that_is_not_contiguous_is_answered_like_its_copy(board):
    images = np.asfortranarray(noise(2))
    with board.runner() as runner:
        np.testing.assert_allclose(runner.infer(images)["logits"], board.expected(noise(2))["logits"], atol=1e-5)


def test_all_device_memory_is_given_back(board):
    with board.runner() as runner:
        runner.infer(noise(1))
        assert len(board.script.device.buffers) == 3
    assert board.script.device.buffers == {}
    assert [memory.closed for memory in board.memories] == [True]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (noise(5), r"a batch of 5 images, engine macs-0.5 serves 1 to 4"),
        (noise(1)[0], r"images of \(3, 32, 32\) float32, engine macs-0.5 takes \(B, 3, 32, 32\) float32"),
        (noise(1)[..., :31], r"images of \(1, 3, 32, 31\) float32"),
        (noise(1).astype(np.float64), r"images of \(1, 3, 32, 32\) float64"),
    ],
)
def test_wrong_images_are_refused_before_the_device_sees_them(board, images, message):
    with board.runner() as runner:
        with pytest.raises(InputError, match=message):
            runner.infer(images)
        assert board.script.device.queue == []


def test_a_refused_input_shape_is_an_error(board):
    with board.runner() as runner:
        board.script.takes_input_shape, board.script.log = False, (("ERROR", "outside the profile"),)
        with pytest.raises(CheckError, match=r"refuses images of \(1, 3, 32, 32\): error: outside the profile"):
            runner.infer(noise(1))


def test_a_refused_launch_is_an_error(board):
    with board.runner() as runner:
        board.script.runs, board.script.log = False, (("ERROR", "an illegal address"),)
        with pytest.raises(MachineError, match=r"cannot run macs-0\.5: error: an illegal address"):
            runner.infer(noise(1))


@pytest.mark.parametrize(
    ("refusal", "error", "message"),
    [
        ("loads", MachineError, r"cannot load .*engine.plan: error: bad magic"),
        ("makes_context", MachineError, "cannot make an execution context: error: bad magic"),
        ("takes_address", CheckError, "refuses a buffer for images: error: bad magic"),
    ],
)
def test_an_engine_that_cannot_be_opened_is_an_error_and_holds_no_memory(board, refusal, error, message):
    runner = board.runner()
    setattr(board.script, refusal, False)
    board.script.log = (("ERROR", "bad magic"),)
    with pytest.raises(error, match=message), runner:
        pass
    assert board.script.device.buffers == {}
    assert board.memories[0].closed


def test_an_altered_plan_is_never_given_to_tensorrt(board):
    manifest, folder = board.build()
    with (folder / manifest.file).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckError, match=r"engine\.plan was altered"), TensorRTRunner(manifest, folder, board.memory):
        pass
    assert board.script.arguments("Runtime.deserialize_cuda_engine") == []


def test_a_manifest_with_other_tensors_is_refused(board):
    manifest, _ = board.build()
    fewer = board.runner(outputs=manifest.outputs[:1])
    with pytest.raises(CheckError, match=r"the engine has the tensors .*kept_1.* its manifest says"), fewer:
        pass


def test_a_plan_of_another_release_is_refused(tmp_path, monkeypatch):
    manifest, folder = Board(tmp_path, monkeypatch, "10.3.0").build()
    newer = make_tensorrt("10.7.0", Script(log=(("ERROR", "version mismatch"),)))
    monkeypatch.setitem(sys.modules, "tensorrt", newer)
    with pytest.raises(MachineError, match=r"TensorRT 10.7.0 cannot load .*: error: version mismatch") as caught:
        TensorRTRunner(manifest, folder, lambda: FakeCudaMemory(Script().device)).__enter__()
    assert "--force" in caught.value.hint


@pytest.mark.parametrize("version", ["8.6.1", "11.4.0.106"])
def test_every_called_member_is_needed_so_a_renamed_one_is_noticed(tmp_path, monkeypatch, version):
    whole = Board(tmp_path / "whole", monkeypatch, version)
    with whole.runner("fp16") as runner:
        runner.infer(noise(1))
    called = {name for name, _ in whole.script.calls}
    assert {"OnnxParser.parse_from_file", "IExecutionContext.execute_async_v3"} <= called
    for owner, member in (name.split(".") for name in sorted(called - {"ILogger.log"})):
        surface = copy.deepcopy(read_surface(version))
        surface[owner][f"{member}_renamed"] = surface[owner].pop(member)
        board = Board(tmp_path / owner / member, monkeypatch, version, surface)
        with pytest.raises(AttributeError, match=member), board.runner("fp16") as runner:
            runner.infer(noise(1))
