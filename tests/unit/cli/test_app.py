"""The root command: help, version, and the exit code of each error."""

from __future__ import annotations

import pytest

from heartvit_edge import __version__
from heartvit_edge.cli import app as command_line
from heartvit_edge.errors import CheckError, HeartViTError, InfeasibleError, InputError, MachineError


def test_version_goes_to_stdout_alone(run_cli):
    result = run_cli("--version")
    assert (result.stdout, result.stderr, result.exit_code) == (f"{__version__}\n", "", 0)


def test_an_unknown_option_exits_2_and_is_named_on_stderr(run_cli):
    result = run_cli("--colour")
    assert result.exit_code == 2
    assert "--colour" in result.stderr
    assert result.stdout == ""


def test_an_unknown_command_exits_2_and_is_named_on_stderr(run_cli):
    result = run_cli("exprot")
    assert result.exit_code == 2
    assert "exprot" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"), [(InputError, 2), (MachineError, 3), (InfeasibleError, 4), (CheckError, 5), (HeartViTError, 1)]
)
def test_each_error_ends_in_one_message_a_hint_and_its_exit_code(run_cli, monkeypatch, error, code):
    def fail():
        raise error("found 3, expected 4", hint="heartvit-edge doctor")

    monkeypatch.setattr(command_line, "app", fail)
    result = run_cli()
    assert result.exit_code == code
    assert result.stderr == "error: found 3, expected 4\nhint: heartvit-edge doctor\n"
    assert result.stdout == ""


def test_an_error_without_a_hint_prints_no_hint(run_cli, monkeypatch):
    def fail():
        raise InputError("found 3, expected 4")

    monkeypatch.setattr(command_line, "app", fail)
    assert run_cli().stderr == "error: found 3, expected 4\n"


def test_a_bug_keeps_its_traceback(run_cli, monkeypatch):
    def fail():
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(command_line, "app", fail)
    with pytest.raises(ZeroDivisionError, match="ours"):
        run_cli()
