"""The bar over timed windows, drawn between them alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def window_progress(total: int) -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """Show a bar on stderr; give what prints a remark above it, and what moves it by a step and names the next.

    A thread that redraws inside a window would be measured with the engine, so nothing is drawn but when told.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, console=console, redirect_stdout=False, auto_refresh=False) as progress:
        task = progress.add_task("", total=total)

        def tell(text: str) -> None:
            progress.console.print(text, markup=False, soft_wrap=True)

        def step(text: str) -> None:
            progress.update(task, description=text)
            progress.refresh()
            progress.advance(task)

        yield tell, step
        progress.refresh()
