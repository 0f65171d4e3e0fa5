"""Device memory through both bindings: every code is checked and everything is given back."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from heartvit_edge.engines.cuda_device import why_no_cuda_device
from heartvit_edge.errors import MachineError
from heartvit_edge.runtime.cuda_memory import open_cuda_memory
from heartvit_edge.runtime.cuda_python_memory import CudaPythonMemory
from heartvit_edge.runtime.pycuda_memory import PycudaMemory

SUCCESS, OUT_OF_MEMORY, ILLEGAL = 0, 2, 700


class FakeCudart:
    """The CUDA runtime as cuda-python gives it: a tuple that begins with the error code."""

    cudaError_t = SimpleNamespace(cudaSuccess=SUCCESS, cudaErrorMemoryAllocation=OUT_OF_MEMORY)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="to device", cudaMemcpyDeviceToHost="to host")

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self.calls: list[tuple[str, tuple[object, ...]]] = []

    def answer(self, name, *values):
        return (self.codes.get(name, SUCCESS), *values)

    def __getattr__(self, name):
        values = {"cudaStreamCreate": (77,), "cudaMalloc": (4096,), "cudaMemGetInfo": (3 << 20, 8 << 20)}.get(name, ())

        def call(*arguments):
            self.calls.append((name, arguments))
            return self.answer(name, *values)

        return call

    def cudaGetErrorString(self, code):
        return SUCCESS, f"text of {code}".encode()


class FakePycuda:
    """``pycuda.driver``: it raises where a call fails."""

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing: str | None = None

    def step(self, name, value=None):
        self.calls.append(name)
        if self.failing == name:
            raise self.Error(f"{name} failed")
        return value

    def init(self):
        self.step("init")

    def Device(self, index):
        context = SimpleNamespace(
            push=lambda: self.step("push"), pop=lambda: self.step("pop"), detach=lambda: self.step("detach")
        )
        return SimpleNamespace(retain_primary_context=lambda: self.step(f"retain {index}", context))

    def Stream(self):
        return SimpleNamespace(handle=77, synchronize=lambda: self.step("synchronize"))

    def mem_alloc(self, _num_bytes):
        if self.failing == "memory":
            raise self.MemoryError("cuMemAlloc failed: out of memory")
        buffer = type("Allocation", (), {"__int__": lambda _: 4096, "free": lambda _: self.step("free")})
        return self.step("mem_alloc", buffer())

    def mem_get_info(self):
        return 3 << 20, 8 << 20

    def memcpy_htod_async(self, address, source, stream):
        self.step(f"to device {address} {source.nbytes} {stream.handle}")

    def memcpy_dtoh_async(self, target, address, stream):
        self.step(f"to host {target.nbytes} {address} {stream.handle}")


@pytest.fixture
def cudart():
    """Return a CUDA runtime in which everything succeeds."""
    return FakeCudart()


@pytest.fixture
def pycuda():
    """Return a pycuda in which everything succeeds."""
    return FakePycuda()


def use(memory):
    """Allocate, copy in, copy out, wait and close."""
    address = memory.allocate(16)
    array = np.zeros(4, dtype=np.float32)
    memory.to_device(address, array)
    memory.to_host(array, address)
    memory.synchronize()
    memory.close()
    return array


def test_cuda_python_copies_between_the_arrays_and_the_buffer_on_its_stream(cudart):
    array = use(CudaPythonMemory(cudart))
    host = array.ctypes.data
    assert cudart.calls == [
        ("cudaStreamCreate", ()),
        ("cudaMalloc", (16,)),
        ("cudaMemcpyAsync", (4096, host, 16, "to device", 77)),
        ("cudaMemcpyAsync", (host, 4096, 16, "to host", 77)),
        ("cudaStreamSynchronize", (77,)),
        ("cudaFree", (4096,)),
        ("cudaStreamDestroy", (77,)),
    ]


@pytest.mark.parametrize(
    "call",
    ["cudaStreamCreate", "cudaMalloc", "cudaMemcpyAsync", "cudaStreamSynchronize", "cudaFree", "cudaStreamDestroy"],
)
def test_each_code_that_cuda_python_returns_is_checked(cudart, call):
    cudart.codes[call] = ILLEGAL
    with pytest.raises(MachineError, match=f"{call} failed with CUDA error 700: text of 700"):
        use(CudaPythonMemory(cudart))


def test_cuda_python_closes_once(cudart):
    memory = CudaPythonMemory(cudart)
    memory.allocate(16)
    memory.close()
    memory.close()
    names = [name for name, _ in cudart.calls]
    assert (names.count("cudaFree"), names.count("cudaStreamDestroy")) == (1, 1)


def test_out_of_memory_says_what_was_asked_and_what_was_free(cudart, pycuda):
    cudart.codes["cudaMalloc"] = OUT_OF_MEMORY
    pycuda.failing = "memory"
    for memory in (CudaPythonMemory(cudart), PycudaMemory(pycuda)):
        with pytest.raises(MachineError, match=r"asked for 16\.0 MiB, 3\.0 of 8\.0 MiB are free") as caught:
            memory.allocate(16 << 20)
        assert "--batch-size" in caught.value.hint


def test_pycuda_works_in_the_primary_context_and_leaves_it(pycuda):
    use(PycudaMemory(pycuda))
    assert pycuda.calls == [
        "init",
        "retain 0",
        "push",
        "mem_alloc",
        "to device 4096 16 77",
        "to host 16 4096 77",
        "synchronize",
        "free",
        "pop",
        "detach",
    ]


@pytest.mark.parametrize(
    "call", ["init", "retain 0", "push", "mem_alloc", "to device 4096 16 77", "to host 16 4096 77", "synchronize"]
)
def test_each_error_that_pycuda_raises_is_told(pycuda, call):
    pycuda.failing = call
    with pytest.raises(MachineError, match=f"CUDA .* failed: {call} failed"):
        use(PycudaMemory(pycuda))


def test_pycuda_closes_once(pycuda):
    memory = PycudaMemory(pycuda)
    memory.close()
    memory.close()
    assert pycuda.calls.count("detach") == 1


@pytest.mark.parametrize(
    ("binding", "modules", "hint"),
    [
        ("cuda-python", ("cuda.bindings.runtime", "cuda.cudart"), "pip install cuda-python"),
        ("pycuda", ("pycuda.driver",), "pip install 'heartvit-edge[pycuda]'"),
    ],
)
def test_a_missing_binding_is_an_error_with_the_command_that_installs_it(monkeypatch, binding, modules, hint):
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MachineError, match=f"no CUDA binding: {modules[0]}") as caught:
        open_cuda_memory(binding)
    assert caught.value.hint == hint


def test_the_older_name_of_cuda_python_is_used_where_the_newer_is_missing(monkeypatch, cudart):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "cuda.cudart", cudart)
    assert open_cuda_memory("cuda-python").stream == 77


def test_every_name_that_is_called_exists_in_cuda_python(cudart):
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    use(CudaPythonMemory(cudart))
    cudart.codes["cudaMalloc"] = OUT_OF_MEMORY
    with pytest.raises(MachineError):
        CudaPythonMemory(cudart).allocate(1)
    missing = [name for name, _ in cudart.calls if not hasattr(runtime, name)]
    assert missing == []
    assert hasattr(runtime, "cudaGetErrorString")
    assert {"cudaSuccess", "cudaErrorMemoryAllocation"} <= set(dir(runtime.cudaError_t))
    assert {"cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"} <= set(dir(runtime.cudaMemcpyKind))


def test_without_a_gpu_cuda_pythons_own_words_are_told():
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    if why_no_cuda_device() is None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(MachineError, match=r"cudaStreamCreate failed with CUDA error \d+: .*driver"):
        open_cuda_memory("cuda-python")


@pytest.mark.gpu
@pytest.mark.parametrize(("binding", "module"), [("cuda-python", "cuda.bindings.runtime"), ("pycuda", "pycuda.driver")])
def test_what_goes_to_the_gpu_comes_back(binding, module):
    pytest.importorskip(module)
    memory = open_cuda_memory(binding)
    try:
        source = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
        target = np.zeros_like(source)
        address = memory.allocate(source.nbytes)
        memory.to_device(address, source)
        memory.to_host(target, address)
        memory.synchronize()
        np.testing.assert_array_equal(target, source)
        with pytest.raises(MachineError, match="out of memory"):
            memory.allocate(1 << 50)
    finally:
        memory.close()
