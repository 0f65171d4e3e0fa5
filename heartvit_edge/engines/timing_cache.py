"""What TensorRT measured of its kernels, kept in the store for the next build on the same machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from heartvit_edge.engines.fingerprint import engine_facts
from heartvit_edge.spec.files import new_file, sha256_bytes
from heartvit_edge.spec.machine import Machine

FOLDER = "timing-cache"


State = Literal["reused", "new", "refused"]
"""What a build did with the timings: took those kept, began with none, or could do neither and keeps none."""


class Begun(NamedTuple):
    """The timings of a build that is under way.

    Attributes:
        state: Where they come from.
        cache: A tensorrt.ITimingCache, which must outlive the build; None where there is none.
    """

    state: State
    cache: Any


def cache_path(engines: Path, machine: Machine) -> Path:
    """Return where the timings of a machine lie: they hold for its TensorRT, driver, board and power mode.

    Args:
        engines: The store.
        machine: Where kernels are timed.
    """
    key = sha256_bytes(json.dumps(engine_facts(machine, "tensorrt")).encode())[:16]
    return engines / FOLDER / f"{key}.cache"


def begin(config: Any, path: Path) -> Begun:  # noqa: ANN401 - a tensorrt.IBuilderConfig
    """Let a build use the timings in ``path``, or begin anew where there are none or TensorRT refuses them."""
    kept = path.read_bytes() if path.is_file() else b""
    for content in (kept, b"") if kept else (b"",):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):  # False: refuse those of another device
            return Begun("reused" if content else "new", cache)
    return Begun("refused", None)


def keep(config: Any, path: Path) -> None:  # noqa: ANN401 - a tensorrt.IBuilderConfig
    """Store the timings of a build that has ended well. The store is locked, so none are lost.

    Raises:
        InputError: If they cannot be written.
    """
    timings = config.get_timing_cache()
    serialized = None if timings is None else timings.serialize()
    if serialized is None:
        return
    with new_file(path, force=True) as temporary, temporary.open("wb") as file:
        file.write(serialized)
