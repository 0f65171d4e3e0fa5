"""Scoring in shards: a killed run goes on from its last finished shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.spec.files import new_file

Array = NDArray[np.float32]
Shard = dict[str, Array]
"""Named arrays whose first axis is the image."""


def run_shards(
    numbers: Iterable[int], compute: Callable[[int], Shard], folder: Path, advance: Callable[[int], None]
) -> dict[int, Shard]:
    """Compute each shard, or read it where an earlier run finished it.

    Results go to their files at once and are read back at the end: small arrays kept among the large ones that every
    batch allocates and frees would fragment the heap, by 70 kB an image.

    Args:
        numbers: Shards of this process.
        compute: Maps a shard's number to its arrays.
        folder: Where finished shards are kept, one file each, until the caller removes them.
        advance: Told the number of each shard that is done.

    Returns:
        Shard number to its arrays.
    """
    paths = {number: folder / f"{number:06d}.npz" for number in numbers}
    for number, path in paths.items():
        if not path.exists():
            with new_file(path, force=True) as temporary, temporary.open("wb") as file:
                np.savez(file, **compute(number))  # type: ignore[arg-type]  # numpy's stub reads ** as allow_pickle
        advance(number)
    return {number: _read(path) for number, path in paths.items()}


def _read(path: Path) -> Shard:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def join_shards(shards: dict[int, Shard]) -> Shard:
    """Return the named arrays of all shards, joined along the image axis in shard order."""
    ordered = [shards[number] for number in sorted(shards)]
    return {name: np.concatenate([shard[name] for shard in ordered]) for name in ordered[0]}
