"""Hashes of files, and writing that never leaves half a file behind."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heartvit_edge.errors import CheckError, InputError, MachineError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says where a disk, or a user's share of it, is full."""


def sha256_bytes(*chunks: bytes) -> str:
    """Return the SHA-256 of the chunks in order, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Raises:
        InputError: If the file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}") from err
    return digest.hexdigest()


def check_sha256(path: Path, expected: str, hint: str) -> None:
    """Return only if the file's SHA-256 is the expected one.

    Raises:
        CheckError: If the hashes differ; the message names both.
        InputError: If the file is missing or cannot be read.
    """
    try:
        found = sha256_file(path)
    except InputError as err:
        raise InputError(str(err), hint=hint) from err
    if found != expected:
        raise CheckError(f"{path} was altered: SHA-256 is {found}, its manifest says {expected}", hint=hint)


def refuse_existing(path: Path, *, force: bool) -> None:
    """Return only if ``path`` may be written.

    Raises:
        InputError: If it exists, if only as a link to nothing, and ``force`` is not set.
    """
    if os.path.lexists(path) and not force:
        raise InputError(f"{path} exists already", hint="name another place, or add --force to replace it")


@contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it into place if the body ends well, remove it if not.

    Raises:
        InputError: If ``path`` exists and ``force`` is not set, it is a folder, or its folder cannot be written.
        MachineError: If the disk is full.
    """
    refuse_existing(path, force=force)
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected the name of a file", hint="name another place")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as err:
        raise InputError(f"cannot write in {path.parent}: {err.strerror}") from err
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        refuse_existing(path, force=force)  # another may have written it meanwhile
        temporary.replace(path)
    except OSError as err:
        raise _told(err, path) from err
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, *, force: bool) -> Iterator[Path]:
    """Give a temporary folder beside ``path``; rename it into place if the body ends well, remove it if not.

    Raises:
        InputError: If ``path`` exists and ``force`` is not set, its parent cannot be written, or what is at ``path``
            cannot be moved (the working folder, a mount).
        MachineError: If the disk is full.
    """
    refuse_existing(path, force=force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as err:
        raise InputError(f"cannot write in {path.parent}: {err.strerror}") from err
    former = temporary.with_name(f"{temporary.name}.former")
    try:
        yield temporary
        temporary.chmod(0o755)
        refuse_existing(path, force=force)  # another may have written it meanwhile
        if os.path.lexists(path):
            _move_away(path, former)
        temporary.rename(path)
    except BaseException as err:
        if os.path.lexists(former) and not os.path.lexists(path):
            former.rename(path)
        if isinstance(err, OSError):
            raise _told(err, path) from err
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if former.is_dir() and not former.is_symlink():
            shutil.rmtree(former, ignore_errors=True)
        else:
            former.unlink(missing_ok=True)


def _told(err: OSError, path: Path) -> Exception:
    """Return what to raise in place of an error of the system: a full disk is no fault of ours."""
    if err.errno not in FULL:
        return err
    return MachineError(f"{path} cannot be written: {err.strerror}", hint=f"make room: df -h {path.parent}")


def _move_away(path: Path, to: Path) -> None:
    try:
        path.rename(to)
    except OSError as err:
        raise InputError(f"cannot replace {path}: {err.strerror}", hint="name another place") from err
