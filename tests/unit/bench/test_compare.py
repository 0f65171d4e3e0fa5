"""Ratios between runs: by hand, and by scipy's Welch test."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from fakes.measurements import make_measurement, make_row, make_trial

from heartvit_edge.bench.compare import compare
from heartvit_edge.spec.measurement import PowerTrace


def run(folder, means_ms, watts=None):
    """Return a run whose trials of one second at these mean latencies, in ms, take these powers."""
    trials = [make_trial(10.0 * index, [ms] * round(1000 / ms)) for index, ms in enumerate(means_ms)]
    trace = None
    if watts is not None:
        times = [10.0 * index + 0.05 * step for index in range(len(trials)) for step in range(-1, 23)][1:]
        power = [1000.0 * watt for watt in watts for _ in range(24)][1:]
        trace = PowerTrace(
            source="test",
            times_s=tuple(times),
            rails_mw={"VDD_IN": tuple(power)},
            total_rails=("VDD_IN",),
            total_rule="a test",
        )
    return make_measurement(folder, [make_row("dense", trials)], trace)


def test_a_ratio_of_latencies_has_welchs_interval_over_the_logarithms_of_trials(tmp_path):
    first, other = [10.0, 10.4, 9.8, 10.1], [8.0, 8.9, 8.3]
    (found,) = compare(run(tmp_path / "a", first), run(tmp_path / "b", other))
    expected = scipy.stats.ttest_ind(np.log(other), np.log(first), equal_var=False)
    interval = expected.confidence_interval(0.95)
    means = [scipy.stats.gmean(one) for one in (other, first)]
    assert found.latency.value == pytest.approx(means[0] / means[1])
    # Ours rounds the degrees of freedom down, so it is the wider one.
    assert found.latency.low <= np.exp(interval.low) < np.exp(interval.high) <= found.latency.high
    assert found.latency.high == pytest.approx(np.exp(interval.high), rel=0.05)


def test_a_ratio_of_energies_is_that_of_power_times_time(tmp_path):
    first = run(tmp_path / "a", [10.0, 10.0, 10.0], [5.0, 5.0, 5.0])
    other = run(tmp_path / "b", [5.0, 5.0, 5.0], [8.0, 8.0, 8.0])
    (found,) = compare(first, other)
    assert found.latency.value == pytest.approx(0.5)
    assert found.energy.value == pytest.approx(8.0 * 5.0 / (5.0 * 10.0))


def test_one_trial_gives_no_interval(tmp_path):
    (found,) = compare(run(tmp_path / "a", [10.0]), run(tmp_path / "b", [5.0, 5.1]))
    assert (found.latency.low, found.latency.high) == (None, None)


def test_a_run_without_power_gives_its_reason_for_the_energy(tmp_path):
    with_power, without = run(tmp_path / "a", [10.0], [5.0]), run(tmp_path / "b", [10.0])
    for first, other in ((with_power, without), (without, with_power)):
        (found,) = compare(first, other)
        assert found.energy.reason == "there is no sensor"


def test_only_what_both_runs_measured_is_compared(tmp_path):
    first, other = run(tmp_path / "a", [10.0]), run(tmp_path / "b", [10.0])
    rows = [row.model_copy(update={"batch_size": 8}) for row in other.rows]
    assert compare(first, other.model_copy(update={"rows": tuple(rows)})) == []
