from __future__ import annotations

import pytest

from heartvit_edge.power.replay import ReplaySampler
from heartvit_edge.power.sampler import PowerLostError
from heartvit_edge.spec.measurement import PowerTrace

RECORDED = PowerTrace(
    source="jtop",
    times_s=(0.0, 0.5, 1.0, 1.5),
    rails_mw={"VDD_IN": (1.0, 2.0, 3.0, 4.0)},
    total_rails=("VDD_IN",),
    total_rule="recorded",
)


def test_a_replay_gives_the_readings_up_to_now_and_the_one_after():
    with ReplaySampler(RECORDED, lambda: 0.7) as sampler:
        trace = sampler.stop()
    assert trace.times_s == (0.0, 0.5, 1.0)
    assert trace.rails_mw == {"VDD_IN": (1.0, 2.0, 3.0)}
    assert (trace.source, trace.total_rule) == ("replay", "recorded")


def test_a_replay_that_is_shorter_than_the_run_is_lost():
    with ReplaySampler(RECORDED, lambda: 1.6) as sampler, pytest.raises(PowerLostError, match=r"ends 1\.500 s"):
        sampler.stop()
