"""Scoring in shards: a killed run goes on from its last finished shard, and several processes share the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from heartvit_edge.spec.files import new_file

Array = NDArray[np.float32]


@dataclass(frozen=True)
class World:
    """This process among those that share a run; ``torchrun`` and ``accelerate launch`` start them.

    Attributes:
        rank: 0 .. size - 1; rank 0 writes the result.
        size: Processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> World:
        """Return this process's place, joining the process group that the launcher's environment describes, if any."""
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    def leave(self) -> None:
        """Leave the process group, if one was joined."""
        if self.size > 1:
            torch.distributed.destroy_process_group()

    def gather(self, value: dict[int, dict[str, Array]]) -> dict[int, dict[str, Array]]:
        """Return the union of every process's shards at rank 0, and this process's own elsewhere."""
        if self.size == 1:
            return value
        parts: list[dict[int, dict[str, Array]]] | None = [{} for _ in range(self.size)] if self.rank == 0 else None
        torch.distributed.gather_object(value, parts)
        merged = dict(value)
        for part in parts or ():
            merged |= part
        return merged


def run_shards(
    batches: Iterator[tuple[int, torch.Tensor]],
    compute: Callable[[int, torch.Tensor], dict[str, Array]],
    folder: Path,
    advance: Callable[[int], None],
) -> dict[int, dict[str, Array]]:
    """Compute each shard, or read it where an earlier run finished it.

    Args:
        batches: Shard number and images (B, 3, H, W) of each shard of this process.
        compute: Maps a shard number and its images to named arrays whose first axis is the image.
        folder: Where finished shards are kept, one file each, until the caller removes them.
        advance: Told the images done after each shard.

    Returns:
        Shard number to named arrays.
    """
    done: dict[int, dict[str, Array]] = {}
    for number, images in batches:
        path = folder / f"{number:06d}.npz"
        if path.exists():
            with np.load(path, allow_pickle=False) as stored:
                done[number] = {name: stored[name] for name in stored.files}
        else:
            done[number] = compute(number, images)
            with new_file(path, force=True) as temporary, temporary.open("wb") as file:
                np.savez(file, **done[number])  # type: ignore[arg-type]  # numpy's stub reads ** as allow_pickle
        advance(len(images))
    return done


def join_shards(shards: dict[int, dict[str, Array]]) -> dict[str, Array]:
    """Return the named arrays of all shards, joined along the image axis in shard order."""
    ordered: Sequence[dict[str, Array]] = [shards[number] for number in sorted(shards)]
    return {name: np.concatenate([shard[name] for shard in ordered]) for name in ordered[0]}
