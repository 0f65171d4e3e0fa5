"""One build at a time in a store, and what a killed one left is cleared by the next."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from heartvit_edge.engines.engine_name import ENGINE_NAME
from heartvit_edge.errors import InputError

# What spec.files makes beside an engine's folder or a timing cache, and where it puts the folder that was there.
# Nothing else is ever taken for a left-over: --engines may name a folder that holds other things.
LEFT_OVER = re.compile(
    rf"\.(?P<name>{ENGINE_NAME})\.[a-z0-9_]{{8}}(?P<former>\.former)?"
    r"|\.[0-9a-f]{16}\.cache\.[a-z0-9_]{8}\.cache"
)


@contextmanager
def lock_store(engines: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Let the body be the only one that builds into a store.

    Others wait: two builds at once would also spoil each other's kernel timings. The kernel gives the lock back when
    its holder ends, however it ends.

    Args:
        engines: The store; made where there is none.
        tell: Told where another build must be waited for.

    Raises:
        InputError: If the folder cannot be made or opened.
    """
    try:
        engines.mkdir(parents=True, exist_ok=True)
        handle = os.open(engines, os.O_RDONLY)
    except OSError as err:
        raise InputError(f"cannot use {engines} as a store: {err.strerror}", hint="name another: --engines") from err
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"another build uses {engines}: waiting for it to end")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def left_overs(engines: Path) -> list[Path]:
    """Return the temporary folders and files of builds in a store; those of a running one too, unless it is locked."""
    return sorted(path for path in engines.glob("*/.*") if LEFT_OVER.fullmatch(path.name))


def clear(left: Path) -> None:
    """Remove one left-over; an engine that was moved away and never replaced goes back to its place."""
    found = LEFT_OVER.fullmatch(left.name)
    place = left.with_name(found["name"]) if found and found["former"] else None
    if place is not None and not place.exists():
        left.rename(place)
    elif left.is_dir():
        shutil.rmtree(left)
    else:
        left.unlink()
