"""Tables over several runs: what is compared, what differs, and which power mode is the best."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.runs import NO_POWER, make_evaluation, make_measurement

from heartvit_edge.bench.figures import Figure
from heartvit_edge.report.markdown import markdown_text
from heartvit_edge.report.page import page
from heartvit_edge.report.rows import rows_of
from heartvit_edge.report.runs import Run
from heartvit_edge.report.tables_of_runs import comparison_table, differences_table, modes_table

SLOWER = {"dense": [2.9 + 0.0002 * index for index in range(1000)], "macs-0.5": [1.5] * 1000}


def run(label, mode=None, latency_ms=None, *, power=False, evaluation=None):
    measurement = make_measurement(latency_ms, power=power)
    machine = measurement.machine.model_copy(update={"power_mode": mode})
    measurement = measurement.model_copy(update={"machine": machine})
    return Run(label, measurement, evaluation, measurement.pack)


def with_figures(row, **values):
    """Return the row with these figures in place of its own."""
    return replace(row, figures=row.figures | {key: Figure(value=value) for key, value in values.items()})


def test_each_run_is_set_against_the_first():
    table = comparison_table([run("a"), run("b", latency_ms=SLOWER), run("c")])
    assert [line[:2] for line in table.lines] == [
        [f"{entry}, batch size 1", label] for label in ("b", "c") for entry in ("dense", "macs-0.5")
    ]
    assert table.lines[0][2] == "1.50 \N{MULTIPLICATION SIGN} (1.50\N{EN DASH}1.50)"  # trials of the fake are all alike
    assert table.lines[2][2].startswith("1.00 \N{MULTIPLICATION SIGN}")
    assert table.note.startswith("Ratios to a; below 1 is faster or thriftier.")


def test_a_reason_is_written_once_however_many_figures_lack_for_it():
    table = comparison_table([run("a"), run("b")])
    assert {line[3] for line in table.lines} == {"—¹"}
    assert table.note.count(NO_POWER) == 1
    assert f"¹ {NO_POWER}." in table.note


def test_one_run_is_compared_with_nothing():
    assert comparison_table([run("a")]) is None
    assert differences_table([run("a")]) is None


def test_what_differs_between_runs_is_told_and_what_does_not_is_not():
    table = differences_table([run("a", "MAXN"), run("b", "15W")])
    assert (table.headings, table.lines) == (("What differs", "a", "b"), [["Power mode", "MAXN", "15W"]])


def test_a_run_that_was_not_measured_differs_in_nothing_that_a_ratio_stands_for():
    asked = Run("asked", None, make_evaluation(), None)
    table = differences_table([run("a", "MAXN"), asked, run("b", "15W")])
    assert (table.headings, table.lines) == (("What differs", "a", "b"), [["Power mode", "MAXN", "15W"]])
    assert differences_table([run("a"), asked]) is None


def test_one_pack_does_not_differ_from_itself_where_one_run_alone_was_evaluated():
    table = differences_table([run("a"), run("b", evaluation=make_evaluation())])
    assert [line[0] for line in table.lines] == ["Evaluated images", "Evaluated with"]


MODES = [("a", "MAXN"), ("b", "15W")]
FIGURES = {  # run, entry: p99 in ms, energy in mJ
    ("a", "dense"): (5.0, 90.0),
    ("b", "dense"): (9.0, 60.0),
    ("a", "macs-0.5"): (3.0, 50.0),
    ("b", "macs-0.5"): (6.0, 40.0),
}


def marked(latency_limit_ms, figures=FIGURES):
    """Return the mode and mark of each line, by run and entry, and the note."""
    runs = [run(label, mode) for label, mode in MODES]
    rows = []
    for row in rows_of(runs):
        p99_ms, energy_mj = figures[row.run, row.entry]
        product = p99_ms * energy_mj
        rows.append(with_figures(row, p99_ms=p99_ms, mj_per_inference=energy_mj, energy_delay_mj_ms=product))
    table = modes_table(runs, rows, latency_limit_ms)
    return {(line[0].split(",")[0], line[1]) for line in table.lines}, table.note


@pytest.mark.parametrize(
    ("limit_ms", "best", "mode_of_dense", "words"),
    [
        (None, ("macs-0.5", "MAXN ★"), ("dense", "MAXN ☆"), "macs-0.5 in MAXN at batch size 1"),
        (10.0, ("macs-0.5", "15W ★"), ("dense", "15W ☆"), "macs-0.5 in 15W at batch size 1"),
        (5.0, ("macs-0.5", "MAXN ★"), ("dense", "MAXN ☆"), "at most 5 ms: macs-0.5 in MAXN"),
    ],
)
def test_the_best_budget_and_mode_are_marked_and_each_other_entrys_best_mode(limit_ms, best, mode_of_dense, words):
    lines, note = marked(limit_ms)
    assert {best, mode_of_dense} <= lines
    assert sum("★" in mode for _, mode in lines) == 1
    assert sum("☆" in mode for _, mode in lines) == 1
    assert words in note


def test_nothing_is_marked_where_no_mode_is_within_the_limit():
    lines, note = marked(1.0)
    assert not any("★" in mode or "☆" in mode for _, mode in lines)
    assert note.startswith("Marked would be the least energy with a 99th percentile of latency of at most 1 ms")


def test_an_entry_that_is_never_within_the_limit_has_no_mark_beside_one_that_is():
    lines, _ = marked(4.0)
    assert ("macs-0.5", "MAXN ★") in lines
    assert {("dense", "MAXN"), ("dense", "15W")} <= lines


def test_runs_in_one_mode_have_no_table_of_modes():
    runs = [run("a", "MAXN"), run("b", "MAXN")]
    assert modes_table(runs, rows_of(runs), None) is None


def test_under_a_limit_the_best_budget_of_one_mode_is_marked_and_each_line_tells_its_run():
    runs = [run("a", "MAXN", power=True), run("b", "MAXN", power=True)]
    table = modes_table(runs, rows_of(runs), 10.0)
    assert [line[0] for line in table.lines][:2] == ["dense, batch size 1, a", "dense, batch size 1, b"]
    assert sum("★" in line[1] for line in table.lines) == 1
    assert not any("☆" in line[1] for line in table.lines)
    assert "macs-0.5 in MAXN at batch size 1. It does not look at accuracy." in table.note


def test_a_machine_without_modes_has_its_best_budget_under_a_limit_too():
    runs = [run("a", None, power=True)]
    table = modes_table(runs, rows_of(runs), 10.0)
    assert {line[1] for line in table.lines} == {"—", "— ★"}


def test_the_note_says_what_is_missing_where_nothing_is_marked():
    runs = [run("a", "MAXN")]
    assert modes_table(runs, rows_of(runs), 10.0).note.count(": no energy was measured.") == 1


def test_quality_stands_beside_modes_where_there_is_any():
    runs = [run(label, mode, power=True, evaluation=make_evaluation()) for label, mode in MODES]
    table = modes_table(runs, rows_of(runs), None)
    assert table.headings[2] == "Top-1"
    assert table.lines[0][2].startswith("95 % (")


def test_page_and_markdown_carry_both_tables():
    runs = [run(label, mode, power=True) for label, mode in MODES]
    rows = rows_of(runs)
    html, markdown = page(runs, rows, 4.0), markdown_text(runs, rows, 4.0)
    assert 'id="comparison"' in html
    assert 'id="modes"' in html
    assert '<a href="#modes">' in html
    for heading in ("## Runs compared", "## What differs between runs", "## Best budget and power mode"):
        assert heading in markdown
    assert "at most 4 ms" in html
    assert "at most 4 ms" in markdown


def test_one_run_has_neither_section_nor_link():
    html = page([run("a")], rows_of([run("a")]))
    assert "#comparison" not in html
    assert "#modes" not in html
