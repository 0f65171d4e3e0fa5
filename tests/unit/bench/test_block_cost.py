"""The cost of one block from windows of chains and of calls without blocks."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.measurements import make_trial
from fakes.tiny_pack import SHAPE

from heartvit_edge.bench.block_cost import FIXED, Grid, default_grid, energy_fields, latency_fields
from heartvit_edge.errors import MachineError
from heartvit_edge.spec.measurement import PowerTrace

GRID = Grid(tokens=(8, 17), heads=(1, 2))
VIT_S = SHAPE.model_copy(update={"img_size": 224, "patch_size": 16, "num_heads": 6})


def windows(milliseconds, rounds=(1.0,)):
    """Return for each part one window a round of four calls; each call takes its part's time, times the round's."""
    found, start = {}, 0.0
    for part in GRID.parts:
        found[part] = []
        for factor in rounds:
            found[part].append(make_trial(start, [factor * milliseconds(part)] * 4))
            start = found[part][-1].end_s + 1.0
    return found


def chain_ms(part):
    """Return a time of which a block is 16 ms a head and ms a token, a call 2 ms and what is fixed 64 ms."""
    tokens, heads = part
    return 64.0 if part == FIXED else 2.0 + 4 * heads * (16.0 + tokens)


def test_parts_are_every_cell_a_call_for_each_token_count_and_what_is_fixed():
    assert GRID.parts == [(0, 0), (8, 0), (8, 1), (8, 2), (17, 0), (17, 1), (17, 2)]


def test_a_block_is_a_quarter_of_the_chain_less_the_call():
    found = latency_fields(GRID, windows(chain_ms))
    assert found["block_ms"] == [[24.0, 48.0], [33.0, 66.0]]
    assert found["call_ms"] == [2.0, 2.0]
    assert found["fixed_ms"] == 64.0


def test_one_disturbed_round_of_three_moves_the_high_end_alone():
    calm, disturbed = windows(chain_ms), windows(chain_ms, rounds=(1.0, 5.0, 1.0))
    expected, found = latency_fields(GRID, calm), latency_fields(GRID, disturbed)
    assert found["block_ms"] == found["block_low_ms"] == expected["block_ms"]
    assert found["block_high_ms"][1][1] == (5 * (2 + 4 * 66) - 2) / 4
    assert found["fixed_ms"] == 64.0


def test_an_outlier_within_a_window_moves_nothing():
    found = windows(chain_ms)
    found[17, 2] = [make_trial(0.0, [chain_ms((17, 2))] * 4 + [9000.0])]
    assert latency_fields(GRID, found)["block_ms"][1][1] == 66.0


def test_each_cell_says_how_many_calls_and_seconds_lie_behind_it():
    found = latency_fields(GRID, windows(chain_ms, rounds=(1.0, 2.0)))
    assert found["num_samples"] == [[8, 8], [8, 8]]
    assert found["seconds"][0][1] == pytest.approx(4 * 3 * chain_ms((8, 2)) / 1000)


def test_a_chain_no_slower_than_a_call_without_blocks_is_refused():
    with pytest.raises(MachineError, match="the machine is too unsteady") as caught:
        latency_fields(GRID, windows(lambda part: 1.0 + (part[1] == 1)))
    assert "--duration" in caught.value.hint


def trace(found, milliwatt, step_s=0.0005):
    """Return readings from before the first window to after the last, of the power at their time."""
    end = max(trial.end_s for trials in found.values() for trial in trials)
    times = np.arange(0, end + 1, step_s)
    rails = {"VDD_IN": tuple(milliwatt(time) for time in times)}
    return PowerTrace(
        source="constant", times_s=tuple(times), rails_mw=rails, total_rails=("VDD_IN",), total_rule="the only rail"
    )


def test_energy_of_a_block_at_constant_power_is_its_latency_times_the_power():
    found = windows(chain_ms, rounds=(1.0, 1.0))
    energy, latency = energy_fields(GRID, found, trace(found, lambda _: 5000.0)), latency_fields(GRID, found)
    np.testing.assert_allclose(energy["block_mj"], 5 * np.array(latency["block_ms"]), rtol=1e-9)
    assert energy["fixed_mj"] == pytest.approx(5 * 64.0)
    assert energy["energy_source"] == "constant; the only rail"
    assert energy["no_energy_reason"] is None


def test_too_few_readings_give_the_reason_and_no_energy():
    found = windows(chain_ms)
    energy = energy_fields(GRID, found, trace(found, lambda _: 5000.0, step_s=0.05))
    assert energy["block_mj"] is energy["fixed_mj"] is energy["energy_source"] is None
    assert "power readings lie in a window" in energy["no_energy_reason"]


def test_a_chain_that_takes_no_more_energy_than_a_call_gives_the_reason_and_no_energy():
    found = windows(lambda part: 20.0 + 4 * part[1])
    calls = [trial for part in GRID.parts if part[1] == 0 for trial in found[part]]
    readings = trace(found, lambda time: 9000.0 if any(t.start_s <= time <= t.end_s for t in calls) else 50.0)
    energy = energy_fields(GRID, found, readings)
    assert energy["block_mj"] is None
    assert energy["no_energy_reason"] == "a chain of 4 blocks took no more energy than a call without blocks"


@pytest.mark.parametrize(
    ("changes", "tokens", "heads"),
    [
        ({}, (8, 24, 40, 56, 72, 88, 112, 128, 144, 160, 176, 192, 197), (1, 3, 4, 6)),
        ({"img_size": 112, "patch_size": 14}, (*range(8, 65, 8), 65), (1, 3, 4, 6)),
        ({"num_heads": 12}, (8, 24, 40, 56, 72, 88, 112, 128, 144, 160, 176, 192, 197), (1, 5, 8, 12)),
        ({"img_size": 32, "num_heads": 3}, (2, 3, 4, 5), (1, 2, 3)),
        ({"img_size": 16, "num_heads": 1}, (2,), (1,)),
    ],
)
def test_the_default_grid_is_at_most_12_multiples_all_tokens_and_4_head_counts(changes, tokens, heads):
    assert default_grid(VIT_S.model_copy(update=changes)) == Grid(tokens, heads)


def test_a_finer_grid_may_be_asked_for():
    found = default_grid(VIT_S, max_tokens=100, max_heads=100)
    assert found == Grid((*range(8, 197, 8), 197), (1, 2, 3, 4, 5, 6))
