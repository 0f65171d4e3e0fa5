"""Numbers as text."""

from __future__ import annotations

import pytest

from heartvit_edge.bench.figures import Figure
from heartvit_edge.report.formats import SHARE, interval_text, number_text, value_text, with_unit


@pytest.mark.parametrize(
    ("value", "low", "high", "shown", "interval"),
    [
        (12.3456, 12.30, 12.40, "12.35", "12.30–12.40"),  # noqa: RUF001 half width 0.05: two decimals
        (12.3456, 11.8, 12.9, "12.3", "11.8–12.9"),  # noqa: RUF001 half width 0.55: one decimal
        (12.3456, 9.0, 16.0, "12", "9–16"),  # noqa: RUF001 half width 3.5: none
        (1.23456789, 1.2345678, 1.2345679, "1.235", "1.235–1.235"),  # noqa: RUF001 never above four digits
        (1234.5, 1200.0, 1300.0, "1,234", "1,200–1,300"),  # noqa: RUF001
        (0.0138, 0.0130, 0.0146, "0.0138", "0.0130–0.0146"),  # noqa: RUF001
    ],
)
def test_a_number_shows_the_digits_that_its_interval_supports(value, low, high, shown, interval):
    figure = Figure(value=value, low=low, high=high)
    assert value_text(figure) == shown
    assert interval_text(figure) == interval


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (3.14159, "3.14"), (31.4159, "31.4"), (314.159, "314"), (31415.9, "31,416"), (0.00123456, "0.00123")],
)
def test_a_number_without_an_interval_shows_three_significant_digits(value, shown):
    assert value_text(Figure(value=value)) == shown
    assert interval_text(Figure(value=value)) == ""


def test_a_share_is_shown_in_percent():
    figure = Figure(value=0.9425, low=0.934, high=0.949)
    assert (value_text(figure, SHARE), interval_text(figure, SHARE)) == ("94.2", "93.4–94.9")  # noqa: RUF001


def test_a_very_small_number_is_written_with_a_power_of_ten():
    assert number_text(4.2e-5, 7) == "4.2\N{MULTIPLICATION SIGN}10⁻⁵"


def test_a_missing_number_is_a_dash_with_its_reason():
    assert with_unit(Figure(value=None, reason="no sensor"), "mJ") == "— (no sensor)"


def test_a_number_stands_with_its_unit_and_interval():
    assert with_unit(Figure(value=12.3, low=12.0, high=12.6), "ms") == "12.3 ms (12.0–12.6)"  # noqa: RUF001


def test_an_interval_with_one_end_is_not_shown():
    assert interval_text(Figure(value=2.0, low=1.0)) == ""
