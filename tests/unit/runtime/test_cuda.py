"""Device memory through both bindings: every code is checked and everything is given back."""

from __future__ import annotations

import ctypes
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from heartvit_edge.engines.cuda_device import why_no_cuda_device
from heartvit_edge.errors import MachineError
from heartvit_edge.runtime.cuda import open_cuda
from heartvit_edge.runtime.cuda_python import CudaPython
from heartvit_edge.runtime.pycuda_driver import Pycuda

SUCCESS, OUT_OF_MEMORY, ILLEGAL = 0, 2, 700
HOST = ctypes.create_string_buffer(64)  # what stands for page-locked memory


class FakeCudart:
    """The CUDA runtime as cuda-python gives it: a tuple that begins with the error code."""

    cudaError_t = SimpleNamespace(cudaSuccess=SUCCESS, cudaErrorMemoryAllocation=OUT_OF_MEMORY)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="to device", cudaMemcpyDeviceToHost="to host")
    cudaDeviceAttr = SimpleNamespace(cudaDevAttrIntegrated="integrated")
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="this thread")
    cudaHostAllocMapped, cudaHostAllocDefault, cudaStreamNonBlocking = "mapped", "pinned", "non-blocking"
    cudaEventDefault, cudaEventDisableTiming = "timed", "untimed"

    def __init__(self, integrated=0) -> None:
        self.codes: dict[str, int] = {}
        self.calls: list[tuple[str, tuple[object, ...]]] = []
        self.values = {
            "cudaGetDevice": (0,),
            "cudaDeviceGetAttribute": (integrated,),
            "cudaStreamCreateWithFlags": (77,),
            "cudaMalloc": (4096,),
            "cudaMemGetInfo": (3 << 20, 8 << 20),
            "cudaHostAlloc": (ctypes.addressof(HOST),),
            "cudaHostGetDevicePointer": (8192,),
            "cudaEventCreateWithFlags": ("event",),
            "cudaEventElapsedTime": (1.5,),
            "cudaStreamEndCapture": ("captured",),
            "cudaGraphInstantiate": ("graph",),
        }

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, arguments))
            return (self.codes.get(name, SUCCESS), *self.values.get(name, ()))

        return call

    def cudaGetErrorString(self, code):
        return SUCCESS, f"text of {code}".encode()


class FakePycuda:
    """``pycuda.driver``: it raises where a call fails."""

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    device_attribute = SimpleNamespace(INTEGRATED="integrated")
    host_alloc_flags = SimpleNamespace(DEVICEMAP=2)
    event_flags = SimpleNamespace(DEFAULT="timed", DISABLE_TIMING="untimed")

    def __init__(self, integrated=0) -> None:
        self.integrated = integrated
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
        return SimpleNamespace(
            retain_primary_context=lambda: self.step(f"retain {index}", context),
            get_attribute=lambda name: self.step(name, self.integrated),
        )

    def Stream(self):
        return SimpleNamespace(
            handle=77,
            synchronize=lambda: self.step("synchronize"),
            wait_for_event=lambda event: self.step(f"wait for {event.kind}"),
        )

    def Event(self, kind):
        return SimpleNamespace(
            kind=kind,
            record=lambda stream: self.step(f"record {kind} on {stream.handle}"),
            time_since=lambda start: self.step(f"{kind} since {start.kind}", 1.5),
        )

    def mem_alloc(self, _num_bytes):
        if self.failing == "memory":
            raise self.MemoryError("cuMemAlloc failed: out of memory")
        buffer = type("Allocation", (), {"__int__": lambda _: 4096, "free": lambda _: self.step("free")})
        return self.step("mem_alloc", buffer())

    def pagelocked_empty(self, shape, dtype, order, mem_flags):
        if self.failing == "memory":
            raise self.MemoryError("cuMemHostAlloc failed: out of memory")
        self.step(f"page-locked {shape} {order} {mem_flags}")

        class Pagelocked(np.ndarray):
            base = SimpleNamespace(get_device_pointer=lambda: 8192)

        return np.zeros(shape, dtype).view(Pagelocked)

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


