"""One TensorRT engine for all budgets that share a graph: an optimization profile each, and the weights once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from heartvit_edge.engines.store import MANIFEST, reusable_engine
from heartvit_edge.errors import HeartViTError
from heartvit_edge.spec.engine import EngineManifest
from heartvit_edge.spec.pack import BudgetPack, PackEntry


class Twin(NamedTuple):
    """The engine of another budget of the same graph.

    Attributes:
        manifest: Its manifest.
        folder: Where it lies.
    """

    manifest: EngineManifest
    folder: Path


def budgets_of_graph(pack: BudgetPack, entry: PackEntry) -> tuple[PackEntry, ...]:
    """Return the entries that run the entry's graph with counts of their own, in the pack's order; at least itself."""
    if not entry.num_keep:
        return (entry,)
    return tuple(other for other in pack.entries if other.num_keep and other.onnx_sha256 == entry.onnx_sha256)


def find_twin(wanted: EngineManifest, places: Iterable[Path]) -> Twin | None:
    """Return an engine that is ``wanted`` but for its budget, whole and of this machine; None where there is none.

    Args:
        wanted: What would be built.
        places: Folders of the other budgets' engines, which need not exist.
    """
    for place in places:
        try:
            found = EngineManifest.read(place / MANIFEST)
            own = {name: getattr(found, name) for name in ("entry", "num_keep", "outputs")}
            return Twin(reusable_engine(place, wanted.model_copy(update=own), "build it again"), place)
        except HeartViTError:  # missing, altered, or of something else: one is built
            continue
    return None


def share_plan(twin: Twin, target: Path) -> None:
    """Let ``target`` be the twin's engine file: the same one on the disk, or a copy where that cannot be."""
    source = twin.folder / twin.manifest.file
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
