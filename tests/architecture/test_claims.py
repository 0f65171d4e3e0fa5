"""What benchmarks write: figures, verdicts, and nothing of the machine's folders."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.claims import Claim, finish


def given(tmp_path, **more):
    return argparse.Namespace(shared=tmp_path / "data", out=tmp_path / "figures.json", check=True, **more)


def test_files_are_written_by_their_names_alone(tmp_path, capsys):
    args = given(tmp_path, work=tmp_path / "work", plan=[tmp_path / "a.json", tmp_path / "b.json"], epochs=6)
    finish([Claim("share kept", 0.9, 0.85, 0.95, at_least=0.8)], {"rows": []}, args)
    written = (tmp_path / "figures.json").read_text()
    assert json.loads(written)["options"] == {"plan": "a.json b.json", "epochs": "6"}
    assert str(tmp_path) not in written
    assert capsys.readouterr().out == "share kept  0.9 [0.85, 0.95]  at least 0.8  ok\n"


def test_a_figure_that_falls_short_is_written_and_ends_with_1(tmp_path, capsys):
    with pytest.raises(SystemExit, match="1"):
        finish([Claim("nats", 0.3, at_most=0.2), Claim("seconds", 4.0)], {}, given(tmp_path))
    assert [claim["holds"] for claim in json.loads(Path(tmp_path / "figures.json").read_text())["claims"]] == [
        False,
        True,
    ]
    assert capsys.readouterr().out == "nats     0.3  at most 0.2  FALLS SHORT\nseconds  4\n"
