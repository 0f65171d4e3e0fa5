"""The TensorRT runner, on the double of every release that it supports and a device in host memory."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from fakes.board import Board, noise
from fakes.cuda_double import COMPUTE_MS, COPY_MS, FakeCuda
from fakes.tensorrt_double import Script, make_tensorrt
from fakes.tensorrt_surface import VERSIONS

from heartvit_edge.errors import CheckError, InputError, MachineError
from heartvit_edge.runtime.scratch import Scratch
from heartvit_edge.runtime.tensorrt_runner import TensorRTRunner
from heartvit_edge.spec.files import sha256_bytes

EXECUTE = "IExecutionContext.execute_async_v3"


@pytest.fixture(params=VERSIONS)
def board(request, tmp_path, monkeypatch):
    """Return a board with each release in turn."""
    return Board(tmp_path, monkeypatch, request.param)


@pytest.fixture
def one_board(tmp_path, monkeypatch):
    """Return a board with the release of JetPack 6.2."""
    return Board(tmp_path, monkeypatch, "10.3.0")


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-2)])
def test_an_engine_answers_as_its_graph_at_every_batch_size(board, precision, tolerance):
    with board.runner(precision) as runner:
        for batch in (1, 4, 2, 4, 1, 4):  # plain, then captured, then launched
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


def test_a_shape_is_captured_after_one_plain_enqueue_and_launched_as_one_graph_from_then_on(board):
    device, calls = board.script.device, board.script.arguments
    with board.runner() as runner:
        runner.infer(noise(1))
        assert (len(calls(EXECUTE)), device.launches) == (1, 0)
        runner.infer(noise(1))  # enqueued into the graph, not to be run
        assert (len(calls(EXECUTE)), device.launches) == (2, 1)
        for _ in range(3):
            runner.infer(noise(1))
        assert (len(calls(EXECUTE)), device.launches) == (2, 4)
        runner.infer(noise(3))  # another shape
        assert (len(calls(EXECUTE)), device.launches) == (3, 4)
        runner.infer(noise(1))  # the first one's graph is still there
        assert (len(calls(EXECUTE)), device.launches) == (3, 5)


@pytest.mark.parametrize(("use_graphs", "has_graphs"), [(False, True), (True, False)])
def test_without_graphs_every_call_enqueues_anew(one_board, use_graphs, has_graphs):
    one_board.script.device.has_graphs = has_graphs
    with one_board.runner(use_graphs=use_graphs) as runner:
        answers = [runner.infer(noise(1))["logits"] for _ in range(3)]
    assert len(one_board.script.arguments(EXECUTE)) == 3
    np.testing.assert_array_equal(answers[0], answers[2])


def test_work_that_cannot_be_captured_is_an_error_with_what_goes_without(one_board):
    with one_board.runner() as runner:
        runner.infer(noise(1))
        one_board.script.runs, one_board.script.log = False, (("ERROR", "operation not permitted when capturing"),)
        with pytest.raises(
            MachineError, match=r"batch 1 cannot be captured as a CUDA graph: .*not permitted"
        ) as caught:
            runner.infer(noise(1))
    assert caught.value.hint == "add --no-cuda-graph"


@pytest.mark.parametrize("use_graphs", [True, False])
def test_many_batches_are_answered_in_order_with_one_on_its_way_ahead(board, use_graphs):
    batches = [noise(size, seed=seed) for seed, size in enumerate((2, 2, 1, 2, 2, 1, 2))]
    submitted = []

    def given():
        for number, batch in enumerate(batches):
            submitted.append(number)
            yield batch

    with board.runner(use_graphs=use_graphs) as runner:
        for number, found in enumerate(runner.infer_many(given())):
            assert len(submitted) == min(number + 2, len(batches))
            np.testing.assert_allclose(found["logits"], board.expected(batches[number])["logits"], atol=1e-5)
    assert submitted == list(range(len(batches)))


def test_a_batch_ahead_waits_for_the_one_that_uses_the_scratch(one_board):
    device = one_board.script.device
    with one_board.runner() as runner:
        runner.infer(noise(1))
        runs = runner.infer_many([noise(1, seed=1), noise(1, seed=2)])
        next(runs)
        (second,) = (stream for stream, steps in device.streams.items() if steps)
        waits = [step for step in device.streams[second] if step.event is not None]
        assert [step.event.stream for step in waits] == [min(device.streams)]
        runs.close()


def test_batches_that_are_not_read_to_the_end_leave_nothing_running(one_board):
    device = one_board.script.device
    with one_board.runner() as runner:
        runs = runner.infer_many(itertools.repeat(noise(1)))
        next(runs)
        assert any(device.streams.values())
        runs.close()
        assert not any(device.streams.values())
        np.testing.assert_allclose(runner.infer(noise(1))["logits"], one_board.expected(noise(1))["logits"], atol=1e-5)


def test_the_steps_of_an_inference_are_timed_between_events(board):
    with board.runner() as runner:
        steps = [runner.time_steps(noise(1)) for _ in range(3)]
    for found in steps:  # one input, two outputs
        assert (found.h2d_ms, found.compute_ms, found.d2h_ms) == (COPY_MS, COMPUTE_MS, 2 * COPY_MS)
        assert 0 <= found.enqueue_ms <= found.latency_ms


def test_an_integrated_gpu_reads_and_writes_the_hosts_memory_in_place(board):
    board.script.device.integrated = True
    with board.runner() as runner:
        np.testing.assert_allclose(runner.infer(noise(2))["logits"], board.expected(noise(2))["logits"], atol=1e-5)
        steps = runner.time_steps(noise(2))
        assert (steps.h2d_ms, steps.compute_ms, steps.d2h_ms) == (0, COMPUTE_MS, 0)
        assert len(board.script.device.buffers) == 4  # an input, two outputs and the scratch: no second copy of any


def test_engines_that_take_turns_share_one_scratch_as_large_as_the_largest(board):
    board.script.scratch_bytes = 5000
    dense = board.runner(entry="dense")
    pruned = board.runner(entry="macs-0.5")
    with dense:
        board.script.scratch_bytes = 3000
        with pruned:
            for runner, entry in ((dense, "dense"), (pruned, "macs-0.5")) * 3:
                found, expected = runner.infer(noise(2)), board.expected(noise(2), entry)
                np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-5)
            sizes = [len(buffer) for buffer in board.script.device.buffers.values()]
            assert (sizes.count(5000), sizes.count(3000)) == (1, 0)


def test_an_engine_that_needs_more_scratch_later_moves_it_for_all(board):
    small, large = board.runner(entry="dense"), board.runner(entry="macs-0.5")
    with small:
        for _ in range(3):
            small.infer(noise(1))
        board.script.scratch_bytes = 50_000
        with large:
            large.infer(noise(1))
            launches = board.script.device.launches
            for turn in range(3):
                np.testing.assert_allclose(
                    small.infer(noise(1))["logits"], board.expected(noise(1), "dense")["logits"], atol=1e-5
                )
                assert board.script.device.launches == launches + turn  # plain once, then captured anew


def test_all_device_memory_is_given_back(board):
    with board.runner() as runner:
        runner.infer(noise(1))
    board.cuda.close()
    assert board.script.device.buffers == {}
    assert board.script.device.streams == {}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (noise(5), r"a batch of 5 images, engine macs-0.5 serves 1 to 4"),
        (noise(1)[0], r"images of \(3, 32, 32\) float32, engine macs-0.5 takes \(B, 3, 32, 32\) float32"),
        (noise(1)[..., :31], r"images of \(1, 3, 32, 31\) float32"),
        (noise(1).astype(np.float64), r"images of \(1, 3, 32, 32\) float64"),
    ],
)
def test_wrong_images_are_refused_before_the_device_sees_them(one_board, images, message):
    with one_board.runner() as runner:
        with pytest.raises(InputError, match=message):
            runner.infer(images)
        assert not any(one_board.script.device.streams.values())


def test_outside_of_with_there_is_nothing_to_run(one_board):
    with pytest.raises(RuntimeError, match="outside of with"):
        one_board.runner().infer(noise(1))


def test_contexts_share_the_profile_which_8_6_must_be_told_when_it_builds(tmp_path, monkeypatch):
    board = Board(tmp_path, monkeypatch, "8.6.1")
    manifest, folder = board.build()
    plan = (folder / "engine.plan").read_bytes().replace(b'"shares_profiles": true', b'"shares_profiles": false')
    (folder / "engine.plan").write_bytes(plan)
    manifest = manifest.model_copy(update={"sha256": sha256_bytes(plan)})
    with TensorRTRunner(manifest, folder, board.cuda, board.scratch) as runner:
        runner.infer(noise(2))
        with pytest.raises(MachineError, match=r"refuses optimization profile 0 for macs-0\.5 at batch 1"):
            runner.infer(noise(1))


def test_a_refused_input_shape_is_an_error(board):
    with board.runner() as runner:
        board.script.takes_input_shape, board.script.log = False, (("ERROR", "outside the profile"),)
        with pytest.raises(CheckError, match=r"refuses images of \(1, 3, 32, 32\): error: outside the profile"):
            runner.infer(noise(1))


def test_a_shape_that_tensorrt_misses_is_an_error(board):
    with board.runner() as runner:
        board.script.missing_shapes = ("num_keep",)
        with pytest.raises(CheckError, match="misses the shapes of num_keep"):
            runner.infer(noise(1))


def test_a_refused_launch_is_an_error(board):
    with board.runner() as runner:
        board.script.runs, board.script.log = False, (("ERROR", "an illegal address"),)
        with pytest.raises(MachineError, match=r"cannot run macs-0\.5 at batch 1: error: an illegal address"):
            runner.infer(noise(1))


@pytest.mark.parametrize("refusal", ["loads", "makes_context"])
def test_memory_that_runs_out_in_tensorrt_is_told_with_what_was_asked_and_what_is_free(board, refusal):
    runner = board.runner()
    setattr(board.script, refusal, False)
    board.script.device.free_bytes = 100 << 20
    board.script.log = (("ERROR", "Requested amount of GPU memory (314572800 bytes) could not be allocated."),)
    with pytest.raises(MachineError, match=r"asked for 300\.0 MiB, (100|99)\.\d of 1024\.0 MiB are free") as caught:
        runner.__enter__()
    assert caught.value.exit_code == 3


def test_scratch_that_the_device_has_not_is_told(board):
    board.script.scratch_bytes = 2 << 30
    with board.runner() as runner, pytest.raises(MachineError, match="out of memory: asked for 2147483648"):
        runner.infer(noise(1))


@pytest.mark.parametrize(
    ("refusal", "error", "message"),
    [
        ("loads", MachineError, r"cannot load .*engine.plan: error: bad magic"),
        ("makes_context", MachineError, r"cannot make an execution context for macs-0\.5 at batch 2: error: bad magic"),
        ("takes_profile", MachineError, r"refuses optimization profile 0 for macs-0\.5 at batch 2: error: bad magic"),
        ("takes_address", CheckError, "refuses a buffer for images: error: bad magic"),
    ],
)
def test_an_engine_that_cannot_be_opened_is_an_error(board, refusal, error, message):
    runner = board.runner()
    setattr(board.script, refusal, False)
    board.script.log = (("ERROR", "bad magic"),)
    with pytest.raises(error, match=message), runner:
        pass


def test_an_altered_plan_is_never_given_to_tensorrt(board):
    manifest, folder = board.build()
    board.script.calls.clear()
    with (folder / manifest.file).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckError, match=r"engine\.plan was altered"):
        TensorRTRunner(manifest, folder, board.cuda, board.scratch).__enter__()
    assert board.script.calls == []


def test_a_manifest_with_other_tensors_is_refused(board):
    manifest, _ = board.build()
    fewer = board.runner(outputs=manifest.outputs[:1])
    with pytest.raises(CheckError, match=r"the engine has the tensors .*kept_1.* its manifest says"), fewer:
        pass


def test_a_plan_of_another_release_is_refused(one_board, monkeypatch):
    manifest, folder = one_board.build()
    newer = make_tensorrt("10.7.0", Script(log=(("ERROR", "version mismatch"),)))
    monkeypatch.setitem(sys.modules, "tensorrt", newer)
    cuda = FakeCuda(Script().device)
    with pytest.raises(MachineError, match=r"TensorRT 10.7.0 cannot load .*: error: version mismatch") as caught:
        TensorRTRunner(manifest, folder, cuda, Scratch(cuda)).__enter__()
    assert "--force" in caught.value.hint
