"""What is checked of a graph before it goes into a pack, beside its parity with PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from heartvit_edge.lint.fusions import count_fusions
from heartvit_edge.lint.report import refuse
from heartvit_edge.lint.run import lint_file
from heartvit_edge.spec.target import Target


def check_graph(path: Path, target: Target, tell: Callable[[str], None]) -> None:
    """Return only if the target takes a graph; tell what it warns of, and what runtimes will fuse.

    Args:
        path: The graph; sizes that follow from data are an error in it.
        target: Who reads it.
        tell: Told each warning, and one line on attention and fusions.

    Raises:
        CheckError: If the target would refuse it; the message names node and reason.
    """
    report = lint_file(path, target, static=True)
    refuse([report])
    for finding in report.findings:
        tell(f"{path.name}: {finding.line()}")
    fusions = count_fusions(path)
    tell(f"{path.name}: {report.attention_line()}" + (f"; {fusions.line()}" if fusions is not None else ""))
