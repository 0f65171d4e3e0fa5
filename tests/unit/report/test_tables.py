"""The CSV file and the Markdown file hold the very figures of the rows."""

from __future__ import annotations

import csv
import io

from fakes.compared import BASELINE, compared_run
from fakes.runs import NO_POWER, make_evaluation, make_measurement

from heartvit_edge.report.columns import COLUMNS, PAGE_COLUMNS
from heartvit_edge.report.csv_table import csv_text
from heartvit_edge.report.formats import value_text
from heartvit_edge.report.markdown import markdown_text
from heartvit_edge.report.rows import rows_of
from heartvit_edge.report.runs import Run
from heartvit_edge.spec.measurement import MachineLimits


def _runs(label="run", **options):
    measurement = make_measurement(batch_sizes=(1, 4), **options)
    return [Run(label, measurement, make_evaluation(), measurement.pack)]


def test_the_csv_file_gives_back_every_figure_to_the_last_digit():
    rows = rows_of(_runs(power=True))
    lines = list(csv.DictReader(io.StringIO(csv_text(rows))))
    assert len(lines) == len(rows) == 4
    for line, row in zip(lines, rows, strict=True):
        assert (line["run"], line["entry"], line["batch_size"]) == ("run", row.entry, str(row.batch_size))
        for column in COLUMNS:
            figure = row.figures[column.key]
            for name, number in ((column.key, figure.value), (f"{column.key}_low", figure.low)):
                assert (float(line[name]) if line[name] else None) == number


def test_the_csv_file_says_why_a_figure_is_missing():
    (line, *_) = csv.DictReader(io.StringIO(csv_text(rows_of(_runs()))))
    assert line["mj_per_inference"] == ""
    assert f"mean_mw, peak_mw, idle_mw: {NO_POWER}" in line["missing"]


def _cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_markdown_table_shows_every_figure_of_the_page():
    runs = _runs(power=True)
    rows = rows_of(runs)
    summary = markdown_text(runs, rows).split("## Energy and power")[0]
    lines = [_cells(line) for line in summary.splitlines() if line.startswith(("| dense", "| macs"))]
    assert len(lines) == 4
    for line, row in zip(lines, rows, strict=True):
        assert line[0] == row.entry
        for cell, column in zip(line[1:], PAGE_COLUMNS, strict=True):
            assert cell.split(" (")[0] == value_text(row.figures[column.key], column.unit)


def test_a_missing_figure_in_markdown_points_to_its_reason():
    runs = _runs()
    text = markdown_text(runs, rows_of(runs))
    (line, *_) = (_cells(line) for line in text.splitlines() if line.startswith("| dense"))
    assert line[-1] == "— [1]"
    assert f"1. — {NO_POWER}" in text


def test_names_from_files_are_no_markup_in_markdown():
    runs = _runs(label="a|b <script> *c*")
    text = markdown_text(runs, rows_of(runs))
    assert "<script>" not in text
    assert "## a\\|b &lt;script> \\*c\\*" in text


def test_the_markdown_file_has_the_commands_and_the_environment():
    runs = _runs()
    text = markdown_text(runs, rows_of(runs))
    assert "    heartvit-edge bench pack --out run\n" in text
    assert "    heartvit-edge evaluate pack --data shapes.npz --out run\n" in text
    assert "- python version: 3.11\n" in text
    assert "- GPU: —\n" in text


def test_the_markdown_file_has_energy_by_rail_and_floors_of_each_run():
    limits = MachineLimits(bandwidth_gb_s=None, peak_tmac_s=0.001, source="a data sheet")
    measurement = make_measurement(power=True).model_copy(update={"limits": limits})
    runs = [Run(label, measurement, None, measurement.pack) for label in ("a", "b")]
    lines = markdown_text(runs, rows_of(runs)).splitlines()
    assert "## Energy and power of b" in lines
    assert "| Energy of one inference by rail | GPU | CPU |" in lines
    assert any(line.startswith("| dense, batch size 1 | a | — | 0.04 ms | ") for line in lines)
    assert "No engine can be faster than either floor. Limits: a data sheet." in lines


def test_both_files_say_what_an_entry_is_compared_with():
    run = compared_run()
    rows = rows_of([run])
    lines = {line["entry"]: line for line in csv.DictReader(io.StringIO(csv_text(rows)))}
    assert (lines[BASELINE]["role"], lines[BASELINE]["compares_with"]) == ("baseline", "macs-0.5")
    assert (lines["macs-0.5"]["role"], lines["macs-0.5"]["compares_with"]) == ("pruned", "")
    assert float(lines[BASELINE]["mcnemar_p"]) == rows[2].figures["mcnemar_p"].value
    assert f"| {BASELINE} (baseline of macs-0.5) |" in markdown_text([run], rows)
