"""The store gives out an engine only where it is whole and was built for this machine."""

from __future__ import annotations

import shlex

import pytest
from fakes.machines import DESKTOP, orin
from fakes.tiny_pack import make_tiny_pack

from heartvit_edge import __version__
from heartvit_edge.engines import store
from heartvit_edge.engines.engine_name import Kind, engine_folder
from heartvit_edge.errors import CheckError, InputError, MachineError
from heartvit_edge.spec.engine import BatchRange, EngineManifest
from heartvit_edge.spec.files import sha256_bytes


@pytest.fixture
def pack(tmp_path):
    """Return a tiny pack."""
    return make_tiny_pack(tmp_path / "pack")


@pytest.fixture
def folder(tmp_path, pack):
    """Return the folder of a stored engine, whose file is not a real one."""
    found = engine_folder(tmp_path / "engines", pack, "dense", Kind("onnxruntime", "fp32"))
    found.mkdir(parents=True)
    (found / "engine.onnx").write_bytes(b"engine")
    entry = pack.entry("dense")
    EngineManifest(
        entry="dense",
        backend="onnxruntime",
        precision="fp32",
        file="engine.onnx",
        sha256=sha256_bytes(b"engine"),
        onnx_sha256=entry.onnx_sha256,
        inputs=entry.inputs,
        outputs=entry.outputs,
        batch=BatchRange(min=1, opt=2, max=4),
        machine=DESKTOP,
        options=(("provider", "CPUExecutionProvider"),),
        build_s=1.0,
        tool_version=__version__,
    ).write(found / store.MANIFEST)
    return found


def test_a_whole_engine_of_this_machine_is_loaded(folder):
    assert store.load_engine(folder, DESKTOP) == EngineManifest.read(folder / store.MANIFEST)


def test_a_missing_engine_names_the_command_that_builds_it(tmp_path):
    with pytest.raises(InputError, match="there is no engine in") as caught:
        store.load_engine(tmp_path / "nothing", DESKTOP)
    assert "heartvit-edge build-engine" in caught.value.hint


def test_an_altered_engine_is_refused_before_anything_else(folder):
    (folder / "engine.onnx").write_bytes(b"enginE")
    with pytest.raises(CheckError, match=f"SHA-256 is {sha256_bytes(b'enginE')}") as caught:
        store.load_engine(folder, orin("10.3.0"))
    assert caught.value.hint.endswith(
        f"heartvit-edge build-engine PACK --backend onnxruntime --precision fp32 --budget dense --batch-size 1:2:4 "
        f"--engines {folder.parent.parent} --force"
    )


def test_an_engine_of_another_machine_is_refused_with_what_differs(folder):
    other = DESKTOP.model_copy(update={"cpu": "Another Processor"})
    with pytest.raises(MachineError, match="cpu: built with Some Processor 9000, here Another Processor") as caught:
        store.load_engine(folder, other)
    assert "--force" in caught.value.hint


def test_a_tensorrt_version_does_not_bear_on_an_onnxruntime_engine(folder):
    newer = DESKTOP.model_copy(update={"versions": (*DESKTOP.versions, ("tensorrt", "10.3.0"))})
    assert store.load_engine(folder, newer).entry == "dense"


def test_the_build_command_can_be_pasted_into_a_shell(tmp_path):
    command = store.build_command(
        "my pack", "dense", "tensorrt", "fp16", batch=BatchRange(), engines=tmp_path / "my engines", force=False
    )
    words = shlex.split(command)
    assert words[:3] == ["heartvit-edge", "build-engine", "my pack"]
    assert words[-2:] == ["--engines", str(tmp_path / "my engines")]


def test_the_same_engine_is_reusable(folder):
    wanted = EngineManifest.read(folder / store.MANIFEST).model_copy(update={"sha256": "0" * 64, "build_s": 0.0})
    assert store.reusable_engine(folder, wanted, "again").build_s == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"onnx_sha256": "f" * 64}, "onnx_sha256 is '.*', wanted 'ffff"),
        ({"batch": BatchRange(max=8)}, "batch size is 1:2:4, wanted 1:1:8"),
        ({"options": (("provider", "CUDAExecutionProvider"),)}, "provider is CPUExecutionProvider, wanted CUDA"),
        ({"options": ()}, "provider is CPUExecutionProvider, wanted None"),
        ({"machine": DESKTOP.model_copy(update={"cpu": "x"})}, "cpu: built with Some Processor 9000, here x"),
        ({"tool_version": "9.9"}, "tool_version is .*, wanted '9.9'"),
    ],
)
def test_an_engine_of_something_else_is_not_reused(folder, changes, message):
    wanted = EngineManifest.read(folder / store.MANIFEST).model_copy(update=changes)
    with pytest.raises(InputError, match=message) as caught:
        store.reusable_engine(folder, wanted, "heartvit-edge build-engine P --force")
    assert caught.value.hint == "replace it: heartvit-edge build-engine P --force"


def test_a_folder_without_a_manifest_is_not_reused(folder):
    wanted = EngineManifest.read(folder / store.MANIFEST)
    (folder / store.MANIFEST).unlink()
    with pytest.raises(InputError, match="exists but holds no whole engine"):
        store.reusable_engine(folder, wanted, "again")


def test_an_altered_engine_is_not_reused(folder):
    (folder / "engine.onnx").write_bytes(b"")
    with pytest.raises(CheckError, match="was altered"):
        store.reusable_engine(folder, EngineManifest.read(folder / store.MANIFEST), "again")


def test_an_option_that_the_manifest_lacks_is_an_error(folder):
    manifest = EngineManifest.read(folder / store.MANIFEST)
    assert store.option(manifest, "provider") == "CPUExecutionProvider"
    with pytest.raises(CheckError, match="has no option 'threads'"):
        store.option(manifest, "threads")
