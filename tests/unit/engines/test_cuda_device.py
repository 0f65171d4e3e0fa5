"""Whether there is a GPU is asked of the driver, whose every answer is heeded."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from heartvit_edge.engines.cuda_device import count_sms, gpu_memory, why_no_cuda_device
from heartvit_edge.errors import MachineError


def driver(monkeypatch, *, init=0, count_code=0, count=0):
    """Put a driver with these answers in place of the library."""

    def get_count(pointer):
        pointer._obj.value = count
        return count_code

    fake = SimpleNamespace(cuInit=lambda _: init, cuDeviceGetCount=get_count)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: fake)
    return fake


def test_without_the_library_there_is_no_driver():
    assert why_no_cuda_device("libnothing.so.1") == "no NVIDIA driver: libnothing.so.1 cannot be loaded"


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"init": 100}, "the NVIDIA driver answers cuInit with error 100"),
        ({"count_code": 3}, "the NVIDIA driver answers cuDeviceGetCount with error 3"),
        ({"count": 0}, "the NVIDIA driver finds no GPU"),
        ({"count": 2}, None),
    ],
)
def test_each_answer_of_the_driver_is_told(monkeypatch, answers, reason):
    driver(monkeypatch, **answers)
    assert why_no_cuda_device() == reason


@pytest.fixture
def gpu(monkeypatch):
    """Return a driver with one GPU of 8 MiB, of which 3 are free, and 16 multiprocessors.

    It lists calls and answers with codes.
    """
    fake = driver(monkeypatch, count=1)
    fake.calls, fake.codes = [], {}

    def add(name):
        def call(*arguments):
            fake.calls.append(name)
            if name == "cuMemGetInfo_v2":
                arguments[0]._obj.value, arguments[1]._obj.value = 3 << 20, 8 << 20
            if name == "cuDeviceGetAttribute" and arguments[1] == 16:  # multiprocessors, in cuda.h
                arguments[0]._obj.value = 16
            return fake.codes.get(name, 0)

        setattr(fake, name, call)

    for name in ("cuDeviceGet", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2"):
        add(name)
    for name in ("cuCtxPushCurrent_v2", "cuMemGetInfo_v2", "cuCtxPopCurrent_v2"):
        add(name)
    return fake


def test_memory_is_asked_in_the_primary_context_which_is_given_back(gpu):
    assert gpu_memory() == (3 << 20, 8 << 20)
    assert gpu.calls == [
        "cuDeviceGet",
        "cuDevicePrimaryCtxRetain",
        "cuCtxPushCurrent_v2",
        "cuMemGetInfo_v2",
        "cuCtxPopCurrent_v2",
        "cuDevicePrimaryCtxRelease_v2",
    ]


@pytest.mark.parametrize("name", ["cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "cuMemGetInfo_v2"])
def test_an_error_of_the_driver_about_memory_is_told(gpu, name):
    gpu.codes[name] = 2
    with pytest.raises(MachineError, match=f"answers {name} with error 2"):
        gpu_memory()


def test_without_a_gpu_there_is_no_memory_to_ask_for():
    with pytest.raises(MachineError, match="no NVIDIA driver"):
        gpu_memory("libnothing.so.1")


def test_multiprocessors_are_counted_without_a_context(gpu):
    assert count_sms() == 16
    assert gpu.calls == ["cuDeviceGet", "cuDeviceGetAttribute"]


def test_without_a_gpu_there_are_no_multiprocessors():
    assert count_sms("libnothing.so.1") is None


@pytest.mark.parametrize("name", ["cuDeviceGet", "cuDeviceGetAttribute"])
def test_an_error_of_the_driver_about_multiprocessors_is_told(gpu, name):
    gpu.codes[name] = 3
    with pytest.raises(MachineError, match=f"answers {name} with error 3"):
        count_sms()


@pytest.mark.gpu
def test_a_gpu_has_multiprocessors():
    assert count_sms() >= 1


@pytest.mark.gpu
def test_a_gpu_s_memory_is_what_it_has():
    free, total = gpu_memory()
    assert 0 < free <= total
