"""``heartvit-edge evaluate``: accuracy and agreement of the engines of a pack on images."""

from __future__ import annotations

import json as jsonlib
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from heartvit_edge.cli import engine_options as options
from heartvit_edge.cli.build_engine import choose_entries
from heartvit_edge.cli.run_folder import run_file
from heartvit_edge.cli.table import aligned
from heartvit_edge.spec.pack import BudgetPack

if TYPE_CHECKING:
    from heartvit_edge.bench.figures import Figure
    from heartvit_edge.bench.stored import StoredEngine
    from heartvit_edge.spec.evaluation import Evaluation

MAX_BATCH = 32
"""Default batch size, where the engines serve it."""


def evaluate(
    pack: options.Pack,
    data: Annotated[
        Path, typer.Option(help="Folder of images (one subfolder a class, or flat), or an .npz.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Folder for evaluation.json.", show_default="print the table alone"),
    ] = None,
    engines: options.Engines = Path("engines"),
    backend: options.BuiltBackend = None,
    precision: options.BuiltPrecision = None,
    variant: options.BuiltVariant = None,
    budget: options.Entries = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images an inference.", show_default=f"what the engines serve, at most {MAX_BATCH}"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Evaluate N images drawn at random.", show_default="all")
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="Images stored in RUN for the report's token maps.")] = 8,
    cuda_binding: options.Binding = options.BindingName.cuda_python,
    cuda_graph: options.Graphs = True,
    any_power_mode: options.AnyPowerMode = False,
    json: options.Json = False,
    force: Annotated[bool, typer.Option("--force", help="Replace RUN/evaluation.json.")] = False,
) -> None:
    """Count what the engines of PACK answer on DATA: top-1 and top-5 where there are labels, agreement, and KL.

    Agreement is the share of images whose answer is the dense engine's; KL is the mean of KL(dense || entry) in nats;
    McNemar's exact test says whether top-1 is the dense engine's. Under each entry stand those that carry out its plan,
    at equal MACs, in another way: see export --baseline. Where the pack has graphs in the engines' precision, what they
    lost to FP32 when it was made is told below the table.

    Example: heartvit-edge evaluate pack --data my_labelled_images/ --out run
    """
    from heartvit_edge.bench.run import evaluate_engines
    from heartvit_edge.bench.stored import check_batch_sizes, find_engines
    from heartvit_edge.data.images import check_labels, load_images
    from heartvit_edge.engines.fingerprint import detect_machine
    from heartvit_edge.report.runs import EVALUATION

    target = None if out is None else run_file(out, EVALUATION, force=force)
    content = BudgetPack.open(pack)
    names = choose_entries(content, budget or [])
    found = find_engines(
        pack,
        content,
        names,
        engines,
        backend.value if backend else None,
        precision.value if precision else None,
        detect_machine(),
        variant=variant,
        any_power_mode=any_power_mode,
    )
    size = _batch_size(batch_size, found)
    check_batch_sizes(pack, engines, found, [size])
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, redirect_stdout=False) as progress:

        def tell(text: str) -> None:
            progress.console.print(text, markup=False, soft_wrap=True)

        tell(f"engines: {found[0].kind}, {len(found)} from {engines}")
        images = load_images(
            data, classes=content.classes, num_images=limit, warn=tell, progress=_bar(progress, "reading images")
        )
        check_labels(images, content.shape.num_classes)
        evaluation = evaluate_engines(
            content,
            found,
            images,
            size,
            samples,
            shlex.join(["heartvit-edge", *sys.argv[1:]]),
            _bar(progress, f"running {len(found)} engines"),
            options.cuda_choice(cuda_binding, cuda_graph),
        )
    if target is not None:
        evaluation.write(target, force=force)
    if json:
        typer.echo(_as_json(evaluation, content, target))
    else:
        typer.echo(_as_table(evaluation, content))
        if target is not None:
            typer.echo(target)


def _batch_size(asked: int | None, engines: Sequence[StoredEngine]) -> int:
    if asked is not None:
        return asked
    smallest = max(engine.manifest.batch.min for engine in engines)
    return max(smallest, min(MAX_BATCH, *(engine.manifest.batch.max for engine in engines)))


def _bar(progress: Progress, text: str) -> Callable[[int, int], None]:
    task = progress.add_task(text, total=None)
    return lambda done, total: progress.update(task, completed=done, total=total)


HEADER = ("entry", "MACs %", "top-1 % (95 % CI)", "top-5 %", "agreement % (95 % CI)", "KL nats", "McNemar p")
MCNEMAR = (
    "McNemar p: exact test of top-1 against dense; in brackets the images that only dense, only the entry has right"
)


def _as_table(evaluation: Evaluation, pack: BudgetPack) -> str:
    from heartvit_edge.bench.accuracy_figures import accuracy_figures
    from heartvit_edge.report.formats import SHARE, interval_text, number_text, value_text
    from heartvit_edge.report.precision_table import closeness

    def percent(figure: Figure) -> str:
        interval = interval_text(figure, SHARE)
        return value_text(figure, SHARE) + (f" ({interval})" if interval else "")

    rows: list[tuple[str, ...]] = []
    notes: dict[str, None] = {}
    for answers in evaluation.entries:
        found, entry = accuracy_figures(evaluation, answers.entry), pack.entry(answers.entry)
        indent = "  " if entry.compares_with is not None else ""
        macs = number_text(100 * entry.macs_fraction, 1)
        tested = value_text(found.mcnemar_p)
        if found.only_dense_right is not None:
            tested += f" ({found.only_dense_right}, {found.only_this_right})"
            notes[MCNEMAR] = None
        rows.append(
            (
                indent + answers.entry,
                macs,
                percent(found.top1),
                value_text(found.top5, SHARE),
                percent(found.agreement),
                value_text(found.kl_nats),
                tested,
            )
        )
        for name, figure in (("top-1", found.top1), ("top-5", found.top5), ("McNemar p", found.mcnemar_p)):
            if figure.reason is not None:
                notes[f"{name}: {figure.reason}"] = None
        if (graph := entry.other(evaluation.precision)) is not None:
            notes[f"{answers.entry}: the {graph.precision} graph gives the class of FP32 to {closeness(graph)}"] = None
    return "\n".join([aligned(HEADER, rows), f"{evaluation.num_images} images of {evaluation.images.name}", *notes])


def _as_json(evaluation: Evaluation, pack: BudgetPack, target: Path | None) -> str:
    from heartvit_edge.bench.accuracy_figures import accuracy_figures

    def row(name: str) -> dict[str, object]:
        entry = pack.entry(name)
        described = entry.model_dump(mode="json", include={"role", "compares_with", "gate", "reduction"})
        costs = {"macs": entry.macs, "macs_fraction": entry.macs_fraction, "gate_macs": entry.gate_macs}
        graph = entry.other(evaluation.precision)
        fidelity = {"fidelity": None if graph is None else graph.fidelity.model_dump(mode="json")}
        return {
            "entry": name,
            **described,
            **costs,
            **fidelity,
            **accuracy_figures(evaluation, name).model_dump(mode="json"),
        }

    content = {
        "evaluation": None if target is None else str(target),
        "backend": evaluation.backend,
        "precision": evaluation.precision,
        "images": evaluation.images.model_dump(mode="json"),
        "rows": [row(answers.entry) for answers in evaluation.entries],
    }
    return jsonlib.dumps(content, indent=1)
