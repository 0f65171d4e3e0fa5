"""Several runs side by side: ratios, what differs, and power modes."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.report.layout import section
from heartvit_edge.report.markup import Markup
from heartvit_edge.report.rows import Row
from heartvit_edge.report.runs import Run
from heartvit_edge.report.table import noted_table
from heartvit_edge.report.tables_of_runs import BEST_HEADING, comparison_table, differences_table, modes_table


def comparison(runs: Sequence[Run]) -> Markup | None:
    """Return every run against the first, and in what they differ; None where there is nothing to compare."""
    ratios = comparison_table(runs)
    if ratios is None:
        return None
    differing = differences_table(runs)
    parts = [
        *noted_table(ratios, "Ratios between runs"),
        *(noted_table(differing, "What differs") if differing else ()),
    ]
    return section("comparison", "Runs compared", *parts)


def power_modes(runs: Sequence[Run], rows: Sequence[Row], latency_limit_ms: float | None) -> Markup | None:
    """Return entries by power mode with the best marked; None where there is nothing to choose by."""
    found = modes_table(runs, rows, latency_limit_ms)
    return section("modes", BEST_HEADING, *noted_table(found, BEST_HEADING)) if found else None
