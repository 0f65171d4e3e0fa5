from __future__ import annotations

import itertools

import numpy as np
import pytest

from heartvit_edge.bench import session, window
from heartvit_edge.errors import InputError


class Board:
    """Several engines on one clock; each call is noted."""

    def __init__(self):
        self.now = 0.0
        self.calls = []
        self.slept = []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def workload(self, entry, batch_size, seconds):
        def infer(batch):
            self.calls.append((entry, batch.shape, float(batch.flat[0])))
            self.now += next(seconds) if hasattr(seconds, "__next__") else seconds

        return session.Workload(entry=entry, batch_size=batch_size, engine_sha256="e" * 64, infer=infer)


def run(board, workloads, duration_s=1.0, num_trials=3, **schedule):
    told, steps = [], []
    rows = session.measure(
        workloads,
        img_size=4,
        schedule=session.Schedule(duration_s, num_trials, **schedule),
        generator=np.random.default_rng(0),
        clock=board.clock,
        tell=told.append,
        step=steps.append,
        sleep=board.sleep,
    )
    return rows, told, steps


def test_trials_of_all_workloads_come_in_rounds():
    board = Board()
    run(board, [board.workload("a", 1, 0.04), board.workload("b", 1, 0.05), board.workload("a", 2, 0.06)])
    order = [key for key, _ in itertools.groupby((entry, shape[0]) for entry, shape, _ in board.calls)]
    assert order == [("a", 1), ("b", 1), ("a", 2)] * 4  # the warm-up, then three rounds


def test_rows_hold_what_was_measured_in_the_order_of_the_workloads():
    board = Board()
    rows, told, steps = run(board, [board.workload("a", 1, 0.04), board.workload("b", 2, 0.05)])
    assert [(row.entry, row.batch_size, row.warm_up_count, row.warm_up_stable) for row in rows] == [
        ("a", 1, 20, True),
        ("b", 2, 20, True),
    ]
    assert [trial.latency_ms[0] for row in rows for trial in row.trials] == pytest.approx([40.0] * 3 + [50.0] * 3)
    assert told == []
    assert len(steps) == 2 * (1 + 3)
    windows = sorted((trial.start_s, trial.end_s) for row in rows for trial in row.trials)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(windows))


def test_a_warm_up_that_ends_at_its_cap_is_told_and_marked():
    board = Board()
    rows, told, _ = run(board, [board.workload("a", 1, itertools.cycle([0.02, 0.06]))], duration_s=1.2)
    assert not rows[0].warm_up_stable
    assert told == ["a batch 1: the warm-up ended at its cap of 1.2 s; calls: 30, latency still varied by 51.3%"]


def test_a_warm_up_too_slow_to_judge_is_told_and_marked():
    board = Board()
    rows, told, _ = run(board, [board.workload("a", 1, 2.0)], duration_s=1.0)
    assert (rows[0].warm_up_count, rows[0].warm_up_stable) == (1, False)
    assert told == ["a batch 1: the warm-up ended at its cap of 1 s; calls: 1, too few to judge"]


def test_workloads_of_one_batch_size_see_the_same_inputs_in_the_same_order():
    board = Board()
    run(board, [board.workload("a", 1, 0.05), board.workload("b", 1, 0.05)], num_trials=1)
    seen = {entry: [first for name, _, first in board.calls if name == entry] for entry in "ab"}
    assert seen["a"] == seen["b"]
    assert len(set(seen["a"])) == session.NUM_INPUTS


def test_inputs_are_standard_normal_and_the_same_for_the_same_seed():
    first, again = (session.make_inputs(8, 32, np.random.default_rng(3)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape == (8, 3, 32, 32)
    assert first[0].dtype == np.float32
    values = np.stack(first)
    assert values.mean() == pytest.approx(0.0, abs=5 / values.size**0.5)
    assert values.std() == pytest.approx(1.0, abs=5 / values.size**0.5)


def test_settling_calls_are_not_timed():
    board = Board()
    sixteenth = 0.0625  # of a second; sums of it are exact
    seconds = itertools.chain([sixteenth] * 20, itertools.cycle([9.0] * window.SETTLE_CALLS + [sixteenth] * 32))
    rows, _, _ = run(board, [board.workload("a", 1, seconds)], duration_s=2.0, num_trials=2)
    assert [trial.latency_ms for trial in rows[0].trials] == [(62.5,) * 32] * 2


def test_a_rest_comes_before_each_window_and_is_not_part_of_it():
    board = Board()
    rows, _, _ = run(board, [board.workload("a", 1, 0.05), board.workload("b", 1, 0.05)], cool_down_s=9.0)
    assert board.slept == [9.0] * 6
    assert all(trial.end_s - trial.start_s < 1.1 for row in rows for trial in row.trials)


def test_requests_that_come_at_random_come_at_the_same_times_for_every_engine_of_a_round():
    board = Board()
    rows, _, _ = run(board, [board.workload("a", 1, 0.01), board.workload("b", 1, 0.01)], arrival_per_s=20.0)
    first, second = rows
    for a, b in zip(first.trials, second.trials, strict=True):
        assert len(a.waiting_ms) == len(a.latency_ms) == len(b.latency_ms)
        assert a.waiting_ms == pytest.approx(b.waiting_ms, abs=1e-4)
    assert len({len(trial.latency_ms) for trial in first.trials}) > 1  # other rounds, other times


def test_requests_that_come_faster_than_an_engine_answers_are_refused_before_a_window():
    board = Board()
    with pytest.raises(InputError, match=r"slow batch 1 answers 20 requests a second, 30 would come") as caught:
        run(board, [board.workload("slow", 1, 0.05)], arrival_per_s=30.0)
    assert caught.value.hint == "--arrival poisson:14"
