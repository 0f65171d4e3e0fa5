"""What lies in a store: engines, and what could go."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

from heartvit_edge.engines.engine_name import ENGINE_NAME
from heartvit_edge.engines.fingerprint import explain_difference
from heartvit_edge.engines.store import MANIFEST, load_engine
from heartvit_edge.engines.store_lock import clear, left_overs
from heartvit_edge.engines.timing_cache import FOLDER, cache_path
from heartvit_edge.errors import CheckError, HeartViTError, InputError, MachineError
from heartvit_edge.spec.engine import EngineManifest
from heartvit_edge.spec.machine import Machine


class Stored(NamedTuple):
    """One engine of a store.

    Attributes:
        folder: Where it lies.
        manifest: What it was built from; None where that cannot be read.
        num_bytes: Size of all its files.
        unfit: Why it cannot be used here; empty where it can.
    """

    folder: Path
    manifest: EngineManifest | None
    num_bytes: int
    unfit: str


class Waste(NamedTuple):
    """One thing that could go.

    Attributes:
        path: Folder or file.
        reason: Why it is of no use here.
    """

    path: Path
    reason: str


class PowerMode(NamedTuple):
    """What changes in a fingerprint with the power mode.

    Attributes:
        power_mode: Its name.
        num_sms: Multiprocessors that it leaves switched on.
    """

    power_mode: str | None
    num_sms: int | None


def engine_folders(engines: Path) -> list[Path]:
    """Return the folders of a store that are named as engines are, in order.

    Raises:
        InputError: If there is no such store.
    """
    if not engines.is_dir():
        raise InputError(f"there is no folder {engines}", hint="name the store: --engines ENGINES")
    return sorted(path for path in engines.glob("*/*") if path.is_dir() and re.fullmatch(ENGINE_NAME, path.name))


def list_engines(engines: Path, machine: Machine) -> list[Stored]:
    """Return every engine of a store; files are not hashed.

    Args:
        engines: The store.
        machine: Where they would run.

    Raises:
        InputError: If there is no such store.
    """
    found = []
    for folder in engine_folders(engines):
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        try:
            manifest = EngineManifest.read(folder / MANIFEST)
        except InputError as err:
            found.append(Stored(folder, None, size, str(err)))
            continue
        differences = explain_difference(manifest.machine, machine, manifest.backend)
        found.append(Stored(folder, manifest, size, "; ".join(differences)))
    return found


def verify_engines(engines: Path, machine: Machine) -> list[tuple[Path, HeartViTError | None]]:
    """Return every engine of a store and what stands against using it here; each file is hashed.

    Raises:
        InputError: If there is no such store.
    """
    results: list[tuple[Path, HeartViTError | None]] = []
    for folder in engine_folders(engines):
        try:
            load_engine(folder, machine)
        except HeartViTError as err:
            results.append((folder, err))
        else:
            results.append((folder, None))
    return results


def find_waste(engines: Path, machine: Machine) -> list[Waste]:
    """Return what no run on this machine can use: altered and foreign engines, left-overs and foreign timings.

    An engine that was built in another power mode stays: a sweep over modes uses it. The store is to be locked.

    Raises:
        InputError: If there is no such store.
    """
    waste = [Waste(path, "left by a build that was killed") for path in left_overs(engines)]
    for folder in engine_folders(engines):
        try:
            load_engine(folder, machine, any_power_mode=True)
        except (InputError, CheckError, MachineError) as err:
            waste.append(Waste(folder, str(err)))
    ours = {cache_path(engines, machine.model_copy(update=mode._asdict())) for mode in _power_modes(engines)}
    ours.add(cache_path(engines, machine))
    waste += [
        Waste(path, "kernel timings of another machine")
        for path in sorted((engines / FOLDER).glob("*.cache"))
        if path not in ours
    ]
    return waste


def remove(waste: Waste) -> None:
    """Remove one thing, and the folder of its pack where that is empty then."""
    path = waste.path
    if path.name.startswith("."):
        clear(path)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if not any(path.parent.iterdir()):
        path.parent.rmdir()


def _power_modes(engines: Path) -> set[PowerMode]:
    """Return the power modes in which the engines of a store were built."""
    modes: set[PowerMode] = set()
    for folder in engine_folders(engines):
        try:
            built = EngineManifest.read(folder / MANIFEST).machine
        except InputError:
            continue
        modes.add(PowerMode(built.power_mode, built.num_sms))
    return modes