def use(cuda):
    """Allocate, copy in, wait, copy out, time, free and close; return the host's memory."""
    address = cuda.allocate(16)
    host = cuda.allocate_host(16).bytes
    stream = cuda.stream()
    start, end = cuda.event(timed=True), cuda.event(timed=False)
    cuda.record(start, stream)
    cuda.to_device(address, host, stream)
    cuda.wait(stream, start)
    cuda.to_host(host, address, stream)
    cuda.record(end, stream)
    cuda.synchronize(stream)
    assert cuda.elapsed_ms(start, end) == 1.5
    cuda.free(address)
    cuda.allocate(16)
    cuda.close()
    return host


def test_cuda_python_copies_between_page_locked_memory_and_the_buffer_on_its_stream(cudart):
    host = use(CudaPython(cudart)).ctypes.data
    assert host == ctypes.addressof(HOST)
    assert cudart.calls == [
        ("cudaGetDevice", ()),
        ("cudaDeviceGetAttribute", ("integrated", 0)),
        ("cudaMalloc", (16,)),
        ("cudaHostAlloc", (16, "pinned")),
        ("cudaStreamCreateWithFlags", ("non-blocking",)),
        ("cudaEventCreateWithFlags", ("timed",)),
        ("cudaEventCreateWithFlags", ("untimed",)),
        ("cudaEventRecord", ("event", 77)),
        ("cudaMemcpyAsync", (4096, host, 16, "to device", 77)),
        ("cudaStreamWaitEvent", (77, "event", 0)),
        ("cudaMemcpyAsync", (host, 4096, 16, "to host", 77)),
        ("cudaEventRecord", ("event", 77)),
        ("cudaStreamSynchronize", (77,)),
        ("cudaEventElapsedTime", ("event", "event")),
        ("cudaFree", (4096,)),
        ("cudaMalloc", (16,)),
        ("cudaEventDestroy", ("event",)),
        ("cudaEventDestroy", ("event",)),
        ("cudaStreamDestroy", (77,)),
        ("cudaFreeHost", (host,)),
        ("cudaFree", (4096,)),
    ]


def test_cuda_python_captures_work_and_launches_it(cudart):
    cuda = CudaPython(cudart)
    stream = cuda.stream()
    cudart.calls.clear()
    graph = cuda.capture(stream, lambda: cudart.calls.append(("work", ())))
    cuda.launch(graph, stream)
    cuda.close()
    assert cudart.calls == [
        ("cudaStreamBeginCapture", (77, "this thread")),
        ("work", ()),
        ("cudaStreamEndCapture", (77,)),
        ("cudaGraphInstantiate", ("captured", 0)),
        ("cudaGraphDestroy", ("captured",)),
        ("cudaGraphLaunch", ("graph", 77)),
        ("cudaGraphExecDestroy", ("graph",)),
        ("cudaStreamDestroy", (77,)),
    ]


def test_a_capture_that_fails_is_ended_so_that_the_stream_can_be_used_again(cudart):
    cuda = CudaPython(cudart)
    stream = cuda.stream()

    def refuse():
        raise MachineError("no")

    with pytest.raises(MachineError, match="no"):
        cuda.capture(stream, refuse)
    assert cudart.calls[-1] == ("cudaStreamEndCapture", (77,))


@pytest.mark.parametrize(
    "call",
    [
        *("cudaGetDevice", "cudaDeviceGetAttribute", "cudaStreamCreateWithFlags", "cudaMalloc", "cudaHostAlloc"),
        *("cudaEventCreateWithFlags", "cudaEventRecord", "cudaStreamWaitEvent", "cudaEventElapsedTime"),
        *("cudaMemcpyAsync", "cudaStreamSynchronize", "cudaFree", "cudaFreeHost", "cudaStreamDestroy"),
        "cudaEventDestroy",
    ],
)
def test_each_code_that_cuda_python_returns_is_checked(cudart, call):
    cudart.codes[call] = ILLEGAL
    with pytest.raises(MachineError, match=f"{call} failed with CUDA error 700: text of 700"):
        use(CudaPython(cudart))


