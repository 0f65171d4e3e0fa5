"""The sampler that reads nothing and says why."""

from __future__ import annotations

from types import TracebackType

from typing_extensions import Self

from heartvit_edge.power.sampler import NoPowerError
from heartvit_edge.spec.measurement import PowerTrace


class NoSampler:
    """Stands where there is no power source.

    Attributes:
        name: ``none``.
        why: Why nothing is read; every energy figure gives this as its reason.
        labels: None at all.
    """

    name = "none"
    labels: tuple[str, ...] = ()

    def __init__(self, why: str) -> None:
        """Keep the reason."""
        self.why = why

    def __enter__(self) -> Self:
        """Return itself; there is nothing to open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""

    def stop(self) -> PowerTrace:
        """Raise the reason.

        Raises:
            NoPowerError: Always.
        """
        raise NoPowerError(self.why)
