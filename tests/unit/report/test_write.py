"""Writing the report's three files."""

from __future__ import annotations

import pytest
from fakes.runs import make_measurement, write_run

from heartvit_edge.errors import InputError
from heartvit_edge.report.write import write_report


def test_nothing_is_written_where_one_of_the_files_exists(tmp_path):
    folder = write_run(tmp_path / "run", make_measurement())
    page, markdown, table = (tmp_path / name for name in ("r.html", "r.md", "r.csv"))
    table.write_text("mine")
    with pytest.raises(InputError, match=r"r\.csv exists already"):
        write_report([folder], page, markdown, table)
    assert (page.exists(), markdown.exists(), table.read_text()) == (False, False, "mine")
    assert write_report([folder], page, markdown, table, force=True) == (page, markdown, table)
    assert table.read_text().startswith("run,entry,batch_size,")


def test_two_outputs_under_one_name_are_refused(tmp_path):
    folder = write_run(tmp_path / "run", make_measurement())
    with pytest.raises(InputError, match="need three names"):
        write_report([folder], tmp_path / "r.md", tmp_path / "r.md", tmp_path / "r.csv")


def test_the_page_is_valid_utf_8_and_says_so(tmp_path):
    folder = write_run(tmp_path / "run", make_measurement())
    page, *_ = write_report([folder], tmp_path / "r.html", tmp_path / "r.md", tmp_path / "r.csv")
    text = page.read_bytes().decode("utf-8")
    assert '<meta charset="utf-8"/>' in text[:300]
