"""Building: the backend that is picked, the engine that is stored, and what a failed build leaves."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from fakes.machines import DESKTOP
from fakes.tensorrt_double import make_tensorrt
from fakes.tiny_pack import make_tiny_pack

from heartvit_edge.engines import build, store
from heartvit_edge.engines.build import build_engine, pick_backend
from heartvit_edge.errors import CheckError, InputError, MachineError
from heartvit_edge.spec.engine import BatchRange
from heartvit_edge.spec.files import sha256_file


@pytest.fixture
def build_dense(tmp_path):
    """Return a function that builds the dense entry of a tiny pack for ONNX Runtime."""
    folder = tmp_path / "pack"
    pack = make_tiny_pack(folder)

    def run(*, entry="dense", precision="fp32", batch=None, machine=DESKTOP, force=False, **more):
        return build_engine(
            folder,
            pack,
            entry,
            "onnxruntime",
            precision,
            batch or BatchRange(),
            tmp_path / "engines",
            machine,
            force=force,
            **more,
        )

    return run


def infer(path, images):
    """Return the logits of a graph on ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def test_tensorrt_is_picked_where_it_imports_and_finds_a_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt("10.3.0"))
    monkeypatch.setattr(build, "why_no_cuda_device", lambda: None)
    assert pick_backend(None) == ("tensorrt", "TensorRT 10.3.0 and a GPU are here")
    assert pick_backend("tensorrt") == ("tensorrt", "asked for; TensorRT 10.3.0 and a GPU are here")


def test_without_tensorrt_onnxruntime_is_picked_and_the_reason_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    backend, reason = pick_backend(None)
    assert backend == "onnxruntime"
    assert reason.startswith(f"ONNX Runtime {onnxruntime.__version__} is the default where TensorRT cannot be imported")


def test_without_a_gpu_onnxruntime_is_picked_though_tensorrt_imports(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt("10.3.0"))
    monkeypatch.setattr(build, "why_no_cuda_device", lambda: "the NVIDIA driver finds no GPU")
    assert pick_backend(None) == (
        "onnxruntime",
        "TensorRT 10.3.0 is installed but needs a GPU: the NVIDIA driver finds no GPU",
    )


def test_tensorrt_that_was_asked_for_is_never_replaced(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MachineError, match="TensorRT cannot be imported"):
        pick_backend("tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt("10.3.0"))
    monkeypatch.setattr(build, "why_no_cuda_device", lambda: "the NVIDIA driver finds no GPU")
    with pytest.raises(MachineError, match=r"TensorRT 10\.3\.0 needs a GPU: the NVIDIA driver finds no GPU"):
        pick_backend("tensorrt")


def test_onnxruntime_that_was_asked_for_and_is_missing_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MachineError, match="ONNX Runtime cannot be imported"):
        pick_backend("onnxruntime")


@pytest.mark.parametrize("entry", ["dense", "macs-0.5"])
def test_an_onnxruntime_engine_answers_as_its_graph(build_dense, tmp_path, entry):
    folder = build_dense(entry=entry)
    images = np.random.default_rng(3).standard_normal((5, 3, 32, 32), dtype=np.float32)
    expected = infer(tmp_path / f"pack/{entry}.onnx", images)
    np.testing.assert_allclose(infer(folder / "engine.onnx", images), expected, atol=1e-5)


def test_an_onnxruntime_engine_is_optimised(build_dense):
    nodes = onnx.load(build_dense() / "engine.onnx").graph.node
    assert any(node.domain.startswith("com.microsoft") for node in nodes)  # fused operators, which ONNX does not have


def test_the_manifest_says_what_was_built_from_what(build_dense, tmp_path):
    ticks = iter([10.0, 12.5])
    folder = build_dense(precision="fp16", batch=BatchRange(min=2, opt=2, max=4), clock=lambda: next(ticks))
    manifest = store.load_engine(folder, DESKTOP)
    assert manifest.sha256 == sha256_file(folder / "engine.onnx")
    assert manifest.onnx_sha256 == sha256_file(tmp_path / "pack/dense.onnx")
    assert (manifest.precision, manifest.batch.max, manifest.build_s) == ("fp16", 4, 2.5)
    assert dict(manifest.options)["intra_op_num_threads"] == str(DESKTOP.num_cpus)
    assert [output.name for output in manifest.outputs] == ["logits"]


