"""What an engine's folder is called in a store: by entry, backend, precision and, where it is no default, the build."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, get_args

from heartvit_edge.spec.engine import Backend, BatchRange, BuildSettings, Precision
from heartvit_edge.spec.pack import BudgetPack

DEFAULT = "default"
"""The variant that is built for the default batch sizes with the default settings."""

SUFFIX = r"(?:-batch(?P<min>\d+)(?:\.(?P<opt>\d+)\.(?P<max>\d+))?)?(?:-level(?P<level>[0-5]))?(?:-(?P<sparse>sparse))?"
"""Pattern of a variant in a folder's name, where the default one is nothing."""

ENGINE_NAME = (
    rf"(?P<entry>.+)-(?P<backend>{'|'.join(get_args(Backend))})-(?P<precision>{'|'.join(get_args(Precision))})"
    rf"(?P<suffix>{SUFFIX})"
)
"""Pattern of a folder's whole name."""

UNFIT_FOR_A_FILE = re.compile(r"[^A-Za-z0-9._-]+")


class Kind(NamedTuple):
    """What the engines of one run have in common.

    Attributes:
        backend: What runs them.
        precision: Element type of their matrix products.
        variant: What :func:`variant_name` calls the batch sizes and settings that they were built for.
    """

    backend: Backend
    precision: Precision
    variant: str = DEFAULT

    @property
    def suffix(self) -> str:
        """Return the end of a folder's name."""
        return "" if self.variant == DEFAULT else f"-{self.variant}"

    def __str__(self) -> str:
        """Return the words of a message, which name no default."""
        return f"{self.backend} {self.precision}" + self.suffix.replace("-", " ", 1)


def variant_name(batch: BatchRange, settings: BuildSettings) -> str:
    """Return what of a build is not default, such as ``batch8`` or ``batch1.4.16-level5-sparse``, else ``default``."""
    words = []
    if batch != BatchRange():
        sizes = (batch.min, batch.opt, batch.max) if batch.min < batch.max else (batch.max,)
        words.append("batch" + ".".join(map(str, sizes)))
    if settings.optimization_level != BuildSettings().optimization_level:
        words.append(f"level{settings.optimization_level}")
    return "-".join([*words, "sparse"] if settings.sparse else words) or DEFAULT


def variant_options(variant: str) -> list[str] | None:
    """Return the options of ``build-engine`` that build a variant; None for what is no variant's name."""
    found = re.fullmatch(SUFFIX, "" if variant == DEFAULT else f"-{variant}")
    if found is None:
        return None
    words = []
    if found["min"]:
        words += ["--batch-size", ":".join(filter(None, found.group("min", "opt", "max")))]
    words += ["--optimization-level", found["level"]] if found["level"] else []
    return [*words, "--sparse"] if found["sparse"] else words


def folder_of_pack(engines: Path, pack: BudgetPack) -> Path:
    """Return ``<engines>/<model>-<first 12 digits of the pack's digest>``, where all engines of a pack lie."""
    return engines / f"{UNFIT_FOR_A_FILE.sub('_', pack.source.name)}-{pack.digest()[:12]}"


def engine_folder(engines: Path, pack: BudgetPack, entry: str, kind: Kind) -> Path:
    """Return the folder of an engine, ``<entry>-<backend>-<precision>[-<variant>]`` in that of its pack.

    Args:
        engines: The store, such as ``engines``.
        pack: The pack that the engine is built from.
        entry: Name of the pack's entry.
        kind: The engine's.

    Raises:
        InputError: If the pack has no such entry.
    """
    name = f"{pack.entry(entry).name}-{kind.backend}-{kind.precision}{kind.suffix}"
    return folder_of_pack(engines, pack) / name


def stored_kinds(engines: Path, pack: BudgetPack, entries: Collection[str]) -> list[Kind]:
    """Return the kinds of engine that the store has of any of these entries of a pack, in a lasting order."""
    backends: tuple[Backend, ...] = get_args(Backend)
    precisions: tuple[Precision, ...] = get_args(Precision)
    found: set[tuple[int, int, bool, str]] = set()
    for place in folder_of_pack(engines, pack).glob("*"):
        name = re.fullmatch(ENGINE_NAME, place.name)
        if name is not None and name["entry"] in entries and place.is_dir():
            variant = name["suffix"].removeprefix("-") or DEFAULT
            order = (backends.index(name["backend"]), precisions.index(name["precision"]))
            found.add((*order, variant != DEFAULT, variant))
    return [Kind(backends[one], precisions[other], variant) for one, other, _, variant in sorted(found)]
