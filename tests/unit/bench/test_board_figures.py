from __future__ import annotations

import pytest
from fakes.measurements import make_measurement, make_row, make_trial

from heartvit_edge.bench.board_figures import (
    busiest_share,
    clocks_mhz,
    hottest_c,
    others_cpu_share,
    throttle_causes,
    throttled,
    wandering_clocks,
    wandering_mhz,
)
from heartvit_edge.spec.board import BoardTrace

TIMES_S = tuple(0.5 * tick for tick in range(21))  # to 10 s


def measured(tmp_path, **fields):
    """A window from 3 s to 5 s: the ticks 6 to 10 are in it."""
    row = make_row("dense", [make_trial(3.0, [20.0] * 100)])
    measurement = make_measurement(tmp_path, [row])
    return measurement.model_copy(update={"board": BoardTrace(times_s=TIMES_S, **fields)}), row


def at(value, *ticks, otherwise=0):
    return tuple(value if tick in ticks else otherwise for tick in range(len(TIMES_S)))


def test_a_limit_in_force_inside_the_window_slows_down_and_one_before_it_does_not(tmp_path):
    states = {"gpu-throttle-alert": at(2, 8), "hot-surface-alert": at(1, 2)}
    assert throttle_causes(*measured(tmp_path, throttle_states=states)) == ("gpu-throttle-alert",)


def test_events_count_where_they_rise_inside_the_window(tmp_path):
    rising = tuple(7 if tick < 8 else 10 for tick in range(len(TIMES_S)))
    assert throttle_causes(
        *measured(tmp_path, throttle_counts={"over-current oc1": rising, "old": at(9, *range(21))})
    ) == ("over-current oc1: 3 times",)


def test_a_locked_clock_that_falls_slows_down(tmp_path):
    clocks = {"GPU": at(900.0, 9, otherwise=1300.0)}
    assert throttle_causes(*measured(tmp_path, clocks_mhz=clocks, locked_mhz={"GPU": 1300.0})) == (
        "GPU clock down to 900 of 1300 MHz",
    )


def test_a_clock_that_is_not_locked_and_moves_is_told_as_such(tmp_path):
    clocks = {
        "GPU": at(900.0, 9, otherwise=1300.0),
        "CPU 0": at(2200.0, *range(21)),
        "memory": at(None, otherwise=3199.0),
    }
    measurement, row = measured(tmp_path, clocks_mhz=clocks)
    assert wandering_clocks(measurement, row) == ("GPU clock 900 to 1300 MHz",)
    assert throttle_causes(measurement, row) == ()


def test_a_power_mode_that_changed_since_the_run_began_is_told(tmp_path):
    modes = ("30W",) * 8 + ("15W",) * 13
    assert throttle_causes(*measured(tmp_path, power_mode=modes)) == ("power mode changed from 30W to 15W",)
    assert throttle_causes(*measured(tmp_path, power_mode=("30W",) * 12 + ("15W",) * 9)) == ()


def test_rows_that_the_same_slowed_down_are_told_together(tmp_path):
    measurement, row = measured(tmp_path, throttle_states={"gpu-throttle-alert": at(2, 8, 14)})
    other = make_row("macs-0.5", [make_trial(6.0, [20.0] * 100)])
    whole = make_row("late", [make_trial(9.0, [10.0] * 50)])
    measurement = measurement.model_copy(update={"rows": (row, other, whole)})
    assert throttled(measurement) == {("gpu-throttle-alert",): [row, other]}


def test_clocks_that_wander_are_told_once_over_all_rows_and_those_of_the_cores_as_one(tmp_path):
    clocks = {
        "GPU": at(900.0, 9, otherwise=1300.0),
        "CPU 0": at(700.0, 8, otherwise=2200.0),
        "CPU 1": at(800.0, 8, otherwise=2000.0),
        "memory": at(3199.0, *range(21)),
    }
    measurement, _ = measured(tmp_path, clocks_mhz=clocks)
    assert wandering_mhz(measurement) == {"GPU": (900.0, 1300.0), "CPU": (700.0, 2200.0)}
    assert wandering_mhz(measured(tmp_path, clocks_mhz=clocks, locked_mhz={"GPU": 1300.0})[0]).keys() == {"CPU"}


def test_others_share_of_the_processor_is_its_mean_in_the_windows_and_told_above_a_tenth(tmp_path):
    measurement, row = measured(tmp_path, others_cpu_share=(None, *at(0.4, 7, 9, otherwise=0.1)[1:]))
    assert others_cpu_share(measurement, row) == pytest.approx((0.1 + 0.4 + 0.1 + 0.4 + 0.1) / 5)
    assert busiest_share(measurement) == others_cpu_share(measurement, row)
    quiet, row = measured(tmp_path / "quiet", others_cpu_share=(0.05,) * 21)
    assert (others_cpu_share(quiet, row), busiest_share(quiet)) == (pytest.approx(0.05), None)


def test_the_hottest_sensor_in_the_window_counts(tmp_path):
    temperatures = {"gpu": at(80.0, 9, otherwise=50.0), "off": (None,) * 21, "cpu": at(99.0, 1, otherwise=60.0)}
    assert hottest_c(*measured(tmp_path, temperatures_c=temperatures)) == 80.0


def test_nothing_is_claimed_without_a_trace(tmp_path):
    measurement, row = measured(tmp_path)
    without = measurement.model_copy(update={"board": None})
    assert (throttle_causes(without, row), wandering_clocks(without, row), hottest_c(without, row)) == ((), (), None)
    assert (throttled(without), wandering_mhz(without), busiest_share(without)) == ({}, {}, None)
    assert hottest_c(measurement, row) is None


def test_the_ticks_on_either_side_of_a_short_window_speak_for_it(tmp_path):
    row = make_row("dense", [make_trial(3.1, [1.0] * 100)])  # 3.1 to 3.2 s, between the ticks at 3.0 and 3.5 s
    measurement = make_measurement(tmp_path, [row]).model_copy(
        update={"board": BoardTrace(times_s=TIMES_S, throttle_states={"alert": at(1, 7)})}
    )
    assert throttle_causes(measurement, row) == ("alert",)


def test_clocks_are_their_smallest_and_largest_value_in_the_window(tmp_path):
    clocks = {"GPU": at(900.0, 9, otherwise=1300.0), "CPU 0": at(5.0, 2, otherwise=7.0), "memory": (None,) * 21}
    found = clocks_mhz(*measured(tmp_path, clocks_mhz=clocks))
    assert found == {"GPU": (900.0, 1300.0), "CPU 0": (7.0, 7.0), "memory": None}
