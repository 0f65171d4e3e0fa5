"""The same build and run as on the double, on a real TensorRT."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from fakes.board import noise
from fakes.tensorrt_contract import HANDED_OUT, claimed
from fakes.tiny_pack import make_tiny_pack

from heartvit_edge.engines.build import build_engine, pick_backend
from heartvit_edge.engines.fingerprint import detect_machine
from heartvit_edge.engines.store import LAYERS, load_engine
from heartvit_edge.engines.tensorrt_module import import_tensorrt
from heartvit_edge.errors import CheckError
from heartvit_edge.runtime.open import CudaChoice, open_runner, open_runners
from heartvit_edge.runtime.tensorrt_runner import TensorRTRunner
from heartvit_edge.runtime.verify import compare, verify_engine
from heartvit_edge.spec.engine import BatchRange
from heartvit_edge.spec.layers import EngineLayers

pytestmark = pytest.mark.tensorrt


@pytest.fixture
def build(tmp_path):
    """Return a function that builds an engine of the tiny pack for this machine; it gives manifest and folder."""
    pack = make_tiny_pack(tmp_path / "pack")

    def run(entry="macs-0.5", precision="fp32", **more):
        folder = build_engine(
            tmp_path / "pack",
            pack,
            entry,
            "tensorrt",
            precision,
            BatchRange(min=1, opt=2, max=4),
            tmp_path / "engines",
            detect_machine(),
            force=True,
            **more,
        )
        return load_engine(folder, detect_machine()), folder

    run.graph = lambda entry: tmp_path / "pack" / pack.entry(entry).onnx
    return run


def test_this_release_has_every_member_that_is_claimed_of_its_kind():
    trt = import_tensorrt()
    for name in claimed(trt.__version__):
        owner, _, member = name.partition(".")
        assert not member or hasattr(getattr(trt, owner), member), name
    assert all(hasattr(trt, name) for name in HANDED_OUT)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("entry", ["dense", "macs-0.5"])
def test_an_engine_is_built_loaded_and_answers_as_its_graph(build, entry, precision):
    assert pick_backend(None)[0] == "tensorrt"
    manifest, folder = build(entry, precision, verify=verify_engine)
    verify_engine(manifest, folder, build.graph(entry))
    layers = EngineLayers.read(folder / LAYERS)
    assert layers.engine_sha256 == manifest.sha256
    assert layers.layers


@pytest.mark.parametrize(
    "choice", [CudaChoice(), CudaChoice(use_graphs=False), CudaChoice("pycuda")], ids=["graphs", "plain", "pycuda"]
)
def test_every_way_to_the_device_gives_the_same_answers(build, choice):
    if choice.binding == "pycuda":
        pytest.importorskip("pycuda.driver")
    manifest, folder = build()
    batches = [noise(size, seed=seed) for seed, size in enumerate((2, 2, 1, 4, 2, 2, 1))]
    with open_runner(manifest, folder) as runner:
        expected = [runner.infer(batch) for batch in batches]
    with open_runner(manifest, folder, choice) as runner:
        for one, many, wanted in zip(
            map(runner.infer, batches), list(runner.infer_many(batches)), expected, strict=True
        ):
            for name, value in wanted.items():
                np.testing.assert_array_equal(one[name], value)
                np.testing.assert_array_equal(many[name], value)


def test_engines_that_take_turns_on_one_scratch_do_not_disturb_each_other(build):
    engines = [build("dense"), build("macs-0.5")]
    images = noise(4)
    alone = []
    for engine in engines:
        with open_runner(*engine) as runner:
            alone.append(runner.infer(images))
    with open_runners(engines) as runners:
        for _ in range(4):
            for runner, (manifest, _), expected in zip(runners, engines, alone, strict=True):
                compare(expected, runner.infer(images), manifest)


def test_budgets_of_one_graph_share_one_engine_and_answer_as_their_graph(tmp_path):
    pytest.importorskip("torch", reason="the pack of this test is exported here")
    from fakes.adaptive_pack import make_adaptive_pack

    pack = make_adaptive_pack(tmp_path / "pack")
    engines = []
    for entry in ("macs-0.8", "macs-0.6"):
        machine = detect_machine()
        place = (tmp_path / "engines", machine)
        asked = (tmp_path / "pack", pack, entry, "tensorrt", "fp32", BatchRange(min=1, opt=2, max=4))
        folder = build_engine(*asked, *place, force=False, verify=verify_engine)
        engines.append((load_engine(folder, machine), folder))
    assert len({manifest.sha256 for manifest, _ in engines}) == 1
    images = noise(4)
    alone = []
    for engine in engines:
        with open_runner(*engine) as runner:
            alone.append(runner.infer(images))
    assert alone[0]["kept_3"].shape != alone[1]["kept_3"].shape
    with open_runners(engines) as runners:
        for _ in range(3):
            for runner, (manifest, _), expected in zip(runners, engines, alone, strict=True):
                compare(expected, runner.infer(images), manifest)


def test_the_steps_of_an_inference_are_shorter_than_the_whole(build):
    with open_runner(*build()) as runner:
        assert isinstance(runner, TensorRTRunner)
        for _ in range(3):
            steps = runner.time_steps(noise(2))
    assert steps.compute_ms > 0
    assert min(steps.h2d_ms, steps.d2h_ms, steps.enqueue_ms) >= 0
    assert steps.h2d_ms + steps.compute_ms + steps.d2h_ms < steps.latency_ms


def test_a_second_build_uses_the_timings_of_the_first(build):
    assert dict(build()[0].facts)["timing_cache"] == "new"
    assert dict(build()[0].facts)["timing_cache"] == "reused"


def test_progress_is_told_from_tensorrt_10_on(build):
    told = []
    build(progress=lambda *step: told.append(step))
    assert bool(told) == hasattr(import_tensorrt(), "IProgressMonitor")


def test_an_altered_engine_is_refused(build):
    manifest, folder = build()
    with (folder / manifest.file).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckError, match="was altered"), open_runner(manifest, folder):
        pass


@pytest.mark.jetson
def test_on_a_board_the_whole_command_line_builds_times_and_verifies(tmp_path):
    make_tiny_pack(tmp_path / "pack")

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "heartvit_edge", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    manifests = run("build-engine", "pack", "--backend", "tensorrt", "--precision", "fp16").splitlines()
    folders = [manifest.rpartition("/")[0] for manifest in manifests]
    assert len(folders) == 2
    run("engines", "verify")
    assert "dense-tensorrt-fp16" in run("engines", "time", *folders, "--duration", "0.2")
    run("bench", "pack", "--out", "run", "--duration", "0.2")
    assert run("engines", "prune") == ""
