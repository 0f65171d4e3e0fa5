"""Axis scales and their round ticks."""

from __future__ import annotations

import random

import pytest

from heartvit_edge.report.scale import Scale, padded, tick_texts, ticks


def test_a_scale_maps_its_ends_to_its_pixels_and_its_middle_between_them():
    scale = Scale(2.0, 4.0, 300.0, 100.0)
    assert [scale(2.0), scale(3.0), scale(4.0), scale(5.0)] == [300.0, 200.0, 100.0, 0.0]


def test_ticks_are_round_inside_the_range_and_never_too_many_over_many_ranges():
    draw = random.Random(0)
    for _ in range(2000):
        width = draw.uniform(0.1, 10) * 10 ** draw.randint(-6, 6)
        low = draw.uniform(-1000, 1000) * width
        high = low + width
        found = ticks(low, high)
        assert 2 <= len(found) <= 6
        assert all(low - 1e-6 * width <= value <= high + 1e-6 * width for value in found)
        step = found[1] - found[0]
        assert f"{step:.3e}"[:5] in ("1.000", "2.000", "5.000")


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0, 10, ("0", "2", "4", "6", "8", "10")),
        (0.86, 0.97, ("0.86", "0.88", "0.90", "0.92", "0.94", "0.96")),
        (0, 12_000, ("0", "5,000", "10,000")),
        (-1, 1, ("-1.0", "-0.5", "0.0", "0.5", "1.0")),
    ],
)
def test_ticks_show_the_decimals_that_their_step_needs(low, high, shown):
    assert tick_texts(ticks(low, high)) == shown


def test_a_single_value_gets_a_range_around_it():
    low, high = padded(3.0, 3.0)
    assert low < 3.0 < high
    assert padded(0.0, 0.0)[1] > 0
