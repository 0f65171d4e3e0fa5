"""What the lint finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from heartvit_edge.errors import CheckError
from heartvit_edge.spec.base import Spec
from heartvit_edge.spec.target import TARGETS, TargetName

Severity = Literal["error", "warning"]


class Finding(Spec):
    """One thing that the target refuses (error), or reads otherwise than the graph may mean it (warning).

    Attributes:
        severity: Whether the graph can be used as it is.
        rule: Short name of what was broken.
        node: The node's name, or that of its first output where it has none; the tensor's, or ``""`` for the model.
        op: Its operator, or ``""``.
        reason: What was found and what the target expects.
        cure: What to do.
    """

    severity: Severity
    rule: str
    node: str
    op: str
    reason: str
    cure: str

    def line(self) -> str:
        """Return the finding as one line of text."""
        where = f"{self.node} ({self.op})" if self.op else self.node or "model"
        return f"{self.severity}: {where}: {self.reason} [{self.rule}]; {self.cure}"


class AttentionSite(Spec):
    """One softmax between two matrix products.

    Attributes:
        softmax: The Softmax node's name, or the Attention node's.
        head_dim: Width of a head; None where it is not known before the graph runs.
        sequence: Number of keys; None where it is not known before the graph runs.
        why_not: Why TensorRT's fused attention does not take it; None where it does.
    """

    softmax: str
    head_dim: int | None
    sequence: int | None
    why_not: str | None


class LintReport(Spec):
    """Everything that was found in one graph.

    Attributes:
        file: The graph's file name.
        target: What it was checked for.
        opset: The graph's opset of ONNX's own operators.
        num_nodes: Nodes, those of subgraphs included, after local functions are written out.
        findings: Errors first.
        attention: Every attention of the graph, in its order.
    """

    file: str
    target: TargetName
    opset: int
    num_nodes: int
    findings: tuple[Finding, ...]
    attention: tuple[AttentionSite, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings for which the target would refuse the graph."""
        return tuple(found for found in self.findings if found.severity == "error")

    @property
    def num_fused(self) -> int:
        """How many attentions TensorRT's matcher recognises."""
        return sum(site.why_not is None for site in self.attention)

    def attention_line(self) -> str:
        """Return how much of the attention TensorRT's matcher recognises, and why not all, as one line of text."""
        reasons = {site.why_not: site.softmax for site in self.attention if site.why_not is not None}
        why = "".join(f"; {node}: {reason}" for reason, node in reasons.items())
        return f"attention recognised in {self.num_fused} of {len(self.attention)} blocks{why}"


def refuse(reports: Sequence[LintReport]) -> None:
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
