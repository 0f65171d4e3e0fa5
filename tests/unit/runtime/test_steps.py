"""The remarks on a timed run are trtexec's."""

from __future__ import annotations

import pytest
from fakes.board import Board, noise

from heartvit_edge.runtime.slot import StepTimes
from heartvit_edge.runtime.steps import MIN_COUNT, StepRun, time_runner


def steps(compute, enqueue=0.1):
    """Return a run whose compute times are these."""
    return StepRun(tuple(StepTimes(0.5, ms, 0.25, enqueue, ms + 1) for ms in compute), 100.0)


def test_the_median_is_taken_of_each_time_by_itself():
    run = StepRun((StepTimes(1, 9, 3, 2, 20), StepTimes(2, 8, 1, 2, 30), StepTimes(3, 7, 2, 2, 10)), 1.0)
    assert run.median() == StepTimes(2, 8, 2, 2, 20)


@pytest.mark.parametrize(
    ("run", "remark"),
    [
        (steps([4.0, 4.01, 3.99]), None),
        (steps([4.0, 4.4, 3.6]), "compute varies by 10.0%: lock the clocks, or run longer"),
        (steps([4.0, 4.0, 4.0], enqueue=3.3), "enqueue takes nearly as long as compute: the host limits throughput"),
    ],
)
def test_unsteady_and_host_bound_runs_are_remarked(run, remark):
    assert run.remarks() == ([remark] if remark else [])


def test_each_run_lasts_for_its_time_and_makes_at_least_ten_inferences(tmp_path, monkeypatch):
    board = Board(tmp_path, monkeypatch, "10.3.0")
    with board.runner() as runner:
        run = time_runner(runner, [noise(1, seed=seed) for seed in range(2)], 0.0)
        assert len(run.steps) == MIN_COUNT
        device = board.script.device
        run = time_runner(runner, [noise(1)], 10.0, clock=lambda: device.clock_ms / 100)  # 1 s is 100 ms of the device
    assert len(run.steps) == pytest.approx(1000 / 11, abs=1)  # an input, the network and two outputs take 11 ms
    assert run.batches_per_s == pytest.approx(100 / 11, rel=0.03)
