"""The folder RUN in which ``bench`` and ``evaluate`` each keep one file."""

from __future__ import annotations

import os
from pathlib import Path

from heartvit_edge.errors import InputError
from heartvit_edge.spec.files import refuse_existing


def run_file(run: Path, name: str, *, force: bool) -> Path:
    """Return the path of a file to write in RUN, checked before the work begins rather than after.

    Raises:
        InputError: If the file exists and ``force`` is not set, or RUN, or what holds it, is no folder to write in.
    """
    refuse_existing(run / name, force=force)
    nearest = next(place for place in (run, *run.absolute().parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        what = "cannot be written in" if nearest.is_dir() else "is a file, expected a folder"
        raise InputError(f"{nearest} {what}", hint="name a folder of your own: --out RUN")
    return run / name