@pytest.mark.parametrize(
    "call",
    [
        *("cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy"),
        *("cudaGraphLaunch", "cudaGraphExecDestroy"),
    ],
)
def test_each_code_of_a_graph_is_checked(cudart, call):
    cudart.codes[call] = ILLEGAL
    cuda = CudaPython(cudart)
    stream = cuda.stream()
    with pytest.raises(MachineError, match=f"{call} failed with CUDA error 700"):
        cuda.launch(cuda.capture(stream, lambda: None), stream)
        cuda.close()


def test_an_integrated_gpu_is_given_the_address_of_the_hosts_memory():
    cudart = FakeCudart(integrated=1)
    assert CudaPython(cudart).allocate_host(16).device_address == 8192
    assert cudart.calls[-2:] == [
        ("cudaHostAlloc", (16, "mapped")),
        ("cudaHostGetDevicePointer", (ctypes.addressof(HOST), 0)),
    ]
    pycuda = FakePycuda(integrated=1)
    assert Pycuda(pycuda).allocate_host(16).device_address == 8192
    assert pycuda.calls[-1] == "page-locked (16,) C 2"
    for discrete in (CudaPython(FakeCudart()), Pycuda(FakePycuda())):
        assert discrete.allocate_host(16).device_address is None


def test_both_close_once(cudart, pycuda):
    for cuda in (CudaPython(cudart), Pycuda(pycuda)):
        cuda.allocate(16)
        cuda.stream()
        cuda.close()
        cuda.close()
    names = [name for name, _ in cudart.calls]
    assert (names.count("cudaFree"), names.count("cudaStreamDestroy")) == (1, 1)
    assert (pycuda.calls.count("free"), pycuda.calls.count("detach")) == (1, 1)


def test_out_of_memory_says_what_was_asked_and_what_was_free_and_exits_3(cudart, pycuda):
    cudart.codes |= {"cudaMalloc": OUT_OF_MEMORY, "cudaHostAlloc": OUT_OF_MEMORY}
    pycuda.failing = "memory"
    for cuda in (CudaPython(cudart), Pycuda(pycuda)):
        for ask in (cuda.allocate, cuda.allocate_host):
            with pytest.raises(MachineError, match=r"asked for 16\.0 MiB, 3\.0 of 8\.0 MiB are free") as caught:
                ask(16 << 20)
            assert caught.value.exit_code == 3
            assert "--batch-size" in caught.value.hint


def test_pycuda_works_in_the_primary_context_and_leaves_it(pycuda):
    use(Pycuda(pycuda))
    assert pycuda.calls == [
        "init",
        "integrated",
        "retain 0",
        "push",
        "mem_alloc",
        "page-locked (16,) C 0",
        "record timed on 77",
        "to device 4096 16 77",
        "wait for timed",
        "to host 16 4096 77",
        "record untimed on 77",
        "synchronize",
        "untimed since timed",
        "free",
        "mem_alloc",
        "free",
        "pop",
        "detach",
    ]


@pytest.mark.parametrize(
    "call",
    [
        *("init", "integrated", "retain 0", "push", "mem_alloc", "page-locked (16,) C 0", "record timed on 77"),
        *("to device 4096 16 77", "wait for timed", "to host 16 4096 77", "synchronize", "untimed since timed", "free"),
    ],
)
def test_each_error_that_pycuda_raises_is_told(pycuda, call):
    pycuda.failing = call
    with pytest.raises(MachineError, match=f"CUDA .* failed: {re.escape(call)} failed"):
        use(Pycuda(pycuda))


def test_pycuda_has_no_graphs_and_says_so(pycuda):
    cuda = Pycuda(pycuda)
    assert not cuda.has_graphs
    with pytest.raises(MachineError, match="pycuda has no CUDA graphs") as caught:
        cuda.capture(cuda.stream(), lambda: None)
    assert "--no-cuda-graph" in caught.value.hint


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
        open_cuda(binding)
    assert caught.value.hint == hint


