from __future__ import annotations

import numpy as np
import pytest

from heartvit_edge.power.energy import NoEnergyError, check_coverage, integrate_mj

TIMES_S = np.arange(0.0, 10.05, 0.1)


def test_energy_of_a_constant_trace_is_power_times_time():
    assert integrate_mj(TIMES_S, np.full_like(TIMES_S, 5000.0), 2.03, 7.58) == pytest.approx(5000 * 5.55)


def test_energy_of_a_ramp_is_its_integral_though_the_window_begins_and_ends_between_readings():
    # P(t) = 1000 t mW: the integral from a to b is 500 (b^2 - a^2) mJ.
    start, end = 1.234, 8.765
    assert integrate_mj(TIMES_S, 1000 * TIMES_S, start, end) == pytest.approx(500 * (end**2 - start**2))


def test_energy_of_a_ramp_is_its_integral_with_uneven_readings():
    times = TIMES_S + np.random.default_rng(0).uniform(-0.03, 0.03, len(TIMES_S))
    assert integrate_mj(times, 300 * times, 2.0, 8.0) == pytest.approx(150 * (64 - 4))


def test_energy_of_a_step_is_off_by_no_more_than_half_a_reading_of_its_height():
    power = np.where(TIMES_S < 5.0, 1000.0, 4000.0)
    exact = 1000 * 3.0 + 4000 * 3.0  # a step at 5.0 s in a window from 2 s to 8 s
    assert abs(integrate_mj(TIMES_S, power, 2.0, 8.0) - exact) <= 0.5 * 0.1 * 3000 + 1e-6


def test_energy_of_neighbouring_windows_adds_up_to_that_of_both():
    power = 3000 + 1000 * np.sin(TIMES_S)
    parts = integrate_mj(TIMES_S, power, 1.27, 4.44) + integrate_mj(TIMES_S, power, 4.44, 9.13)
    assert parts == pytest.approx(integrate_mj(TIMES_S, power, 1.27, 9.13))


def test_coverage_counts_readings_rate_and_largest_gap():
    found = check_coverage(TIMES_S, 2.05, 4.05)
    assert found.num_readings == 20
    assert found.rate_hz == pytest.approx(10.0)
    assert found.largest_gap_s == pytest.approx(0.1)


def test_energy_is_refused_with_nine_readings_in_the_window_and_given_with_ten():
    power = np.full_like(TIMES_S, 1000.0)
    with pytest.raises(NoEnergyError, match=r"9 power .* 0\.89 s, expected at least 10: 0\.99 s have as many"):
        integrate_mj(TIMES_S, power, 2.05, 2.94)
    assert integrate_mj(TIMES_S, power, 2.05, 3.04) == pytest.approx(990.0)


@pytest.mark.parametrize(("start_s", "end_s"), [(-0.5, 5.0), (5.0, 10.5)])
def test_energy_is_refused_where_the_readings_do_not_cover_the_window(start_s, end_s):
    with pytest.raises(NoEnergyError, match="do not cover the window"):
        integrate_mj(TIMES_S, np.ones_like(TIMES_S), start_s, end_s)


@pytest.mark.parametrize("window", [(2.0, 8.0), (5.1, 8.0), (2.0, 5.1)])
def test_energy_is_refused_over_a_gap_of_more_than_three_medians_also_across_an_edge(window):
    times = TIMES_S[(TIMES_S <= 4.95) | (TIMES_S >= 5.35)]  # 4.9 s, then 5.4 s
    with pytest.raises(
        NoEnergyError, match=r"gaps of up to 500 ms, 500 ms together, .* no more than 2 % .* median gap of 100 ms"
    ):
        integrate_mj(times, np.ones_like(times), *window)


def test_energy_is_given_over_gaps_that_take_no_more_than_a_fiftieth_of_the_window():
    times = np.arange(0.0, 60.0, 0.01)
    times = times[(times <= 20.0) | (times >= 20.59)]  # 0.59 s of 30 s
    assert integrate_mj(times, np.full_like(times, 2000.0), 10.0, 40.0) == pytest.approx(60_000.0)
    with pytest.raises(NoEnergyError, match="gaps of up to"):
        integrate_mj(times, np.full_like(times, 2000.0), 10.0, 35.0)


def test_a_gap_outside_the_window_does_no_harm():
    times = TIMES_S[(TIMES_S <= 4.95) | (TIMES_S >= 5.35)]
    assert integrate_mj(times, np.full_like(times, 2000.0), 1.0, 4.5) == pytest.approx(7000.0)


def test_energy_of_an_empty_window_is_refused():
    with pytest.raises(NoEnergyError, match="empty"):
        integrate_mj(TIMES_S, np.ones_like(TIMES_S), 5.0, 5.0)
