"""What was run, where and how: the head of a report, and its environment."""

from __future__ import annotations

import pytest
from fakes.runs import make_measurement

from heartvit_edge.report.facts import environment, headline
from heartvit_edge.report.notes import warnings
from heartvit_edge.report.runs import Run


def run_of(measurement):
    return Run("run", measurement, None, measurement.pack)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({}, "each as the one before is answered"),
        ({"scenario": "single-stream"}, "MLPerf's single-stream, judged by p90 ms"),
        (
            {"scenario": "offline"},
            "MLPerf's offline, judged by images/s: most at batch size 1 (dense), 1 (macs-0.5)",
        ),
        ({"arrival_per_s": 30.0}, "at random, 30 a second; latencies contain waiting"),
    ],
)
def test_a_report_says_how_requests_came(how, words):
    run = run_of(make_measurement().model_copy(update=how))
    assert headline(run)["Requests"] == environment(run)["Requests"] == words


def test_a_report_says_how_many_windows_and_inferences_lie_behind_it():
    run = run_of(make_measurement({"dense": [2.0] * 1000, "macs-0.5": [2.0] * 1000}))
    assert headline(run)["Windows"] == "2 of 2 s for each engine and batch size, in turn, 2,000 inferences"
    uneven = run_of(make_measurement({"dense": [2.0] * 1000, "macs-0.5": [1.0] * 2000}))
    assert headline(uneven)["Windows"].endswith("in turn, 2,000 to 4,000 inferences")


def test_what_requests_waited_is_told_beside_latencies_that_contain_it():
    measurement = make_measurement({"dense": [2.0] * 100, "macs-0.5": [1.0] * 100})
    rows = tuple(
        row.model_copy(update={"trials": tuple(t.model_copy(update={"waiting_ms": (wait,) * 100}) for t in row.trials)})
        for row, wait in zip(measurement.rows, (4.0, 0.5), strict=True)
    )
    run = run_of(measurement.model_copy(update={"rows": rows, "arrival_per_s": 30.0}))
    waits = "4.00 ms (dense at batch size 1), 0.500 ms (macs-0.5 at batch size 1)"
    assert f"run: requests came at random, and latencies contain what they waited: {waits}." in warnings([run])
