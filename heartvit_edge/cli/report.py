"""``heartvit-edge report``: what was measured, as one page, a Markdown file and a CSV file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="Folders with measurement.json (bench), evaluation.json (evaluate) or both."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page: one HTML file that needs no network.")] = Path(
        "report.html"
    ),
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The tables as Markdown.", show_default="beside the page, .md")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Every figure as CSV.", show_default="beside the page, .csv")
    ] = None,
    latency_limit: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="MS",
            help="Mark the least energy whose 99th percentile of latency is within this, over all budgets and power "
            "modes.",
            show_default="over several power modes, the least energy-delay product",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Write what was measured as one self-contained HTML page, and beside it a Markdown and a CSV file.

    Several runs are compared: their rows carry the name of the run's folder, and each is set against the first. Prints
    the three paths.

    Example: heartvit-edge report run another_run --out report.html

    Example: heartvit-edge report sweep/MAXN sweep/30W --latency-limit 10
    """
    from heartvit_edge.report.write import write_report

    files = write_report(
        runs,
        out,
        markdown or out.with_suffix(".md"),
        csv or out.with_suffix(".csv"),
        latency_limit_ms=latency_limit,
        force=force,
    )
    for file in files:
        typer.echo(file)