def test_an_fp16_engine_answers_as_its_graph_up_to_fp16_rounding(build_dense, tmp_path):
    folder = build_dense(precision="fp16")
    images = np.random.default_rng(3).standard_normal((5, 3, 32, 32), dtype=np.float32)
    error = np.abs(infer(folder / "engine.onnx", images) - infer(tmp_path / "pack/dense.onnx", images)).max()
    assert 1e-5 < error < 2e-2


def test_fp16_on_the_cpu_is_built_and_said_to_be_no_faster(build_dense, monkeypatch):
    monkeypatch.setattr(build, "pick_provider", lambda _: ("CPUExecutionProvider", "no GPU"))
    told = []
    build_dense(precision="fp16", tell=told.append)
    assert told[0] == "ONNX Runtime runs on CPUExecutionProvider: no GPU"
    assert "not its speed" in told[1]


def test_an_engine_that_fits_is_kept_and_said_so(build_dense):
    folder, told = build_dense(), []
    before = (folder / "engine.onnx").stat().st_mtime_ns
    assert build_dense(tell=told.append) == folder
    assert (folder / "engine.onnx").stat().st_mtime_ns == before
    assert told[-1] == f"dense: the engine in {folder} is current, nothing to build"


def test_an_engine_that_does_not_fit_is_refused_with_the_command_and_replaced_by_force(build_dense, tmp_path):
    folder = build_dense()
    other = DESKTOP.model_copy(update={"cpu": "Another Processor"})
    with pytest.raises(InputError, match="cpu: built with Some Processor 9000, here Another Processor") as caught:
        build_dense(machine=other)
    assert caught.value.hint == (
        f"replace it: heartvit-edge build-engine {tmp_path}/pack --backend onnxruntime --precision fp32 "
        f"--budget dense --batch-size 1:1:8 --engines {tmp_path}/engines --force"
    )
    assert build_dense(machine=other, force=True) == folder
    assert store.load_engine(folder, other).machine == other


def test_engines_for_other_batch_sizes_lie_side_by_side(build_dense):
    folders = [build_dense(), build_dense(batch=BatchRange(max=2)), build_dense(batch=BatchRange(min=4, opt=4, max=4))]
    assert [folder.name for folder in folders] == [
        "dense-onnxruntime-fp32",
        "dense-onnxruntime-fp32-batch1.1.2",
        "dense-onnxruntime-fp32-batch4",
    ]
    assert [store.load_engine(folder, DESKTOP).batch.max for folder in folders] == [8, 2, 4]


def test_an_altered_graph_is_not_built(build_dense, tmp_path):
    with (tmp_path / "pack/dense.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckError, match=r"dense\.onnx was altered"):
        build_dense()


@pytest.mark.parametrize("error", [CheckError("wrong"), KeyboardInterrupt()])
def test_a_build_that_ends_early_leaves_nothing(build_dense, tmp_path, error):
    def verify(*_):
        raise error

    with pytest.raises(type(error)):
        build_dense(verify=verify)
    assert [path for path in (tmp_path / "engines").rglob("*") if path.is_file()] == []
    assert list((tmp_path / "engines").glob("*/*")) == []


def test_a_forced_build_that_fails_leaves_the_former_engine(build_dense):
    folder = build_dense()
    before = store.load_engine(folder, DESKTOP)

    def verify(*_):
        raise CheckError("wrong")

    with pytest.raises(CheckError):
        build_dense(force=True, verify=verify)
    assert store.load_engine(folder, DESKTOP) == before


def test_the_engine_is_verified_where_it_lies_before_it_is_stored(build_dense, tmp_path):
    seen = []
    folder = build_dense(verify=lambda manifest, where, onnx: seen.append((manifest.entry, where, onnx)))
    ((entry, where, graph),) = seen
    assert (entry, graph) == ("dense", tmp_path / "pack/dense.onnx")
    assert where != folder
    assert not where.exists()
