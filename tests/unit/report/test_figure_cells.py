"""Figures as cells: a number with its unit, or a numbered dash and its reason beneath."""

from __future__ import annotations

from heartvit_edge.bench.figures import Figure
from heartvit_edge.report.figure_cells import figure_table

NOT_READ, TOO_FEW = Figure(value=None, reason="nothing was read"), Figure(value=None, reason="9 readings")


def test_each_reason_has_one_number_in_reading_order():
    lines = [["a", (NOT_READ, "mJ"), (TOO_FEW, "mJ")], ["b", (Figure(value=2.0), "mJ"), (NOT_READ, "W")]]
    table = figure_table(("Entry", "x", "y"), lines, "Of two.")
    assert table.lines == [["a", "—¹", "—²"], ["b", "2.00 mJ", "—¹"]]
    assert table.note == "Of two. ¹ nothing was read. ² 9 readings."


def test_reasons_that_differ_in_their_numbers_alone_are_written_once_and_counted():
    fewer = Figure(value=None, reason="7 readings")
    lines = [["a", (TOO_FEW, "mJ"), (fewer, "mJ")], ["b", (TOO_FEW, "mJ"), (NOT_READ, "W")]]
    table = figure_table(("Entry", "x", "y"), lines)
    raised = "\N{SUPERSCRIPT ONE}", "\N{SUPERSCRIPT TWO}"
    assert [line[1:] for line in table.lines] == [["—" + raised[0]] * 2, [f"—{raised[0]}", f"—{raised[1]}"]]
    assert table.note == f"{raised[0]} 9 readings, and 1 more like it. {raised[1]} nothing was read."


def test_a_table_that_lacks_nothing_has_its_note_alone():
    assert figure_table(("Entry",), [["a"]]).note == ""
    assert figure_table(("Entry",), [["a"]], "Of one.").note == "Of one."
