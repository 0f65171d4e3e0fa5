"""Open loop: requests come at their own times, and what they wait counts."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from heartvit_edge.bench import arrivals, window
from heartvit_edge.bench.figures import latency_figures
from heartvit_edge.errors import InputError

INPUTS = (np.zeros((1, 3, 2, 2), dtype=np.float32),)


class Server:
    """Takes so long a call on a clock that nothing else moves."""

    def __init__(self, call_s):
        self.now = 100.0
        self.call_s = call_s
        self.collecting = []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def infer(self, _):
        self.collecting.append(gc.isenabled())
        self.now += self.call_s

    def window(self, duration_s, times_s):
        return arrivals.measure_open_window(
            self.infer, INPUTS, duration_s, self.clock, np.asarray(times_s), sleep=self.sleep
        )


def test_each_request_waits_for_those_before_it():
    # Calls of 2 s; requests at 1, 2, 2.5 and 9 s: they begin at 1, 3, 5 and 9 s.
    trial = Server(2.0).window(12.0, [1.0, 2.0, 2.5, 9.0])
    assert trial.waiting_ms == pytest.approx((0.0, 1000.0, 2500.0, 0.0), abs=1e-6)
    assert trial.latency_ms == pytest.approx((2000.0,) * 4)
    assert trial.end_s - trial.start_s == pytest.approx(12.0)


def test_the_window_ends_when_the_last_request_is_answered_where_that_is_later():
    trial = Server(2.0).window(10.0, [8.0, 8.5])
    assert trial.end_s - trial.start_s == pytest.approx(12.0)


def test_latency_figures_of_an_open_loop_contain_the_wait():
    trial = Server(2.0).window(12.0, [1.0, 2.0, 2.5, 9.0])
    from fakes.measurements import make_row

    found = latency_figures(make_row("dense", [trial]))
    assert found.mean_ms.value == pytest.approx((2000 + 3000 + 4500 + 2000) / 4)
    assert found.waiting_ms.value == pytest.approx(3500 / 4)
    assert found.host_overhead_us.reason == "between two calls the loop waits for a request to come"
    assert found.images_per_s.value == pytest.approx(4 / 12)


def test_the_collector_is_off_inside_the_window():
    server = Server(0.1)
    server.window(2.0, [0.5, 1.0])
    assert not any(server.collecting[window.SETTLE_CALLS :])
    assert gc.isenabled()


def test_mean_wait_of_a_queue_is_that_of_pollaczek_and_khinchine():
    # M/D/1 at load 0.5: the mean wait is rho / (2 (1 - rho)) service times, half of one.
    rate, call_s, duration_s = 50.0, 0.01, 4000.0
    times = arrivals.draw_arrivals(rate, duration_s, np.random.default_rng(0))
    trial = Server(call_s).window(duration_s, times)
    assert np.mean(trial.waiting_ms) == pytest.approx(1000 * call_s / 2, rel=0.03)


def test_arrivals_are_as_many_as_the_rate_says_and_independent():
    times = arrivals.draw_arrivals(25.0, 2000.0, np.random.default_rng(1))
    gaps = np.diff(times)
    assert len(times) == pytest.approx(50_000, abs=5 * 50_000**0.5)
    assert times[-1] < 2000.0
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.02)  # as an exponential's
    assert np.corrcoef(gaps[1:], gaps[:-1])[0, 1] == pytest.approx(0.0, abs=0.02)


def test_there_is_a_request_even_where_none_is_due():
    assert len(arrivals.draw_arrivals(0.001, 1.0, np.random.default_rng(0))) == 1


@pytest.mark.parametrize("text", ["poisson:0", "poisson:-3", "poisson:fast", "uniform:3", "20", "poisson:inf"])
def test_an_arrival_that_is_no_rate_is_an_input_error(text):
    with pytest.raises(InputError, match="expected poisson:RATE"):
        arrivals.parse_arrival(text)


def test_a_rate_is_read():
    assert arrivals.parse_arrival("poisson:12.5") == 12.5


def test_an_engine_keeps_up_at_ninety_percent_load_and_not_at_ninety_six():
    arrivals.check_load("dense batch 1", 0.01, 90.0)
    with pytest.raises(InputError, match="answers 100 requests a second, 96 would come"):
        arrivals.check_load("dense batch 1", 0.01, 96.0)


def test_the_rate_of_the_hint_is_a_plain_number():
    with pytest.raises(InputError) as caught:
        arrivals.check_load("dense batch 1", 0.0005, 1e9)
    assert caught.value.hint == "--arrival poisson:1400"
