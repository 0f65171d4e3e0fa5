"""Which power source a run reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from heartvit_edge.errors import MachineError
from heartvit_edge.power.jtop import SOCKET, JtopSampler, why_unusable
from heartvit_edge.power.none import NoSampler
from heartvit_edge.power.sampler import Clock, Sampler

Asked = Literal["auto", "jtop", "none"]


@contextmanager
def choose(asked: Asked, *, interval_s: float, clock: Clock, socket: Path = SOCKET) -> Iterator[Sampler]:
    """Give a sampler that has begun to read; its ``why`` says why it was chosen.

    Args:
        asked: ``jtop`` reads it or fails; ``auto`` reads it where it can be read; ``none`` reads nothing.
        interval_s: Time between readings to ask the source for.
        clock: Gives seconds since the run began.
        socket: Where the jtop service listens.

    Raises:
        MachineError: If ``jtop`` was asked for and cannot be read; the hint says what puts that right.
    """
    with ExitStack() as stack:
        sampler: Sampler
        if asked == "none":
            sampler = stack.enter_context(NoSampler("power was not asked for: --power none"))
        else:
            why = "asked for" if asked == "jtop" else "its service answers with the board's own rails"
            try:
                if missing := why_unusable(socket):
                    raise missing
                sampler = stack.enter_context(JtopSampler(clock, interval_s, why))
            except MachineError as err:
                if asked == "jtop":
                    raise
                sampler = stack.enter_context(NoSampler(f"no power source was found: {err}"))
        yield sampler
