"""What every command says on stderr: messages and progress bars. Data alone goes to stdout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def is_first_process() -> bool:
    """Return whether this process speaks and writes: rank 0 where torchrun or accelerate launch started several."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


_CONSOLE = Console(stderr=True, highlight=False, quiet=not is_first_process())


def say(message: str) -> None:
    """Print one message on stderr, as it stands."""
    _CONSOLE.print(message, markup=False, soft_wrap=True)


@contextmanager
def progress_bar(description: str, total: int, *, transient: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a bar with count, elapsed and remaining time while the body runs; give what moves it by so many steps.

    A transient one is gone when it is done, for what is done dozens of times.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    hidden = transient and not _CONSOLE.is_terminal  # it would leave an empty line each time
    with Progress(*columns, console=_CONSOLE, redirect_stdout=False, transient=transient, disable=hidden) as progress:
        task = progress.add_task(description, total=total)
        yield lambda steps: progress.advance(task, steps)
