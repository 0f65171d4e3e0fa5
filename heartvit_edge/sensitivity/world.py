"""The processes that share one run, as ``torchrun`` and ``accelerate launch`` start them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from heartvit_edge.errors import MachineError

T = TypeVar("T")

PATIENCE = timedelta(hours=6)
"""How long a process waits for a slower one; one that has ended is noticed at once."""


@dataclass(frozen=True)
class World:
    """This process among those that share a run.

    Attributes:
        rank: 0 .. size - 1; rank 0 writes the result.
        size: Processes.
        group: What they talk through, over the host's network; None for a single process.
    """

    rank: int = 0
    size: int = 1
    group: distributed.ProcessGroup | None = None

    def gather(self, value: T) -> list[T]:
        """Return every process's value in rank order at rank 0, and an empty list elsewhere.

        Raises:
            MachineError: If another process has ended.
        """
        if self.size == 1:
            return [value]
        found: list[T] | None = [value] * self.size if self.rank == 0 else None
        with _peers():
            distributed.gather_object(value, found, group=self.group)
        return found or []

    def share(self, value: T) -> T:
        """Return rank 0's value in every process.

        Raises:
            MachineError: If another process has ended.
        """
        if self.size == 1:
            return value
        held = [value]
        with _peers():
            distributed.broadcast_object_list(held, group=self.group)
        return held[0]

    def device(self) -> torch.device:
        """Return the GPU that the launcher gave this process, or the CPU where there is none."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local = int(os.environ.get("LOCAL_RANK", self.rank))
        return torch.device("cuda", local % torch.cuda.device_count())


@contextmanager
def join_world() -> Iterator[World]:
    """Give this process's place among those that the launcher's environment describes; leave them at the end.

    A process group that exists already is used and kept.
    """
    found = distributed.is_available() and distributed.is_initialized()
    if not found and int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield World()
        return
    if not found:
        distributed.init_process_group("gloo")
    group = distributed.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(group, distributed.ProcessGroup)  # every process is in it
    try:
        yield World(distributed.get_rank(), distributed.get_world_size(), group)
    finally:
        distributed.destroy_process_group(group if found else None)


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as err:
        raise MachineError(
            "another process of this run has ended before its scores were complete",
            hint="see that process's message; finished batches are kept, so start the same command again",
        ) from err
