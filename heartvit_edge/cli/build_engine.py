"""``heartvit-edge build-engine``: from a budget pack to engines for this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from heartvit_edge.cli.engine_options import BackendName, Pack, PrecisionName
from heartvit_edge.errors import InputError
from heartvit_edge.spec.budget import Budget, joint_label, parse_joint
from heartvit_edge.spec.engine import BatchRange
from heartvit_edge.spec.pack import BudgetPack

EVERYTHING = Budget(limit=1.0).label


def build_engine(
    pack: Pack,
    backend: Annotated[
        BackendName | None,
        typer.Option(help="What will run the engines.", show_default="tensorrt where it can be used, else onnxruntime"),
    ] = None,
    precision: Annotated[PrecisionName, typer.Option(help="Of the matrix products.")] = PrecisionName.fp32,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="Entry to build, by name or number; repeat for more. The dense entry is always built.",
            metavar="NAME|NUMBER",
            show_default="all",
        ),
    ] = None,
    batch_size: Annotated[
        str, typer.Option(help="Batch sizes to serve: the smallest, the one to tune for, the largest; or one number.")
    ] = "1:1:8",
    engines: Annotated[Path, typer.Option(help="Where engines are stored.")] = Path("engines"),
    force: Annotated[bool, typer.Option("--force", help="Replace engines that exist.")] = False,
) -> None:
    """Build an engine for each budget of PACK, on the machine that will run it.

    Prints the path of each engine's manifest. Each new engine is run once on noise and compared with its graph. An
    engine that exists and fits is kept.

    Example: heartvit-edge build-engine pack --backend tensorrt --precision fp16
    """
    from heartvit_edge.engines import build, store
    from heartvit_edge.engines.fingerprint import detect_machine
    from heartvit_edge.runtime.verify import verify_engine

    batch = parse_batch(batch_size)
    content = BudgetPack.open(pack)
    names = choose_entries(content, budget or [])
    console = Console(stderr=True, highlight=False)
    chosen, reason = build.pick_backend(backend.value if backend else None)
    console.print(f"backend: {chosen} ({reason})", markup=False, soft_wrap=True)
    machine = detect_machine()
    manifests = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, redirect_stdout=False) as progress:
        task = progress.add_task("", total=len(names))
        told: set[str] = set()

        def tell(text: str) -> None:
            if text not in told:  # what holds for the machine is said once, not once an entry
                told.add(text)
                progress.console.print(text, markup=False, soft_wrap=True)

        for name in names:
            progress.update(task, description=f"building {name}, {chosen} {precision.value}")
            folder = build.build_engine(
                pack,
                content,
                name,
                chosen,
                precision.value,
                batch,
                engines,
                machine,
                force=force,
                verify=verify_engine,
                tell=tell,
            )
            manifests.append(folder / store.MANIFEST)
            progress.advance(task)
    for manifest in manifests:
        typer.echo(manifest)


def parse_batch(text: str) -> BatchRange:
    """Return the range written as ``1:4:8``, or as ``4`` for that batch size alone.

    Raises:
        InputError: If it is not one number or three, each at least one and ascending.
    """
    parts = text.split(":")
    try:
        numbers = [int(part) for part in parts]
        if len(numbers) == 1:
            numbers *= 3
        smallest, best, largest = numbers
        return BatchRange(min=smallest, opt=best, max=largest)
    except (ValidationError, ValueError) as err:
        raise InputError(
            f"--batch-size is {text!r}, expected one number, or three that ascend from 1",
            hint="write --batch-size 4 or --batch-size 1:4:8",
        ) from err


def choose_entries(pack: BudgetPack, wanted: list[str]) -> list[str]:
    """Return the names of the entries to build in the pack's order; the dense one is always among them.

    Args:
        pack: The pack.
        wanted: Entry names or budgets such as ``0.5``; empty for every entry. Without an entry of its own, the budget
            that allows everything is the dense entry.

    Raises:
        InputError: If one of them is neither; the message lists the pack's entries.
    """
    names = [entry.name for entry in pack.entries]
    if not wanted:
        return names
    found = {"dense"}
    for text in wanted:
        label = text if text in names else _label(text)
        if label == EVERYTHING and label not in names:
            label = "dense"
        if label not in names:
            raise InputError(
                f"--budget is {text!r}, the pack has {', '.join(names)}", hint=f"write --budget {names[-1]}"
            )
        found.add(label)
    return [name for name in names if name in found]


def _label(text: str) -> str | None:
    try:
        return joint_label(parse_joint(text))
    except InputError:
        return None
