"""What was measured holds together: times ascend, rails are complete, a trial has calls."""

from __future__ import annotations

import pytest
from fakes.measurements import make_row, make_trial
from fakes.runs import make_measurement
from pydantic import ValidationError

from heartvit_edge.spec.engine import BatchRange
from heartvit_edge.spec.measurement import Measurement, PowerTrace, Trial


def _trace(**changes):
    fields = {
        "source": "replay",
        "times_s": (0.0, 0.1, 0.2),
        "rails_mw": {"GPU": (1.0, 2.0, 3.0), "CPU": (10.0, 20.0, 30.0), "SOC": (5.0, 5.0, 5.0)},
        "total_rails": ("GPU", "CPU"),
        "total_rule": "The rails add up.",
    }
    return PowerTrace(**fields | changes)


def test_the_total_adds_up_the_rails_it_names():
    assert _trace().total_mw() == (11.0, 22.0, 33.0)


@pytest.mark.parametrize("times", [(0.0, 0.2, 0.1), (0.0, 0.1, 0.1)])
def test_times_ascend_without_repeats(times):
    with pytest.raises(ValidationError, match="times_s must ascend without repeats"):
        _trace(times_s=times)


def test_a_rail_has_a_reading_for_every_time():
    with pytest.raises(ValidationError, match="rail CPU has 2 readings for 3 times"):
        _trace(rails_mw={"GPU": (1.0, 2.0, 3.0), "CPU": (10.0, 20.0)})


@pytest.mark.parametrize("rails", [(), ("GPU", "NC")])
def test_the_total_names_known_rails(rails):
    with pytest.raises(ValidationError, match="total_rails must name known rails"):
        _trace(total_rails=rails)


def test_a_trial_has_calls():
    with pytest.raises(ValidationError, match="at least one inference"):
        Trial(start_s=0.0, end_s=1.0, latency_ms=())


def test_a_trial_ends_after_it_began():
    with pytest.raises(ValidationError, match=r"found 1\.0 s to 1\.0 s"):
        Trial(start_s=1.0, end_s=1.0, latency_ms=(2.0,))


def test_a_row_has_trials():
    with pytest.raises(ValidationError, match="dense at batch size 4 has no trial"):
        make_row("dense", [], batch_size=4)
    assert make_row("dense", [make_trial(0.0, [2.0])]).entry == "dense"


@pytest.mark.parametrize("power", [True, False])
def test_a_measurement_has_power_or_the_reason_why_not(power):
    fields = make_measurement({"dense": [2.0], "macs-0.5": [1.0]}, power=power).model_dump()
    change = {"no_power_reason": "no sensor"} if power else {"no_power_reason": None}
    with pytest.raises(ValidationError, match="exactly one of power and no_power_reason"):
        Measurement.model_validate(fields | change)


@pytest.mark.parametrize("sizes", [(2, 1, 4), (1, 8, 4), (0, 1, 1)])
def test_batch_sizes_ascend_from_1(sizes):
    with pytest.raises(ValidationError):
        BatchRange(**dict(zip(("min", "opt", "max"), sizes, strict=True)))
