"""The least-squares line through logarithms, which is a power law between what they are the logarithms of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_EXPONENT = 0.05
"""A correction of predicted loss keeps the order of predictions."""


def log_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Return slope and offset of the best line y = offset + slope * x whose slope is at least ``LEAST_EXPONENT``.

    Args:
        x: Shape (N,), not all alike.
        y: Shape (N,).
    """
    slope = max(float(np.cov(x, y, ddof=0)[0, 1] / x.var()), LEAST_EXPONENT)
    return slope, float(y.mean() - slope * x.mean())
