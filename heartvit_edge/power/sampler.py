"""What every source of power readings can do, and why one gave nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from typing_extensions import Self

from heartvit_edge.errors import MachineError
from heartvit_edge.spec.measurement import PowerTrace

Clock = Callable[[], float]
"""Gives seconds since the run began, on the one monotonic clock that times windows and readings alike."""


class NoPowerError(MachineError):
    """There is no power trace; the message says why."""


class PowerLostError(NoPowerError):
    """A source that had begun to read stopped before the run ended."""


class Sampler(Protocol):
    """A source of power readings; entering it begins to read, in a thread or process other than the caller's.

    Attributes:
        name: What the trace calls its source.
        why: Why this source was chosen, in words for the user.
        labels: The rails that it reads, known once it is entered.
    """

    name: str
    why: str
    labels: tuple[str, ...]

    def __enter__(self) -> Self:
        """Take the first reading and begin to collect.

        Raises:
            MachineError: If the source cannot be read; the hint says what puts that right.
        """
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the reading, whether or not ``stop`` was called."""
        ...

    def stop(self) -> PowerTrace:
        """Wait for one reading more, so that work which ended just now is covered, and return all of them.

        Raises:
            NoPowerError: If there is no trace.
            PowerLostError: If the source stopped before this call.
        """
        ...
