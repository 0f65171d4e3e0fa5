"""Energy and power of a row, from traces whose integral is known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from fakes.measurements import make_measurement, make_row, make_trial

from heartvit_edge.bench.energy_figures import (
    achieved_rate_hz,
    energy_figures,
    energy_ratio,
    inverse,
    largest_gap_s,
    paired_ratio,
)
from heartvit_edge.bench.figures import Figure
from heartvit_edge.spec.measurement import PowerTrace, Window


def constant_power(milliwatt, seconds=10.0, rails=("VDD_IN",)):
    times = np.arange(0.0, seconds, 0.1)
    return PowerTrace(
        source="replay",
        times_s=tuple(times.tolist()),
        rails_mw={label: (value,) * len(times) for label, value in zip((*rails, "VDD_SOC"), milliwatt, strict=True)},
        total_rails=rails,
        total_rule="a test",
    )


def test_energy_of_constant_power_is_power_times_time_a_call(tmp_path):
    # 100 calls of 20 ms at 5 W are 100 mJ each; at batch size 4, 25 mJ an image.
    row = make_row("dense", [make_trial(1.0, [20.0] * 100), make_trial(4.0, [20.0] * 100)], batch_size=4)
    found = energy_figures(make_measurement(tmp_path, [row], constant_power((5000.0, 900.0))), row)
    assert found.mj_per_inference.value == pytest.approx(100.0)
    assert found.mj_per_image.value == pytest.approx(25.0)
    assert found.mean_mw.value == pytest.approx(5000.0)
    assert found.peak_mw.value == 5000.0
    assert found.rails_mj_per_inference["VDD_SOC"].value == pytest.approx(18.0)
    assert found.total_rails == ("VDD_IN",)
    assert found.rate_hz == pytest.approx(10.0, rel=0.1)
    assert found.largest_gap_s == pytest.approx(0.1)


def test_energy_interval_is_that_of_the_trials(tmp_path):
    row = make_row(
        "dense", [make_trial(1.0, [20.0] * 100), make_trial(4.0, [25.0] * 100), make_trial(7.0, [24.0] * 100)]
    )
    found = energy_figures(make_measurement(tmp_path, [row], constant_power((5000.0, 0.0))), row).mj_per_inference
    low, high = scipy.stats.t.interval(0.95, 2, loc=115.0, scale=scipy.stats.sem([100.0, 125.0, 120.0]))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6)


def test_peak_is_the_largest_reading_inside_the_windows_alone(tmp_path):
    trace = constant_power((5000.0, 0.0))
    power = list(trace.rails_mw["VDD_IN"])
    power[5], power[15] = 9000.0, 7000.0  # at 0.5 s, before the window, and at 1.5 s, in it
    trace = trace.model_copy(update={"rails_mw": {**trace.rails_mw, "VDD_IN": tuple(power)}})
    row = make_row("dense", [make_trial(1.0, [20.0] * 100)])
    assert energy_figures(make_measurement(tmp_path, [row], trace), row).peak_mw.value == 7000.0


def test_energy_without_a_trace_gives_the_runs_reason(tmp_path):
    row = make_row("dense", [make_trial(1.0, [20.0] * 100)])
    found = energy_figures(make_measurement(tmp_path, [row]), row)
    assert (found.mj_per_inference.value, found.mj_per_inference.reason) == (None, "there is no sensor")
    assert (found.peak_mw.value, found.num_readings, found.rails_mj_per_inference) == (None, 0, {})


def test_energy_is_refused_for_all_trials_where_one_is_not_covered(tmp_path):
    row = make_row("dense", [make_trial(1.0, [20.0] * 100), make_trial(9.0, [20.0] * 100)])
    found = energy_figures(make_measurement(tmp_path, [row], constant_power((5000.0, 0.0))), row)
    assert found.mj_per_inference.value is None
    assert "do not cover the window" in found.mj_per_inference.reason


def test_achieved_rate_counts_intervals_between_readings():
    assert achieved_rate_hz(constant_power((1.0, 1.0))) == pytest.approx(10.0)


def test_largest_gap_is_that_between_neighbours():
    trace = PowerTrace(
        source="a", times_s=(0.0, 0.1, 0.5), rails_mw={"A": (1.0,) * 3}, total_rails=("A",), total_rule="a test"
    )
    assert largest_gap_s(trace) == pytest.approx(0.4)


def stepped_power(idle_mw, busy_mw, busy_from_s, seconds=12.0, **fields):
    times = np.arange(0.0, seconds, 0.1)
    power = np.where(times < busy_from_s, idle_mw, busy_mw)
    return PowerTrace(
        source="replay",
        times_s=tuple(times.tolist()),
        rails_mw={"VDD_IN": tuple(power.tolist())},
        total_rails=("VDD_IN",),
        total_rule="a test",
        **fields,
    )


def test_net_energy_leaves_out_what_the_idle_machine_uses(tmp_path):
    # 5 W busy and 2 W idle: 100 calls of 20 ms are 100 mJ gross and 60 mJ net each.
    trials = [make_trial(start, [20.0] * 100) for start in (4.0, 6.5, 9.0)]
    row = make_row("dense", trials)
    measurement = make_measurement(tmp_path, [row], stepped_power(2000.0, 5000.0, 3.5))
    measurement = measurement.model_copy(update={"idle": Window(start_s=0.5, end_s=3.0)})
    found = energy_figures(measurement, row)
    assert found.mj_per_inference.value == pytest.approx(100.0)
    assert found.idle_mw.value == pytest.approx(2000.0)
    assert found.net_mj_per_inference.value == pytest.approx(60.0)
    assert found.inferences_per_j.value == pytest.approx(10.0)
    assert found.energy_delay_mj_ms.value == pytest.approx(2000.0)


def test_net_energy_says_why_it_is_missing(tmp_path):
    row = make_row("dense", [make_trial(4.0, [20.0] * 100)])
    measurement = make_measurement(tmp_path, [row], stepped_power(2000.0, 5000.0, 3.5))
    assert energy_figures(measurement, row).net_mj_per_inference.reason == "no idle window was measured"
    short = measurement.model_copy(update={"idle": Window(start_s=0.55, end_s=0.95)})
    assert "idle: 4 power readings" in energy_figures(short, row).net_mj_per_inference.reason
    assert energy_figures(short, row).mj_per_inference.value == pytest.approx(100.0)


def test_an_interval_is_wider_by_half_a_step_of_the_sensor(tmp_path):
    # Constant power leaves no spread between trials: what is left is the step, 40 mW / 2 over 20 ms a call, 0.4 mJ.
    row = make_row("dense", [make_trial(start, [20.0] * 100) for start in (4.0, 6.5, 9.0)])
    trace = stepped_power(5000.0, 5000.0, 0.0, resolution_mw={"VDD_IN": 40.0})
    found = energy_figures(make_measurement(tmp_path, [row], trace), row)
    assert (found.mj_per_inference.low, found.mj_per_inference.high) == pytest.approx((99.6, 100.4))
    assert (found.mean_mw.low, found.mean_mw.high) == pytest.approx((4980.0, 5020.0))
    rail = found.rails_mj_per_inference["VDD_IN"]
    assert (rail.low, rail.high) == pytest.approx((99.6, 100.4))


def test_energy_ratio_pairs_the_rounds_so_that_drift_cancels(tmp_path):
    # Power doubles and trebles from round to round, for both engines alike: the ratio stays at one half.
    times = np.arange(0.0, 30.0, 0.1)
    power = 1000.0 * (1 + times // 10)
    trace = PowerTrace(
        source="replay",
        times_s=tuple(times.tolist()),
        rails_mw={"VDD_IN": tuple(power.tolist())},
        total_rails=("VDD_IN",),
        total_rule="a test",
    )
    dense = make_row("dense", [make_trial(start + 1, [20.0] * 100) for start in (0, 10, 20)])
    pruned = make_row("macs-0.5", [make_trial(start + 5, [10.0] * 200) for start in (0, 10, 20)])
    measurement = make_measurement(tmp_path, [dense, pruned], trace)
    found = energy_ratio(measurement, pruned)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert energy_ratio(measurement, dense).value == 1.0


def test_energy_ratio_says_why_it_is_missing(tmp_path):
    row = make_row("macs-0.5", [make_trial(1.0, [20.0] * 100)])
    without = make_measurement(tmp_path, [row])
    assert energy_ratio(without, row).reason == "the dense engine was not measured at batch size 1"
    dense = make_row("dense", [make_trial(4.0, [20.0] * 100)])
    both = make_measurement(tmp_path / "both", [dense, row])
    assert energy_ratio(both, row).reason == "there is no sensor"


def test_paired_ratio_is_the_student_interval_over_logarithms():
    above, below = [2.0, 2.2, 2.1], [1.0, 1.0, 1.2]
    logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
    low, high = scipy.stats.t.interval(0.95, 2, loc=np.mean(logs), scale=scipy.stats.sem(logs))
    found = paired_ratio(above, below)
    assert (found.low, found.value, found.high) == pytest.approx(
        (math.exp(low), math.exp(np.mean(logs)), math.exp(high)), rel=1e-6
    )
    assert paired_ratio([1.0, -1.0], [1.0, 1.0]).reason == "an energy is not above zero"


def test_inverse_of_a_figure_whose_interval_reaches_zero_has_no_upper_end():
    assert inverse(Figure(value=4.0, low=2.0, high=8.0)) == Figure(value=0.25, low=0.125, high=0.5)
    assert inverse(Figure(value=4.0, low=0.0, high=8.0)) == Figure(value=0.25)
    assert inverse(Figure(value=0.0)).reason == "it is one over a figure that is not above zero"
