"""Markers that skip with their reason, and the fixtures that every stage's tests share.

pytest puts this folder on the import path, so a fake in ``tests/fakes/name.py`` is imported as ``fakes.name``.
"""

from __future__ import annotations

import importlib.util
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from fakes.browser import find_browser

from heartvit_edge.cli import app as command_line
from heartvit_edge.engines.cuda_device import why_no_cuda_device

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
TERMINAL_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def _why_no_shared_data() -> str | None:
    return None if SHARED_DATA.is_dir() else "the development data is not in ../shared/data"


def _why_no_tensorrt() -> str | None:
    if importlib.util.find_spec("tensorrt") is None:
        return "TensorRT's Python bindings are not installed"
    return why_no_cuda_device()


def _why_no_jetson() -> str | None:
    return None if Path("/etc/nv_tegra_release").is_file() else "this is no Jetson: /etc/nv_tegra_release is missing"


def _why_no_chromium() -> str | None:
    return None if find_browser() else "no Chromium is on PATH: apt install chromium"


NEEDS: dict[str, Callable[[], str | None]] = {
    "shared_data": _why_no_shared_data,
    "gpu": why_no_cuda_device,
    "tensorrt": _why_no_tensorrt,
    "jetson": _why_no_jetson,
    "chromium": _why_no_chromium,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip each test whose marker names something that this machine lacks, and say what."""
    for item in items:
        for marker, why_not in NEEDS.items():
            if item.get_closest_marker(marker) and (reason := why_not()):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the repository's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of development data; only for tests marked ``shared_data``."""
    if reason := _why_no_shared_data():
        pytest.fail(f"a test that uses shared_data must be marked shared_data: {reason}")
    return SHARED_DATA


@pytest.fixture
def commands() -> dict[str, Any]:
    """Return every command of the command line by its name."""
    return dict(typer.main.get_command(command_line.app).commands)


@dataclass(frozen=True)
class CommandResult:
    """What a command left behind: its streams without terminal styles, and its exit code."""

    stdout: str
    stderr: str
    exit_code: int


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., CommandResult]:
    """Return a function that runs ``heartvit-edge ARGS...`` in this process, through ``main()`` and its exit codes.

    Output that was captured before the call is dropped. A bug's exception passes through.
    """

    def run(*args: object) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["heartvit-edge", *map(str, args)])
        monkeypatch.setenv("COLUMNS", "240")  # no message is wrapped
        capsys.readouterr()
        try:
            command_line.main()
        except SystemExit as err:
            code = err.code
        else:
            code = 0
        streams = capsys.readouterr()
        if code is not None and not isinstance(code, int):
            raise AssertionError(f"expected an exit code, found {code!r}")
        return CommandResult(TERMINAL_STYLE.sub("", streams.out), TERMINAL_STYLE.sub("", streams.err), code or 0)

    return run


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_interrupts():
    """Let SIGINT interrupt: a shell has its background jobs ignore it, and Python leaves that so."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)
