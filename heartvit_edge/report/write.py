"""From run folders to the report's three files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from heartvit_edge.errors import InputError
from heartvit_edge.report.csv_table import csv_text
from heartvit_edge.report.markdown import markdown_text
from heartvit_edge.report.page import page
from heartvit_edge.report.rows import rows_of
from heartvit_edge.report.runs import read_runs
from heartvit_edge.spec.files import new_file, refuse_existing


def write_report(
    folders: Sequence[Path],
    html_file: Path,
    markdown_file: Path,
    csv_file: Path,
    *,
    latency_limit_ms: float | None = None,
    force: bool = False,
) -> tuple[Path, Path, Path]:
    """Write the page, the Markdown file and the CSV file, and return their paths.

    Args:
        folders: Of the runs.
        html_file: The page.
        markdown_file: Its tables as Markdown.
        csv_file: Every figure.
        latency_limit_ms: What the best power mode is chosen under, in ms; None for the least energy-delay product.
        force: Replace files that exist.

    Raises:
        InputError: If a run cannot be read, two of the files are one, a file exists and ``force`` is not set, or its
            folder cannot be written.
    """
    files = (html_file, markdown_file, csv_file)
    if len({file.resolve() for file in files}) < len(files):
        raise InputError(
            f"the page, the Markdown file and the CSV file need three names, found {', '.join(map(str, files))}",
            hint="name each: --out report.html --markdown report.md --csv report.csv",
        )
    for file in files:
        refuse_existing(file, force=force)
    runs = read_runs(folders)
    rows = rows_of(runs)
    texts = (page(runs, rows, latency_limit_ms), markdown_text(runs, rows, latency_limit_ms), csv_text(rows))
    for file, text in zip(files, texts, strict=True):
        with new_file(file, force=force) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return files
