"""Ctrl-C and termination while C++ builds: no Python exception may cross it, and nothing half-built may stay."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_OF_A_SIGNAL = 128


@contextmanager
def termination_as_exit() -> Iterator[None]:
    """Let SIGTERM end the body as an exit does, so that temporary files are removed on the way out.

    Outside of the main thread signals stay as they are.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(EXIT_OF_A_SIGNAL + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


@contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Hold SIGINT and SIGTERM back until the body has ended; give what says whether one has come.

    Outside of the main thread signals stay as they are, and none is ever said to have come.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    former = {
        number: signal.signal(number, lambda number, _frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
