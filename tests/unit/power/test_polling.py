"""The thread that reads a source, with a source and a clock that the test moves."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from heartvit_edge.errors import MachineError
from heartvit_edge.power import polling
from heartvit_edge.power.polling import PollingSampler, Reading
from heartvit_edge.power.sampler import PowerLostError


class Source:
    """Gives what a script says; an exception is raised, None is nothing new."""

    name = "scripted"
    labels = ("VDD_IN",)
    total = (("VDD_IN",), "a test")
    resolution_mw = {"VDD_IN": 40.0}  # noqa: RUF012
    notes = ("a remark",)
    hint = "look at it"

    def __init__(self, script, min_interval_s=0.0):
        self.script = iter(script)
        self.min_interval_s = min_interval_s
        self.threads = set()
        self.closed = False

    def read(self, clock):
        self.threads.add(threading.current_thread())
        value = next(self.script)
        if isinstance(value, Exception):
            raise value
        return None if value is None else Reading(clock(), {"VDD_IN": value})

    def close(self):
        self.closed = True


def test_readings_are_taken_in_another_thread_until_one_that_comes_after_stop_was_called():
    source = Source(itertools.count(1000.0))
    with PollingSampler(lambda: source, time.perf_counter, 0.001, "a test") as sampler:
        asked = time.perf_counter()
        trace = sampler.stop()
    assert (trace.source, trace.total_rails, trace.notes) == ("scripted", ("VDD_IN",), ("a remark",))
    assert trace.resolution_mw == {"VDD_IN": 40.0}
    assert trace.times_s[-1] >= asked
    assert trace.rails_mw["VDD_IN"][:2] == (1000.0, 1001.0)
    assert len(source.threads - {threading.current_thread()}) == 1
    assert source.closed


def test_a_source_is_read_no_faster_than_it_has_news():
    with PollingSampler(lambda: Source(itertools.count(), min_interval_s=0.02), time.perf_counter, 0.001, "") as it:
        trace = it.stop()
    assert trace.interval_ms == pytest.approx(20.0)
    assert all(after - before >= 0.0199 for before, after in itertools.pairwise(trace.times_s))


def test_a_read_that_fails_now_and_then_is_tried_again_and_counted():
    script = itertools.chain([1.0, OSError("EIO"), OSError("EIO"), 2.0], itertools.repeat(3.0))
    with PollingSampler(lambda: Source(script), time.perf_counter, 0.001, "") as sampler:
        while len(sampler._recording) < 3:
            time.sleep(0.001)
        trace = sampler.stop()
    assert trace.rails_mw["VDD_IN"][:3] == (1.0, 2.0, 3.0)
    assert trace.notes[-1] == "2 reads failed and were tried again"


def test_a_source_that_keeps_failing_is_lost_with_its_reason_and_what_it_had():
    script = itertools.chain([1.0], itertools.repeat(OSError(5, "Input/output error")))
    with (
        PollingSampler(lambda: Source(script), time.perf_counter, 0.001, "") as sampler,
        pytest.raises(PowerLostError, match=r"scripted was lost .* \(1 readings\): 10 reads failed in a row: .*Input/"),
    ):
        sampler.stop()


def test_a_counter_that_does_not_move_any_more_is_lost(monkeypatch):
    monkeypatch.setattr(polling, "PATIENCE_S", 0.05)
    script = itertools.chain([1.0], itertools.repeat(None))
    with (
        PollingSampler(lambda: Source(script), time.perf_counter, 0.001, "") as sampler,
        pytest.raises(PowerLostError, match="no new reading came"),
    ):
        sampler.stop()


def test_nothing_new_is_dropped_and_counted():
    script = itertools.chain([1.0, None, None, 2.0], itertools.count(3.0))
    with PollingSampler(lambda: Source(script), time.perf_counter, 0.001, "") as sampler:
        while len(sampler._recording) < 2:
            time.sleep(0.001)
        assert sampler.stop().num_dropped == 2


def test_a_source_that_cannot_be_read_at_all_is_a_machine_error_and_closed():
    source = Source([OSError(13, "Permission denied")])
    with (
        pytest.raises(MachineError, match=r"scripted cannot be read: .*Permission denied") as caught,
        PollingSampler(lambda: source, time.perf_counter, 0.001, ""),
    ):
        pass
    assert caught.value.hint == "look at it"
    assert source.closed


def test_a_read_that_hangs_does_not_hang_the_end_of_the_run(monkeypatch):
    monkeypatch.setattr(polling, "PATIENCE_S", 0.05)
    released = threading.Event()
    source = Source([1.0])
    first = source.read
    source.read = lambda clock: first(clock) if not source.threads else (released.wait(), None)[1]
    with PollingSampler(lambda: source, time.perf_counter, 0.001, "") as sampler, pytest.raises(PowerLostError):
        sampler.stop()
    assert not source.closed  # what hangs still uses it
    released.set()
