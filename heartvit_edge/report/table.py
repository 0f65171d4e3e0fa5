"""The summary table and other tables as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from heartvit_edge.report.columns import PAGE_COLUMNS, Column
from heartvit_edge.report.figure_cells import Table
from heartvit_edge.report.formats import DASH, interval_text, value_text
from heartvit_edge.report.layout import scrolled
from heartvit_edge.report.markup import Markup, element, escaped
from heartvit_edge.report.notes import footnotes, grouped, reasons, relation, row_title, under
from heartvit_edge.report.palette import Series
from heartvit_edge.report.rows import Row

NOT_HERE = "not known, or not present on this machine"


def summary_table(rows: Sequence[Row], series: dict[tuple[str, str], Series]) -> Markup:
    """Return the table of all rows by run and batch size, and under it the reasons for missing figures."""
    notes = reasons(rows, PAGE_COLUMNS)
    num_runs = len({row.run for row in rows})
    bodies = []
    for members in grouped(rows).values():
        heading = element(
            "th", escaped(row_title(members[0], num_runs)), colspan=len(PAGE_COLUMNS) + 1, scope="rowgroup"
        )
        lines = [_line(row, series[row.run, row.entry], notes) for row in members]
        bodies.append(element("tbody", element("tr", heading, class_="batch"), *lines))
    table = element("table", _head(), *bodies, class_="summary")
    return element("div", scrolled(table, "Summary table"), _footnotes(notes))


def plain_table(headings: Sequence[str], lines: Sequence[Sequence[str | None]], label: str) -> Markup:
    """Return a table whose first cell of a line heads it; a None becomes a dash."""
    head = element("tr", *(element("th", escaped(heading), scope="col") for heading in headings))
    body = [
        element(
            "tr",
            element("th", escaped(line[0]), scope="row"),
            *(
                element("td", escaped(DASH), title=NOT_HERE) if cell is None else element("td", escaped(_whole(cell)))
                for cell in line[1:]
            ),
        )
        for line in lines
    ]
    return scrolled(element("table", element("thead", head), element("tbody", *body), class_="plain"), label)


def noted_table(table: Table, label: str) -> list[Markup]:
    """Return the table, and beneath it what is to be said of it."""
    note = (element("p", escaped(table.note), class_="note"),) if table.note else ()
    return [plain_table(table.headings, table.lines, label), *note]


def _whole(text: str) -> str:
    """Return the text so that no line is broken within an interval."""
    return text.replace("\N{EN DASH}", "\N{WORD JOINER}\N{EN DASH}\N{WORD JOINER}")


def _head() -> Markup:
    groups = [
        element("th", escaped(name), scope="colgroup", colspan=len(list(members)), class_="first")
        for name, members in groupby(PAGE_COLUMNS, lambda column: column.group)
    ]
    headings = [
        element(
            "th",
            escaped(column.heading),
            element("span", escaped(column.unit), class_="unit"),
            scope="col",
            title=column.meaning,
            class_=_edge(column),
        )
        for column in PAGE_COLUMNS
    ]
    corner = element("th", escaped("Entry"), rowspan=2, scope="col")
    return element("thead", element("tr", corner, *groups), element("tr", *headings))


def _edge(column: Column) -> str | None:
    """Return the class of the first column of a group."""
    index = PAGE_COLUMNS.index(column)
    return "first" if index == 0 or PAGE_COLUMNS[index - 1].group != column.group else None


def _line(row: Row, series: Series, notes: dict[str, int]) -> Markup:
    swatch = element("span", class_=f"dot {series.colour}", aria_hidden="true")
    words = relation(row)
    lower = (element("span", escaped(words), class_="under"),) if words else ()
    name = element("th", swatch, escaped(row.entry), *lower, scope="row")
    return element("tr", name, *(_cell(row, column, notes) for column in PAGE_COLUMNS))


def _cell(row: Row, column: Column, notes: dict[str, int]) -> Markup:
    figure = row.figures[column.key]
    if figure.reason is not None:
        index = notes[figure.reason]
        mark = element("a", element("sup", escaped(index)), href=f"#note-{index}", title=figure.reason)
        return element("td", escaped(DASH), mark, class_=_edge(column))
    small = under(row, column, figure, interval_text(figure, column.unit))
    lower = (element("span", escaped(small), class_="under"),) if small else ()
    return element("td", escaped(value_text(figure, column.unit)), *lower, class_=_edge(column))


def _footnotes(notes: dict[str, int]) -> Markup:
    items = [
        element("li", escaped(f"{DASH} {words}"), id=f"note-{index}", value=index)
        for index, words in footnotes(notes).items()
    ]
    return element("ol", *items, class_="footnotes") if items else Markup("")
