"""The images that choose a routing's threshold and buckets, and those that it is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.spec.model import ImageSetRef

NUM_BUCKETS = 4


@dataclass(frozen=True)
class RoutingImages:
    """Images as the model's input, batches of (B, 3, H, W).

    Attributes:
        choosing: What chooses threshold and buckets.
        chosen_on: Which images these are; None where it is not known.
        checking: Others, that routing is measured on; none for no measurement.
        checked_on: Which images these are.
        num_buckets: Most tails.
    """

    choosing: Sequence[NDArray[np.float32]]
    chosen_on: ImageSetRef | None
    checking: Sequence[NDArray[np.float32]] = ()
    checked_on: ImageSetRef | None = None
    num_buckets: int = NUM_BUCKETS
