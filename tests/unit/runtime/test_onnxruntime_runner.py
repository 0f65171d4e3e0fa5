"""The ONNX Runtime runner: right answers, refused input, refused files."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from fakes.machines import DESKTOP
from fakes.tiny_pack import make_tiny_pack

from heartvit_edge.engines.build import build_engine
from heartvit_edge.errors import CheckError, InputError, MachineError
from heartvit_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from heartvit_edge.runtime.open import open_runner
from heartvit_edge.spec.engine import BatchRange, EngineManifest


@pytest.fixture
def engine(tmp_path):
    """Return manifest and folder of the macs-0.5 engine, which serves 2 to 4 images."""
    pack = make_tiny_pack(tmp_path / "pack")
    folder = build_engine(
        tmp_path / "pack",
        pack,
        "macs-0.5",
        "onnxruntime",
        "fp32",
        BatchRange(min=2, opt=2, max=4),
        tmp_path / "engines",
        DESKTOP,
        force=False,
    )
    return EngineManifest.read(folder / "manifest.json"), folder


def noise(batch, seed=0):
    """Return a seeded batch of noise."""
    return np.random.default_rng(seed).standard_normal((batch, 3, 32, 32), dtype=np.float32)


@pytest.mark.parametrize("batch", [2, 4])
def test_outputs_come_by_name_and_are_those_of_the_graph(engine, tmp_path, batch):
    graph = onnxruntime.InferenceSession(tmp_path / "pack/macs-0.5.onnx", providers=["CPUExecutionProvider"])
    logits, kept = graph.run(["logits", "kept_1"], {"images": noise(batch)})
    with open_runner(*engine) as runner:
        found = runner.infer(noise(batch))
    assert list(found) == ["logits", "kept_1"]
    np.testing.assert_allclose(found["logits"], logits, atol=1e-5)
    np.testing.assert_array_equal(found["kept_1"], kept)


def test_a_later_call_leaves_earlier_outputs_alone(engine):
    with open_runner(*engine) as runner:
        first = runner.infer(noise(2, seed=1))["logits"]
        before = first.copy()
        runner.infer(noise(2, seed=2))
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (noise(1), "a batch of 1 images, engine macs-0.5 serves 2 to 4"),
        (noise(5), "a batch of 5 images, engine macs-0.5 serves 2 to 4"),
        (noise(2)[:, :1], r"images of \(2, 1, 32, 32\) float32, engine macs-0.5 takes \(B, 3, 32, 32\) float32"),
        (noise(2)[0], r"images of \(3, 32, 32\) float32"),
        (noise(2).astype(np.float16), r"images of \(2, 3, 32, 32\) float16"),
        ((noise(2) * 255).astype(np.uint8), r"images of \(2, 3, 32, 32\) uint8"),
    ],
)
def test_images_that_the_engine_does_not_take_are_refused(engine, images, message):
    with open_runner(*engine) as runner, pytest.raises(InputError, match=message):
        runner.infer(images)


def test_a_batch_that_is_too_large_names_the_command_that_serves_it(engine):
    with open_runner(*engine) as runner, pytest.raises(InputError) as caught:
        runner.infer(noise(16))
    assert "--batch-size 2:2:16" in caught.value.hint


def test_an_altered_engine_is_not_loaded(engine):
    manifest, folder = engine
    (folder / manifest.file).write_bytes(b"altered")
    with pytest.raises(CheckError, match=r"engine\.onnx was altered"), OnnxRuntimeRunner(manifest, folder):
        pass


def test_a_missing_engine_file_is_named(engine):
    manifest, folder = engine
    (folder / manifest.file).unlink()
    with pytest.raises(InputError, match=r"cannot read .*engine\.onnx"), OnnxRuntimeRunner(manifest, folder):
        pass


def test_an_engine_of_a_provider_that_is_not_here_is_refused_not_run_elsewhere(engine):
    manifest, folder = engine
    moved = manifest.model_copy(update={"options": (("provider", "DmlExecutionProvider"), *manifest.options[1:])})
    with pytest.raises(MachineError, match="has no DmlExecutionProvider"), OnnxRuntimeRunner(moved, folder):
        pass


def test_the_threads_are_those_of_the_manifest(engine, monkeypatch):
    seen = []
    whole = onnxruntime.InferenceSession

    def spy(model, options, **more):
        seen.append((options.intra_op_num_threads, options.inter_op_num_threads, options.graph_optimization_level))
        return whole(model, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    manifest, folder = engine
    options = dict(manifest.options) | {"intra_op_num_threads": "3"}
    with OnnxRuntimeRunner(manifest.model_copy(update={"options": tuple(options.items())}), folder):
        pass
    assert seen == [(3, 1, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)]


def test_outside_of_with_there_is_nothing_to_run(engine):
    runner = OnnxRuntimeRunner(*engine)
    with pytest.raises(RuntimeError, match="outside of with"):
        runner.infer(noise(2))
    with runner:
        runner.infer(noise(2))
    with pytest.raises(RuntimeError, match="outside of with"):
        runner.infer(noise(2))


def test_many_batches_are_answered_in_order(engine):
    batches = [noise(size, seed=size) for size in (2, 4, 3)]
    with open_runner(*engine) as runner:
        for batch, found in zip(batches, runner.infer_many(batches), strict=True):
            np.testing.assert_array_equal(found["logits"], runner.infer(batch)["logits"])
