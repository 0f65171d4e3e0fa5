"""What the lint finds in graphs of other origin: timm models by both of torch's exporters, and ONNX's own tests.

Weights are random, which changes nothing that is checked. Prints two tables in Markdown.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import onnx
import timm
import torch
from onnx.backend.test.case.node import collect_testcases
from timm.layers import set_fused_attn

from heartvit_edge.export.exporter import run_exporter
from heartvit_edge.lint.report import LintReport
from heartvit_edge.lint.run import lint_file
from heartvit_edge.spec.target import TARGETS, Target, with_dynamo

MODELS = (
    "deit_tiny_patch16_224",
    "vit_base_patch32_224",
    "swin_tiny_patch4_window7_224",
    "convnext_atto",
    "efficientnet_b0",
    "resnet18",
)
OLD = TARGETS["trt-8.6"]
NEW = with_dynamo(TARGETS["trt-10.16"])


def export_timm(name: str, path: Path, target: Target) -> None:
    """Write a timm model with random weights as ONNX, its batch dynamic."""
    set_fused_attn(False)
    model = timm.create_model(name, pretrained=False).eval()
    run_exporter(
        model,
        (torch.zeros(2, 3, 224, 224),),
        path,
        target,
        inputs=["images"],
        outputs=["logits"],
        open_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
    )


def rules(reports: Iterable[LintReport]) -> str:
    """Return how often each rule was broken, errors first."""
    found = Counter((finding.severity, finding.rule) for report in reports for finding in report.findings)
    return ", ".join(f"{count} {rule} {severity}s" for (severity, rule), count in sorted(found.items())) or "clean"


def timm_rows(folder: Path) -> Iterable[list[str]]:
    """Yield a row for each timm model and exporter."""
    for name in MODELS:
        for exporter, target in (("TorchScript", OLD), ("dynamo", NEW)):
            path = folder / f"{name}.onnx"
            export_timm(name, path, target)
            reports = {asked: lint_file(path, TARGETS[asked]) for asked in TARGETS}
            first = reports["trt-10.3"]
            fused = f"{first.num_fused} of {len(first.attention)}" if first.attention else ""
            cells = [rules([report]) for report in reports.values()]
            yield [name, exporter, str(target.opset), str(first.num_nodes), fused, *cells]


def backend_rows(folder: Path) -> Iterable[list[str]]:
    """Yield a row for each group of ONNX's backend tests and each target that reads their opset."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tests divide by zero on purpose
        cases = [case.model for case in collect_testcases(None) if case.model is not None]
    stored = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data").rglob("model.onnx"))
    groups = {"node": cases, "from PyTorch and simple": [onnx.load(path) for path in stored]}
    for group, models in groups.items():
        for target in TARGETS.values():
            read = [model for model in models if _opset(model) <= target.max_opset and model.ir_version <= 14]
            reports = []
            for model in read:
                model.ir_version = min(model.ir_version, target.max_ir_version)
                onnx.save(model, folder / "test.onnx")
                reports.append(lint_file(folder / "test.onnx", target))
            clean = sum(not report.errors for report in reports)
            yield [group, target.name, str(len(read)), str(clean), rules(reports)]


def _opset(model: onnx.ModelProto) -> int:
    return max((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def table(head: list[str], rows: Iterable[list[str]]) -> None:
    """Print rows as a Markdown table."""
    print("|" + "|".join(head) + "|")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def main() -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as folder:
        table(["group", "target", "graphs it may read", "without an error", "findings"], backend_rows(Path(folder)))
        print()
        table(["model", "exporter", "opset", "nodes", "attention", *TARGETS], timm_rows(Path(folder)))


if __name__ == "__main__":
    main()
