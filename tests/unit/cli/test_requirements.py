"""What stands against a command is found out without running it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from heartvit_edge.cli import requirements
from heartvit_edge.errors import MachineError


@pytest.fixture
def cuda_build(tmp_path, monkeypatch):
    """Put an onnxruntime in place that lists CUDA, with two provider libraries that load, on a machine with a GPU."""
    libc = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so" in line)
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    for name in ("shared", "cuda"):
        (capi / f"libonnxruntime_providers_{name}.so").symlink_to(libc)
    module = SimpleNamespace(
        __file__=str(capi.parent / "__init__.py"),
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    monkeypatch.setattr(requirements, "why_no_cuda_device", lambda: None)
    return capi


def test_every_command_that_needs_the_host_half_lacks_it_where_torch_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    errors = {command: lacks() for command, lacks in requirements.commands().items()}
    for command in ("quickstart", "score", "export", "finetune"):
        assert str(errors[command]) == "not installed: torch"
        assert errors[command].hint == "pip install 'heartvit-edge[host]'"
    assert errors["plan"] is None
    assert errors["report"] is None


def test_plans_need_scipy_but_not_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    error = requirements.commands()["plan"]()
    assert (str(error), error.hint) == ("not installed: scipy", "pip install 'heartvit-edge[host]'")


def test_fine_tuning_needs_packages_of_its_own(monkeypatch):
    for package in ("accelerate", "tensorboard"):
        monkeypatch.setitem(sys.modules, package, None)
    error = requirements.commands()["finetune"]()
    assert str(error) == "not installed: accelerate, tensorboard"
    assert error.hint == "pip install 'heartvit-edge[finetune]'"
    assert requirements.commands()["score"]() is None


def test_nothing_runs_an_engine_where_both_runtimes_are_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    error = requirements.lacks_engine_runtime()
    assert "ONNX Runtime cannot be imported" in str(error)
    assert error.hint == "pip install 'heartvit-edge[onnxruntime]'"


def test_one_runtime_is_enough_to_run_engines(monkeypatch):
    monkeypatch.setattr(requirements, "lacks_tensorrt", lambda: None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert requirements.lacks_engine_runtime() is None
    monkeypatch.setattr(requirements, "lacks_tensorrt", lambda: MachineError("none"))
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace())
    assert requirements.lacks_engine_runtime() is None


def test_a_torchvision_for_cuda_beside_a_torch_for_cpus_is_named(monkeypatch):
    versions = {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}
    monkeypatch.setattr(requirements, "importable", lambda name: name in requirements.HOST_PACKAGES)
    monkeypatch.setattr(requirements, "installed_version", versions.get)
    error = requirements.lacks_host()
    assert "2.13.0+cpu" in str(error)
    assert "0.28.0" in str(error)
    versions["torchvision"] = "0.28.0+cpu"
    assert requirements.lacks_host() is None
    versions.update({"torch": "2.13.0", "torchvision": "0.28.0"})
    assert requirements.lacks_host() is None


def test_tensorrt_without_a_gpu_is_not_enough(monkeypatch):
    monkeypatch.setattr(requirements, "import_tensorrt", lambda: None)
    monkeypatch.setattr(requirements, "why_no_cuda_device", lambda: "the NVIDIA driver finds no GPU")
    assert str(requirements.lacks_tensorrt()) == "the NVIDIA driver finds no GPU"
    monkeypatch.setattr(requirements, "why_no_cuda_device", lambda: None)
    monkeypatch.setattr(requirements, "importable", lambda name: name == "cuda.bindings.runtime")
    assert requirements.lacks_tensorrt() is None


def test_tensorrt_without_a_cuda_binding_is_not_enough(monkeypatch):
    monkeypatch.setattr(requirements, "import_tensorrt", lambda: None)
    monkeypatch.setattr(requirements, "why_no_cuda_device", lambda: None)
    monkeypatch.setattr(requirements, "importable", lambda _: False)
    assert requirements.lacks_tensorrt().hint == "pip install cuda-python"
    monkeypatch.setattr(requirements, "importable", lambda name: name == "pycuda")
    assert requirements.lacks_tensorrt() is None


@pytest.mark.usefixtures("cuda_build")
def test_the_cuda_provider_is_usable_where_its_libraries_load():
    assert requirements.lacks_cuda_provider() is None


def test_a_listed_cuda_provider_whose_library_does_not_load_is_not_usable(cuda_build):
    library = cuda_build / "libonnxruntime_providers_cuda.so"
    library.unlink()
    library.write_text("no library")
    error = requirements.lacks_cuda_provider()
    assert "CUDAExecutionProvider cannot be loaded" in str(error)
    assert str(library) in str(error)


@pytest.mark.usefixtures("cuda_build")
def test_a_build_of_onnx_runtime_for_cpus_has_no_cuda_provider(monkeypatch):
    monkeypatch.setattr(sys.modules["onnxruntime"], "get_available_providers", lambda: ["CPUExecutionProvider"])
    error = requirements.lacks_cuda_provider()
    assert "built without CUDAExecutionProvider" in str(error)
    assert error.hint == "pip install onnxruntime-gpu"


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.bindings"])
def test_a_package_that_is_not_there_is_not_importable(module):
    assert not requirements.importable(module)
    assert requirements.importable("json.decoder")
