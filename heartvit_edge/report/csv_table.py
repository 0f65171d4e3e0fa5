"""Every figure with its interval as comma-separated values, in full precision."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from heartvit_edge.report.columns import COLUMNS
from heartvit_edge.report.rows import Row


def csv_text(rows: Sequence[Row]) -> str:
    """Return one line per row: each figure as ``key``, ``key_low`` and ``key_high``, shares in [0, 1].

    A missing figure is an empty field; the last field, ``missing``, says why.
    """
    keys = [column.key for column in COLUMNS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = [f"{key}{end}" for key in keys for end in ("", "_low", "_high")]
    writer.writerow(["run", "entry", "batch_size", "role", "compares_with", *ends, "missing"])
    for row in rows:
        figures = [row.figures[key] for key in keys]
        values = [number for figure in figures for number in (figure.value, figure.low, figure.high)]
        lacking: dict[str, list[str]] = {}
        for key, figure in zip(keys, figures, strict=True):
            if figure.reason is not None:
                lacking.setdefault(figure.reason, []).append(key)
        missing = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in lacking.items())
        # An empty field is how CSV writes None.
        writer.writerow([row.run, row.entry, row.batch_size, row.role, row.compares_with, *values, missing])
    return text.getvalue()
