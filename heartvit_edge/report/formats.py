"""Numbers as a reader wants them: as many digits as the interval supports, and no more."""

from __future__ import annotations

import math

from heartvit_edge.bench.figures import Figure

DASH = "—"
"""Stands for a number that could not be given; its reason is always shown beside it."""

SHARE = "%"
"""Unit of a figure that is a share in [0, 1] and is shown in percent."""

TIMES = "\N{MULTIPLICATION SIGN}"

SMALLEST_PLAIN = 1e-4
"""Smaller numbers are written with a power of ten."""

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def decimals_for(value: float, low: float | None = None, high: float | None = None) -> int:
    """Return the decimals to show: so many that the interval's half width keeps one or two digits.

    At least two and at most four significant digits of the value are shown; three without an interval.
    """
    first = math.floor(math.log10(abs(value))) if value else 0
    if low is None or high is None or not high > low:
        return max(0, 2 - first)
    by_interval = math.ceil(-math.log10((high - low) / 6) - 1e-9)
    return max(0, 1 - first, min(by_interval, 3 - first))


def number_text(value: float, decimals: int) -> str:
    """Return a number with thousands separated; a very small one with a power of ten."""
    if 0 < abs(value) < SMALLEST_PLAIN:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}{TIMES}{power_of_ten(int(exponent))}"
    return f"{value:,.{decimals}f}" if value else "0"


def power_of_ten(exponent: int) -> str:
    """Return ``10`` with its exponent raised."""
    return f"10{superscript(exponent)}"


def superscript(number: int) -> str:
    """Return a whole number raised."""
    return str(number).translate(_SUPERSCRIPTS)


def value_text(figure: Figure, unit: str = "") -> str:
    """Return a figure's value, in percent where the unit says so; a dash where there is none."""
    if figure.value is None:
        return DASH
    value, low, high = (_scaled(number, unit) for number in (figure.value, figure.low, figure.high))
    assert value is not None
    return number_text(value, decimals_for(value, low, high))


def interval_text(figure: Figure, unit: str = "") -> str:
    """Return ``low to high`` as ``1.2–1.4`` with the value's decimals; empty where there is no interval."""
    if figure.value is None or figure.low is None or figure.high is None:
        return ""
    value, low, high = (_scaled(number, unit) for number in (figure.value, figure.low, figure.high))
    assert value is not None and low is not None and high is not None
    decimals = decimals_for(value, low, high)
    return f"{number_text(low, decimals)}\N{EN DASH}{number_text(high, decimals)}"


def with_unit(figure: Figure, unit: str) -> str:
    """Return value, unit and interval in one line, such as ``12.3 ms (12.1–12.4)``."""
    text = value_text(figure, unit)
    if figure.value is None:
        return f"{text} ({figure.reason})"
    interval = interval_text(figure, unit)
    return f"{text} {unit}".rstrip() + (f" ({interval})" if interval else "")


def _scaled(value: float | None, unit: str) -> float | None:
    return None if value is None else 100 * value if unit == SHARE else value
