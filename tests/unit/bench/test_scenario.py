from __future__ import annotations

import numpy as np
import pytest
from fakes.measurements import make_measurement, make_row, make_trial

from heartvit_edge.bench.scenario import MLPERF, QUICK, best_offline, headline, scenario_sizes
from heartvit_edge.errors import InputError
from heartvit_edge.spec.engine import BatchRange

SERVED = BatchRange(min=1, opt=1, max=8)


@pytest.mark.parametrize(
    ("scenario", "sizes"), [("single-stream", [1]), ("multi-stream", [8]), ("offline", [1, 2, 4, 8])]
)
def test_each_scenario_has_its_batch_sizes(scenario, sizes):
    assert scenario_sizes(scenario, [], SERVED) == sizes


def test_offline_sweeps_what_the_engines_serve_or_what_was_asked_for():
    assert scenario_sizes("offline", [], BatchRange(min=3, opt=3, max=20)) == [4, 8, 16]
    assert scenario_sizes("offline", [], BatchRange(min=5, opt=5, max=5)) == [5]
    assert scenario_sizes("offline", [3, 5], SERVED) == [3, 5]


def test_another_batch_size_than_the_scenarios_is_refused():
    with pytest.raises(InputError, match="multi-stream asks for 8 images at a time, found --batch-size 4"):
        scenario_sizes("multi-stream", [4], SERVED)
    assert scenario_sizes("multi-stream", [8], SERVED) == [8]


def test_the_headline_is_p90_p99_or_images_a_second():
    samples = np.arange(1.0, 1001.0)
    row = make_row("dense", [make_trial(0.0, samples.tolist())], batch_size=2)
    assert headline("single-stream", row).value == 900.0
    assert headline("multi-stream", row).value == 990.0
    assert headline("offline", row).value == pytest.approx(2 * 1000 / (samples.sum() / 1000))


def test_the_best_batch_size_is_that_of_most_images_a_second(tmp_path):
    rows = [
        make_row("dense", [make_trial(n, [ms] * 50)], batch_size=size)
        for n, (size, ms) in enumerate([(1, 2.0), (4, 6.0), (8, 16.0)])
    ]
    assert best_offline(make_measurement(tmp_path, rows)) == {"dense": 4}


def test_mlperf_runs_ten_minutes_and_three_times():
    assert (MLPERF.duration_s, MLPERF.num_trials) == (600.0, 3)


@pytest.mark.parametrize(
    ("pace", "num_workloads", "text"),
    [(QUICK, 3, "39 s"), (QUICK, 20, "4 min"), (MLPERF, 3, "2.2 h")],
)
def test_the_time_of_a_run_is_that_of_idle_warm_ups_rests_and_windows(pace, num_workloads, text):
    assert pace.time_text(num_workloads) == text
