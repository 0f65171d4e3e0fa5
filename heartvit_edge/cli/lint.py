"""``heartvit-edge lint``: what a target would refuse of a graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heartvit_edge.cli.console import say
from heartvit_edge.cli.requirements import lacks_onnx
from heartvit_edge.errors import InputError
from heartvit_edge.spec.pack import MANIFEST, BudgetPack
from heartvit_edge.spec.target import DEFAULT_TARGET, TARGETS, find_target

if TYPE_CHECKING:
    from heartvit_edge.lint.report import LintReport


def lint(
    model: Annotated[
        Path, typer.Argument(help="An .onnx file of any origin, or the folder of a budget pack.", metavar="FILE|PACK")
    ],
    target: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET",
            help=f"What is to read the graphs: {', '.join(TARGETS)}.",
            show_default=f"the pack's, or {DEFAULT_TARGET}",
        ),
    ] = None,
    static: Annotated[
        bool, typer.Option("--static", help="Forbid outputs whose size follows from data, as is done for packs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports as JSON.")] = False,
) -> None:
    """Check graphs against what a target accepts, without the target: operators, limits, shapes, types, versions.

    Prints one line a finding, with the node, the reason and the cure; exits with 5 if one is an error. Needs no PyTorch
    and no TensorRT.

    Example: heartvit-edge lint pack --target trt-10.3
    """
    from heartvit_edge.lint.report import refuse
    from heartvit_edge.lint.run import lint_file

    if lacks := lacks_onnx():
        raise lacks
    asked = None if target is None else find_target(target)
    if model.is_dir():
        pack = _open(model)
        asked = asked or find_target(pack.target or DEFAULT_TARGET)
        named = (name for entry in pack.entries for name, _ in pack.files(entry) if name.endswith(".onnx"))
        files = [model / name for name in dict.fromkeys(named)]
        static = True
    else:
        files = [model]
    reports = [lint_file(file, asked or TARGETS[DEFAULT_TARGET], static=static) for file in files]
    if as_json:
        typer.echo(json.dumps([report.model_dump(mode="json") for report in reports], indent=1))
    for report in reports:
        if not as_json:
            for finding in report.findings:
                typer.echo(f"{report.file}: {finding.line()}")
        _tell(report)
    refuse(reports)


def _tell(report: LintReport) -> None:
    """Say on stderr how many findings there are, and how much of the attention can be fused."""
    warnings = len(report.findings) - len(report.errors)
    title = TARGETS[report.target].title
    say(f"{report.file}: opset {report.opset}, for {title}: {len(report.errors)} errors, {warnings} warnings")
    if report.attention:
        say(f"{report.file}: {report.attention_line()}")


def _open(folder: Path) -> BudgetPack:
    """Return the manifest of the pack at ``folder``."""
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"{folder} is not a budget pack: it has no {MANIFEST}", hint="name an .onnx file, or the folder of a pack"
        )
    return BudgetPack.open(folder)
