"""Whether there is a GPU is asked of the driver, whose every answer is heeded."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from heartvit_edge.engines.cuda_device import why_no_cuda_device


def driver(monkeypatch, *, init=0, count_code=0, count=0):
    """Put a driver with these answers in place of the library."""

    def get_count(pointer):
        pointer._obj.value = count
        return count_code

    fake = SimpleNamespace(cuInit=lambda _: init, cuDeviceGetCount=get_count)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: fake)


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
