from __future__ import annotations

import pytest

from heartvit_edge.power.recording import Recording


def test_a_recording_gives_back_what_was_added_in_order():
    recording = Recording()
    recording.add(0.1, {"VDD_IN": 4000.0, "VDD_SOC": 900.0})
    recording.add(0.2, {"VDD_SOC": 910.0, "VDD_IN": 4100.0, "NEW": 1.0})
    trace = recording.trace("fake", ("VDD_IN",), "because", interval_ms=100.0)
    assert trace.times_s == (0.1, 0.2)
    assert trace.rails_mw == {"VDD_IN": (4000.0, 4100.0), "VDD_SOC": (900.0, 910.0)}
    assert (trace.total_mw(), trace.interval_ms, trace.num_dropped) == ((4000.0, 4100.0), 100.0, 0)


def test_a_reading_with_the_former_stamp_is_dropped_and_counted():
    recording = Recording()
    for time_s, stamp in ((0.1, 7), (0.2, 7), (0.3, 8)):
        recording.add(time_s, {"VDD_IN": 4000.0}, stamp=stamp)
    assert (len(recording), recording.num_dropped, recording.last_s) == (2, 1, 0.3)


def test_equal_power_without_a_stamp_is_no_repeat():
    recording = Recording()
    for time_s in (0.1, 0.2, 0.3):
        recording.add(time_s, {"VDD_IN": 4000.0})
    assert (len(recording), recording.num_dropped) == (3, 0)


@pytest.mark.parametrize(
    ("time_s", "rails"), [(0.2, {"VDD_SOC": 1.0}), (0.1, {"VDD_IN": 1.0}), (0.05, {"VDD_IN": 1.0})]
)
def test_a_reading_that_lacks_a_rail_or_comes_no_later_is_dropped_and_counted(time_s, rails):
    recording = Recording()
    recording.add(0.1, {"VDD_IN": 4000.0})
    recording.add(time_s, rails)
    assert (len(recording), recording.num_dropped) == (1, 1)


def test_a_reading_below_zero_is_kept():
    recording = Recording()
    recording.add(0.1, {"VDD_IN": -12.0})
    assert recording.trace("fake", ("VDD_IN",), "").total_mw() == (-12.0,)
