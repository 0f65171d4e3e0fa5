"""``heartvit-edge build-engine``: from a budget pack to engines for this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from heartvit_edge.cli import engine_options as options
from heartvit_edge.cli.build_jobs import BuildJob, Result, Site, run_jobs, summary
from heartvit_edge.cli.console import say
from heartvit_edge.errors import HeartViTError, InputError
from heartvit_edge.spec.budget import Budget, joint_label, parse_joint
from heartvit_edge.spec.engine import Backend, BatchRange, BuildSettings, Precision
from heartvit_edge.spec.machine import Machine
from heartvit_edge.spec.pack import BudgetPack

EVERYTHING = Budget(limit=1.0).label
BATCH = "1:1:8"
NO_JETSON = "a machine that is no Jetson"


def build_engine(
    pack: options.Pack,
    backend: Annotated[
        options.BackendName | None,
        typer.Option(help="What will run the engines.", show_default="tensorrt where it can be used, else onnxruntime"),
    ] = None,
    precision: Annotated[
        options.PrecisionName | None, typer.Option(help="Of the matrix products.", show_default="fp32")
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="Entry to build, by name or number; repeat for more. The dense entry is always built.",
            metavar="NAME|NUMBER",
            show_default="all",
        ),
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(
            help="Batch sizes to serve: the smallest, the one to tune for, the largest; or one number.",
            show_default=f"{BATCH}, or the pack's fixed batch",
        ),
    ] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option(min=0, max=5, help="TensorRT: 0 builds quickly, 5 tries every kernel.", show_default="3"),
    ] = None,
    sparse: Annotated[
        bool,
        typer.Option("--sparse", help="TensorRT: allow kernels for weights with two zeros in every four."),
    ] = False,
    matrix: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Build all engines that a file lists, such as engines/orin.toml, and go on after one that fails.",
            show_default=False,
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option(help="Run each new engine on noise and compare it with its graph on ONNX Runtime.")
    ] = True,
    cuda_binding: options.Binding = options.BindingName.cuda_python,
    cuda_graph: options.Graphs = True,
    engines: Annotated[Path, typer.Option(help="Where engines are stored.")] = Path("engines"),
    force: Annotated[bool, typer.Option("--force", help="Replace engines that exist.")] = False,
) -> None:
    """Build an engine for each budget of PACK, on the machine that will run it.

    Prints the path of each engine's manifest. An engine that exists and fits is kept. Beside a TensorRT engine lies
    layers.json, its layers with their precision.

    Example: heartvit-edge build-engine pack --backend tensorrt --precision fp16

    Example: heartvit-edge build-engine pack --matrix engines/orin.toml
    """
    from heartvit_edge.engines.fingerprint import detect_machine
    from heartvit_edge.engines.pick_batch import pick_batch

    content = BudgetPack.open(pack)
    batch = None if batch_size is None else parse_batch(batch_size)
    machine = detect_machine()
    choice = options.cuda_choice(cuda_binding, cuda_graph) if verify else None
    failed: list[Result] = []
    site = Site(pack, content, engines, machine, force, choice)
    if matrix is None:
        settings = BuildSettings(sparse=sparse)
        if optimization_level is not None:
            settings = BuildSettings(optimization_level=optimization_level, sparse=sparse)
        names = choose_entries(content, budget or [])
        chosen, reason = _pick_backend(backend.value if backend else None)
        say(f"backend: {chosen} ({reason})")
        wanted: Precision = precision.value if precision else "fp32"
        served = [pick_batch(content.entry(name), batch) for name in names]
        jobs = [BuildJob(name, chosen, wanted, one, settings) for name, one in zip(names, served, strict=True)]
    else:
        given = {
            "--backend": backend,
            "--precision": precision,
            "--budget": budget,
            "--batch-size": batch_size,
            "--optimization-level": optimization_level,
            "--sparse": sparse or None,
        }
        if both := [name for name, value in given.items() if value is not None]:
            raise InputError(f"{both[0]} is given beside --matrix, which says it", hint=f"leave {both[0]} out")
        jobs, failed = matrix_jobs(matrix, content, machine)
    results = failed + run_jobs(site, jobs, go_on=matrix is not None)
    for result in results:
        if result.manifest is not None:
            typer.echo(result.manifest)
    if matrix is not None:
        say(summary(results))
    errors = [result.error for result in results if result.error is not None]
    if errors:
        raise type(errors[0])(f"{len(errors)} of {len(results)} engines of {matrix} were not built; {errors[0]}")


def matrix_jobs(path: Path, pack: BudgetPack, machine: Machine) -> tuple[list[BuildJob], list[Result]]:
    """Return every engine that a build matrix asks for on this machine, each once, and the rows that cannot be met.

    Rows for other boards are said and left out.

    Raises:
        InputError: If the file is no build matrix, or it asks for nothing here.
    """
    from heartvit_edge.engines.matrix import read_matrix
    from heartvit_edge.engines.pick_batch import pick_batch

    jobs: dict[BuildJob, None] = {}
    failed: list[Result] = []
    for number, row in enumerate(read_matrix(path).rows, start=1):
        if not row.suits(machine):
            say(f"engine {number} of {path} is for {', '.join(row.boards)}: left out on {machine.board or NO_JETSON}")
            continue
        try:
            names = choose_entries(pack, list(row.budget))
            served = [pick_batch(pack.entry(name), row.batch_size) for name in names]
            chosen, reason = _pick_backend(row.backend)
        except HeartViTError as err:
            say(f"error: engine {number} of {path}: {err}" + (f"\nhint: {err.hint}" if err.hint else ""))
            failed.append(Result(f"engine {number} of the matrix", 0.0, None, err))
            continue
        say(f"engine {number} of {path}: {chosen} ({reason})")
        for precision in row.precision:
            rows = zip(names, served, strict=True)
            jobs |= dict.fromkeys(BuildJob(name, chosen, precision, one, row.settings) for name, one in rows)
    if not jobs and not failed:
        raise InputError(
            f"{path} asks for no engine on {machine.board or NO_JETSON}",
            hint="take another: --matrix engines/everywhere.toml",
        )
    return list(jobs), failed


def _pick_backend(asked: Backend | None) -> tuple[Backend, str]:
    from heartvit_edge.engines import build

    return build.pick_backend(asked)


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
