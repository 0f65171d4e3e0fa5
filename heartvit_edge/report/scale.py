"""From data to pixels, and the round numbers that an axis shows."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A linear map from data to pixels.

    Attributes:
        low: Smallest value of the data range.
        high: Largest value, above ``low``.
        start: Pixel of ``low``.
        end: Pixel of ``high``; below ``start`` on an upward axis.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value, which may lie outside the data range."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def padded(low: float, high: float, share: float = 0.08) -> tuple[float, float]:
    """Return the range widened by a share of its width on both sides; a single value becomes a range around it."""
    width = high - low or abs(high) or 1.0
    return low - share * width, high + share * width


def ticks(low: float, high: float, most: int = 6) -> tuple[float, ...]:
    """Return the multiples of a round step within the range: the smallest step that gives at most ``most`` of them.

    A round step is 1, 2 or 5 times a power of ten.

    Args:
        low: Smallest value of the range.
        high: Largest value, above ``low``.
        most: Largest number of ticks, at least two.
    """
    power = 10.0 ** (math.floor(math.log10((high - low) / most)) - 1)
    for step in (factor * power for factor in (1, 2, 5, 10, 20, 50, 100, 200)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return tuple(step * index for index in range(first, last + 1))
    raise AssertionError(f"no step has at most {most} ticks between {low} and {high}")


def tick_texts(values: tuple[float, ...]) -> tuple[str, ...]:
    """Return the ticks as text with the decimals that their step needs."""
    if len(values) < 2:
        return tuple(f"{value:g}" for value in values)
    decimals = max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9))
    return tuple(f"{0.0 if abs(value) < 1e-12 else value:,.{decimals}f}" for value in values)
