"""Graphs that answer together: one alone, or a stem and its tails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.export.activation_ranges import Feed
from heartvit_edge.export.sessions import as_run, open_file
from heartvit_edge.spec.route import Run, route, tails_of
from heartvit_edge.spec.routing import NUM_KEEP
from heartvit_edge.spec.tensor import TensorInfo

FEWEST = 16
"""Images on which a tail is calibrated at least, where there are as many."""


@dataclass(frozen=True)
class Assembly:
    """Graphs that answer together.

    Attributes:
        paths: One graph; or a stem, then a tail for each bucket.
        buckets: Patch tokens that each tail keeps, ascending; none for one graph.
        outputs: What a stem and tails answer together; none for one graph.
    """

    paths: tuple[Path, ...]
    buckets: tuple[int, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()

    def written_in(self, precision: str) -> Assembly:
        """Return the same in another precision: ``<name>.<precision>.onnx``."""
        return replace(self, paths=tuple(path.with_name(f"{path.stem}.{precision}.onnx") for path in self.paths))

    def join(self, runs: Sequence[Run]) -> Run:
        """Return what runs them all, of what runs each."""
        stem, *tails = runs
        if not self.buckets:
            return stem
        return lambda given: route(given, stem, tails, self.buckets, self.outputs)

    def open(self, session: Callable[[Path], Any]) -> Run:
        """Return what runs them all, each in a session of its own."""
        return self.join([as_run(session(path)) for path in self.paths])

    def feeds(self, batches: Sequence[Feed]) -> tuple[Sequence[Feed], ...]:
        """Return what each graph is fed while these batches run through them all.

        A tail gets the images that take it, and where these are fewer than ``FEWEST``, those that come closest.
        """
        if not self.buckets:
            return (batches,)
        stem = as_run(open_file(self.paths[0]))
        found = [stem(batch) for batch in batches]
        whole = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
        needed = whole.pop(NUM_KEEP)
        size = max(len(next(iter(batch.values()))) for batch in batches)
        return (batches, *(_in_batches(whole, rows, size) for rows in images_of_tails(needed, self.buckets)))


def images_of_tails(needed: NDArray[np.int32], buckets: Sequence[int]) -> list[NDArray[np.intp]]:
    """Return the images that each tail is calibrated on, ascending.

    Args:
        needed: Patch tokens that each image needs, shape (B,).
        buckets: Those that each tail keeps, ascending.
    """
    places = tails_of(needed, buckets)
    chosen = []
    for number, bucket in enumerate(buckets):
        others = places != number
        order = np.lexsort((np.abs(needed - bucket), others))  # its own first
        chosen.append(np.sort(order[: max(FEWEST, int((~others).sum()))]))
    return chosen


def _in_batches(state: dict[str, NDArray[Any]], rows: NDArray[np.intp], size: int) -> list[Feed]:
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [{name: values[part] for name, values in state.items()} for part in parts]
