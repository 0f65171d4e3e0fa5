"""A sensitivity map with its arrays in memory: torch-free, since plans are made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.errors import InputError
from heartvit_edge.spec.files import check_sha256, new_file, sha256_file
from heartvit_edge.spec.sensitivity import SensitivityMap

MAP_FILE = "sensitivity.json"
ARRAYS_FILE = "sensitivity.npz"

Array = NDArray[np.float32]


@dataclass(frozen=True)
class ScoreTable:
    """Scores of every image.

    Attributes:
        info: The map.
        tokens: Site to scores (images, num_patches); empty where the scorer scores no tokens.
        heads: Shape (images, depth, num_heads); None where it scores no heads.
        units: Shape (images, depth, groups); None where it scores no units.
    """

    info: SensitivityMap
    tokens: dict[int, Array]
    heads: Array | None
    units: Array | None


def write_arrays(folder: Path, arrays: dict[str, Array], *, force: bool) -> str:
    """Store the arrays in ``folder`` and return their file's SHA-256.

    Raises:
        InputError: If the file exists and ``force`` is not set.
    """
    with new_file(folder / ARRAYS_FILE, force=force) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy's stub reads ** as allow_pickle
    return sha256_file(folder / ARRAYS_FILE)


def read_table(folder: Path) -> ScoreTable:
    """Return the scores stored in ``folder``.

    Raises:
        InputError: If the map or its arrays are missing or malformed.
        CheckError: If the arrays were altered.
    """
    if not (folder / MAP_FILE).is_file():
        raise InputError(
            f"{folder} holds no scores: it has no {MAP_FILE}",
            hint="make them with: heartvit-edge score MODEL --data DATA --out SCORES",
        )
    info = SensitivityMap.read(folder / MAP_FILE)
    check_sha256(folder / info.arrays, info.arrays_sha256, hint="score again with --force")
    with np.load(folder / info.arrays, allow_pickle=False) as stored:
        return make_table(info, {name: stored[name] for name in stored.files})


def make_table(info: SensitivityMap, arrays: Mapping[str, Array]) -> ScoreTable:
    """Return the table of a map and its arrays, which are named as in the file."""
    return ScoreTable(
        info=info,
        tokens={site: arrays[f"tokens_{site}"] for site in info.settings.sites if f"tokens_{site}" in arrays},
        heads=arrays.get("heads"),
        units=arrays.get("units"),
    )
