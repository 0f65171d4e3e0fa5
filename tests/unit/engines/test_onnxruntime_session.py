"""ONNX Runtime sessions run where they were told, or not at all."""

from __future__ import annotations

import sys

import onnx
import onnxruntime
import pytest
from fakes.tiny_pack import make_tiny_pack

from heartvit_edge.engines import onnxruntime_session
from heartvit_edge.engines.onnxruntime_session import CPU, CUDA, open_session, pick_provider
from heartvit_edge.errors import CheckError, MachineError


@pytest.fixture
def dense(tmp_path):
    """Return the dense graph of a tiny pack."""
    make_tiny_pack(tmp_path)
    return tmp_path / "dense.onnx"


def test_without_onnxruntime_the_hint_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MachineError, match="ONNX Runtime cannot be imported") as caught:
        onnxruntime_session.import_onnxruntime()
    assert caught.value.hint == "pip install 'heartvit-edge[onnxruntime]'"


def test_a_provider_that_is_not_built_in_is_refused(dense):
    with pytest.raises(MachineError, match=r"has no DmlExecutionProvider, only .*CPUExecutionProvider"):
        open_session(dense, "DmlExecutionProvider", 1, optimise=False)


def test_a_file_that_is_not_onnx_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"not a graph")
    with pytest.raises(CheckError, match=r"ONNX Runtime cannot use .*x\.onnx"):
        open_session(tmp_path / "x.onnx", CPU, 1, optimise=False)


def test_an_operator_that_does_not_exist_is_refused(dense):
    model = onnx.load(dense)
    model.graph.node[0].op_type = "Convolve"
    with pytest.raises(CheckError, match="Convolve"):
        open_session(model.SerializeToString(), CPU, 1, optimise=False)


def test_without_a_gpu_the_cpu_is_picked_though_cuda_is_listed(dense, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime_session, "why_no_cuda_device", lambda: "the NVIDIA driver finds no GPU")
    assert pick_provider(dense) == (CPU, "the NVIDIA driver finds no GPU")


def test_without_the_cuda_provider_the_driver_is_not_asked(dense, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr(onnxruntime_session, "why_no_cuda_device", lambda: pytest.fail("asked"))
    assert pick_provider(dense) == (CPU, "this onnxruntime is built for the CPU alone")


def test_a_cuda_provider_that_does_not_load_is_not_picked(dense, monkeypatch):
    class CpuSession:
        def __init__(self, *args: object, **kwargs: object) -> None:
            pass

        def get_providers(self):
            return [CPU]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", CpuSession)
    monkeypatch.setattr(onnxruntime_session, "why_no_cuda_device", lambda: None)
    assert pick_provider(dense) == (CPU, f"ONNX Runtime lists {CUDA} but cannot load it")


@pytest.mark.gpu
def test_with_a_gpu_the_picked_provider_is_the_one_that_runs(dense):
    provider, _ = pick_provider(dense)
    assert open_session(dense, provider, 1, optimise=False).get_providers()[0] == provider
