"""Running a stem and its tails: each image goes through the tail of as many tokens as it needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from heartvit_edge.runtime.runner import PartRunner, check_images
from heartvit_edge.spec.engine import EngineManifest
from heartvit_edge.spec.route import route


class RoutedRunner:
    """Runs the stem on a batch, and each tail on the images that need it, so at most as many times as it has tails.

    What the stem hands on goes through the host's memory, which a tail's share of a batch is picked from. That copy
    takes a thousandth of what the blocks take.
    """

    def __init__(self, manifest: EngineManifest, parts: Sequence[PartRunner]) -> None:
        """Take the parts, which are opened and closed by whoever made them.

        Args:
            manifest: The engine's.
            parts: The stem, then the tails by bucket.
        """
        self._manifest = manifest
        self._stem, *self._tails = parts

    def __enter__(self) -> Self:
        """Return this: the parts are open."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the parts to who opened them."""

    def infer(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every output by name; see :class:`heartvit_edge.runtime.runner.Runner`."""
        check_images(images, self._manifest)
        given = {self._manifest.inputs[0].name: images}
        tails = [tail.run for tail in self._tails]
        return route(given, self._stem.run, tails, self._manifest.buckets, self._manifest.outputs)

    def infer_many(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the outputs of each batch, one after the other: a tail waits for what its stem says."""
        return map(self.infer, batches)
