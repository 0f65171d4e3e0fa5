"""How a batch goes through a stem and, image by image, through the tail of as many tokens as the image needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.spec.routing import NOT_KEPT, NUM_KEEP
from heartvit_edge.spec.tensor import TensorInfo

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]
"""Runs a graph on its inputs by name and returns its outputs by name."""


def tails_of(num_keep: NDArray[np.int32], buckets: Sequence[int]) -> NDArray[np.intp]:
    """Return the number of the tail that each image takes: the smallest that keeps enough, or the largest.

    Args:
        num_keep: Patch tokens that each image needs, shape (B,).
        buckets: Those that each tail keeps, ascending.
    """
    places: NDArray[np.intp] = np.searchsorted(np.asarray(buckets), num_keep).clip(max=len(buckets) - 1)
    return places


def route(
    images: Arrays, stem: Run, tails: Sequence[Run], buckets: Sequence[int], outputs: Sequence[TensorInfo]
) -> dict[str, NDArray[Any]]:
    """Return the answers of a batch in the images' order; images that take one tail go through it together.

    Args:
        images: The stem's input.
        stem: Returns ``num_keep`` and what the tails take.
        tails: One a bucket.
        buckets: Ascending.
        outputs: What to return: rows shorter than stated end in ``NOT_KEPT``.
    """
    found = stem(images)
    places = tails_of(found[NUM_KEEP], buckets)
    state = {name: values for name, values in found.items() if name != NUM_KEEP}
    taken = np.unique(places)
    if len(taken) == 1:  # nothing to pick or to put together
        only = tails[taken[0]](state)
        return {info.name: _filled(only[info.name], info) for info in outputs}
    answers: dict[str, NDArray[Any]] = {}
    for place in taken:
        rows = np.flatnonzero(places == place)
        part = tails[place]({name: values[rows] for name, values in state.items()})
        for info in outputs:
            if info.name not in answers:
                size = [len(places) if known is None else known for known in info.shape]
                answers[info.name] = np.full(size, NOT_KEPT, dtype=info.dtype)
            answers[info.name][rows, : part[info.name].shape[1]] = part[info.name]
    return {info.name: answers[info.name] for info in outputs}


def _filled(values: NDArray[Any], info: TensorInfo) -> NDArray[Any]:
    missing = (info.shape[1] or 0) - values.shape[1]
    return np.pad(values, ((0, 0), (0, missing)), constant_values=NOT_KEPT) if missing else values
