from __future__ import annotations

from heartvit_edge.cli.table import aligned


def test_columns_are_as_wide_as_their_widest_cell():
    assert aligned(("entry", "ms"), (("dense", "12.5"), ("macs-0.5", "7"))) == (
        "entry       ms\ndense     12.5\nmacs-0.5     7"
    )
