"""The root command, and the one place where errors end."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from heartvit_edge import __version__
from heartvit_edge.cli import (
    bench,
    build_engine,
    doctor,
    engines,
    evaluate,
    export,
    finetune,
    lint,
    plan,
    quickstart,
    report,
    schema,
    score,
)
from heartvit_edge.errors import HeartViTError

app = typer.Typer(
    name="heartvit-edge",
    help="Prune a Vision Transformer by curvature, export it per budget, build engines, and measure them.",
    epilog="A first look: heartvit-edge quickstart --out demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Prune a Vision Transformer by curvature, export it per budget, build engines, and measure them."""


app.command("bench")(bench.bench)
app.command("build-engine")(build_engine.build_engine)
app.add_typer(engines.app, name="engines")
app.command("doctor")(doctor.doctor)
app.command("evaluate")(evaluate.evaluate)
app.command("export")(export.export)
app.command("finetune")(finetune.finetune)
app.command("lint")(lint.lint)
app.command("plan")(plan.plan)
app.command("quickstart")(quickstart.quickstart)
app.command("score")(score.score)
app.command("report")(report.report)
app.command("schema")(schema.schema)


def main() -> None:
    """Run the command line; a HeartViTError becomes one message and an exit code."""
    try:
        app()
    except HeartViTError as err:
        typer.echo(f"error: {err}", err=True)
        if err.hint:
            typer.echo(f"hint: {err.hint}", err=True)
        sys.exit(err.exit_code)