def test_the_older_name_of_cuda_python_is_used_where_the_newer_is_missing(monkeypatch, cudart):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "cuda.cudart", cudart)
    assert open_cuda("cuda-python").stream() == 77


def test_every_name_that_is_called_exists_in_cuda_python():
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    cudart = FakeCudart(integrated=1)
    cuda = CudaPython(cudart)
    cuda.launch(cuda.capture(cuda.stream(), lambda: None), 77)
    use(cuda)
    cudart.codes["cudaMalloc"] = OUT_OF_MEMORY
    with pytest.raises(MachineError):
        CudaPython(cudart).allocate(1)
    missing = [name for name, _ in cudart.calls if not hasattr(runtime, name)]
    assert missing == []
    assert hasattr(runtime, "cudaGetErrorString")
    for name, value in vars(FakeCudart).items():
        if name.startswith("cuda") and name != "cudaGetErrorString":
            parts = vars(value) if isinstance(value, SimpleNamespace) else {}
            assert parts.keys() <= set(dir(getattr(runtime, name)))


def test_every_call_without_a_gpu_is_an_error_in_cuda_pythons_own_words():
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    if why_no_cuda_device() is None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(MachineError, match=r"cudaGetDevice failed with CUDA error \d+: .*driver"):
        open_cuda("cuda-python")


@pytest.mark.gpu
@pytest.mark.parametrize(("binding", "module"), [("cuda-python", "cuda.bindings.runtime"), ("pycuda", "pycuda.driver")])
def test_what_goes_to_the_gpu_comes_back(binding, module):
    pytest.importorskip(module)
    cuda = open_cuda(binding)
    try:
        values = np.random.default_rng(0).integers(0, 256, 1 << 20, dtype=np.uint8)
        source, target = cuda.allocate_host(values.nbytes), cuda.allocate_host(values.nbytes)
        source.bytes[:] = values
        address, stream, other = cuda.allocate(values.nbytes), cuda.stream(), cuda.stream()
        start, copied, end = (cuda.event(timed=True) for _ in range(3))
        cuda.record(start, stream)
        cuda.to_device(address, source.bytes, stream)
        cuda.record(copied, stream)
        cuda.wait(other, copied)
        cuda.to_host(target.bytes, address, other)
        cuda.record(end, other)
        cuda.synchronize(other)
        np.testing.assert_array_equal(target.bytes, values)
        assert 0 < cuda.elapsed_ms(start, copied) <= cuda.elapsed_ms(start, end) < 1000
        free, total = cuda.memory()
        assert 0 < free < total
        with pytest.raises(MachineError, match=r"out of memory: asked for .* are free"):
            cuda.allocate(1 << 50)
        cuda.free(address)
    finally:
        cuda.close()


@pytest.mark.gpu
def test_a_captured_copy_runs_at_each_launch_and_not_before():
    pytest.importorskip("cuda.bindings.runtime")
    cuda = open_cuda("cuda-python")
    try:
        source, target = cuda.allocate_host(4096), cuda.allocate_host(4096)
        address, stream = cuda.allocate(4096), cuda.stream()
        target.bytes[:] = 0

        def copy():
            cuda.to_device(address, source.bytes, stream)
            cuda.to_host(target.bytes, address, stream)

        graph = cuda.capture(stream, copy)
        for value in (3, 5):
            source.bytes[:] = value
            cuda.synchronize(stream)
            assert not (target.bytes == value).any()
            cuda.launch(graph, stream)
            cuda.synchronize(stream)
            assert (target.bytes == value).all()
    finally:
        cuda.close()


@pytest.mark.jetson
def test_orin_reads_and_writes_the_hosts_memory_in_place():
    pytest.importorskip("cuda.bindings.runtime")
    cuda = open_cuda("cuda-python")
    try:
        source, target = cuda.allocate_host(4096), cuda.allocate_host(4096)
        assert source.device_address is not None
        source.bytes[:], target.bytes[:] = 7, 0
        stream = cuda.stream()
        cuda.to_host(target.bytes, source.device_address, stream)
        cuda.synchronize(stream)
        assert (target.bytes == 7).all()
    finally:
        cuda.close()
