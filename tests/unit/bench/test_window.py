from __future__ import annotations

import gc

import numpy as np
import pytest

from heartvit_edge.bench import window

INPUTS = tuple(np.full((1, 3, 2, 2), value, dtype=np.float32) for value in range(3))


class Work:
    """An engine whose calls take the given times on a clock that nothing else moves."""

    def __init__(self, seconds):
        self.now = 0.0
        self.seconds = iter(seconds)
        self.calls = []
        self.collecting = []

    def clock(self):
        return self.now

    def infer(self, batch):
        self.calls.append(batch[0, 0, 0, 0])
        self.collecting.append(gc.isenabled())
        self.now += next(self.seconds)


def forever(value):
    while True:
        yield value


def test_warm_up_ends_with_the_first_twenty_calls_that_vary_by_less_than_one_percent():
    slow_start = [0.5, 0.3, 0.2, 0.1, 0.05]
    work = Work(slow_start + [0.01] * 100)
    count, variation = window.warm_up(work.infer, INPUTS, cap_s=1000.0, timer=work.clock)
    assert count == len(slow_start) + 20
    assert variation == pytest.approx(0.0, abs=1e-9)


def test_warm_up_ends_at_its_time_cap_with_the_variation_it_had():
    work = Work([0.125, 0.375] * 100)
    count, variation = window.warm_up(work.infer, INPUTS, cap_s=8.0, timer=work.clock)
    assert count == 32
    assert variation == pytest.approx(np.std([0.125, 0.375] * 10, ddof=1) / 0.25)


def test_warm_up_ends_at_its_cap_of_calls():
    work = Work([0.001, 0.003] * 1000)
    count, _ = window.warm_up(work.infer, INPUTS, cap_s=1e9, timer=work.clock)
    assert count == window.WARM_UP_CALLS


def test_warm_up_of_a_slow_engine_makes_one_call_and_cannot_judge():
    work = Work(forever(9.0))
    assert window.warm_up(work.infer, INPUTS, cap_s=3.0, timer=work.clock) == (1, None)


def test_window_keeps_the_time_of_each_call_in_order():
    settle = [1.0] * window.SETTLE_CALLS
    work = Work([*settle, 0.1, 0.2, 0.3, 0.4, 0.5])
    trial = window.measure_window(work.infer, INPUTS, duration_s=0.95, clock=work.clock)
    assert trial.latency_ms == pytest.approx((100, 200, 300, 400))
    assert trial.start_s == pytest.approx(sum(settle))
    assert trial.end_s == pytest.approx(sum(settle) + 1.0)  # the call that ran when the time was up counts whole


def test_window_cycles_through_the_inputs():
    work = Work(forever(0.1))
    window.measure_window(work.infer, INPUTS, duration_s=0.65, clock=work.clock)
    assert work.calls[window.SETTLE_CALLS :] == [0, 1, 2, 0, 1, 2, 0]


def test_garbage_collector_is_off_inside_the_window_and_on_again_after_it():
    work = Work(forever(0.1))
    window.measure_window(work.infer, INPUTS, duration_s=0.3, clock=work.clock)
    assert not any(work.collecting[window.SETTLE_CALLS :])
    assert gc.isenabled()


def test_garbage_collector_is_on_again_after_an_engine_fails():
    work = Work([0.1] * (window.SETTLE_CALLS + 1))
    with pytest.raises(StopIteration):
        window.measure_window(work.infer, INPUTS, duration_s=1.0, clock=work.clock)
    assert gc.isenabled()
