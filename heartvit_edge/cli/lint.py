"""``heartvit-edge lint``: what a target would refuse of a graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heartvit_edge.cli.console import say
from heartvit_edge.cli.requirements import lacks_onnx
from heartvit_edge.errors import CheckError, InputError
from heartvit_edge.spec.pack import MANIFEST, BudgetPack
from heartvit_edge.spec.target import DEFAULT_TARGET, TARGETS, find_target

if TYPE_CHECKING:
    from heartvit_edge.lint.report import LintReport

TargetOption = Annotated[
    str, typer.Option("--target", help=f"What is to read the graphs: {', '.join(TARGETS)}.", metavar="TARGET")
]


def lint(
    model: Annotated[
        Path, typer.Argument(help="An .onnx file of any origin, or the folder of a budget pack.", metavar="FILE|PACK")
    ],
    target: TargetOption = DEFAULT_TARGET,
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
    from heartvit_edge.lint.run import lint_file

    if lacks := lacks_onnx():
        raise lacks
    asked = find_target(target)
    packed = model.is_dir()
    files = _graphs(model) if packed else [model]
    reports = [lint_file(file, asked, static=static or packed) for file in files]
    if as_json:
        typer.echo(json.dumps([report.model_dump(mode="json") for report in reports], indent=1))
    for report in reports:
        if not as_json:
            for finding in report.findings:
                typer.echo(f"{report.file}: {finding.line()}")
        tell(report)
    refuse(reports)


def tell(report: LintReport) -> None:
    """Say on stderr how many findings there are, and how much of the attention can be fused."""
    warnings = len(report.findings) - len(report.errors)
    title = TARGETS[report.target].title
    say(f"{report.file}: opset {report.opset}, for {title}: {len(report.errors)} errors, {warnings} warnings")
    if not report.attention:
        return
    reasons = {site.why_not: site.softmax for site in report.attention if site.why_not is not None}
    why = "".join(f"; {node}: {reason}" for reason, node in reasons.items())
    say(f"{report.file}: attention recognised in {report.num_fused} of {len(report.attention)} blocks{why}")


def refuse(reports: list[LintReport]) -> None:
    """Return only if no report has an error.

    Raises:
        CheckError: If one has; the message names the first.
    """
    errors = [(report, finding) for report in reports for finding in report.errors]
    if errors:
        report, first = errors[0]
        others = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        raise CheckError(
            f"{TARGETS[report.target].title} would refuse {report.file}: {first.node or 'the model'}: {first.reason}"
            f"{others}",
            hint=first.cure,
        )


def _graphs(folder: Path) -> list[Path]:
    """Return the graphs of a pack, each once."""
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"{folder} is not a budget pack: it has no {MANIFEST}", hint="name an .onnx file, or the folder of a pack"
        )
    return [folder / name for name in dict.fromkeys(entry.onnx for entry in BudgetPack.open(folder).entries)]
