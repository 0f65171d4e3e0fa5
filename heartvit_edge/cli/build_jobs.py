"""The engines that one call of ``build-engine`` asks for, built one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from heartvit_edge.cli.table import aligned
from heartvit_edge.errors import HeartViTError
from heartvit_edge.spec.engine import Backend, BatchRange, BuildSettings, Precision
from heartvit_edge.spec.pack import BudgetPack

if TYPE_CHECKING:
    from heartvit_edge.runtime.open import CudaChoice
    from heartvit_edge.spec.machine import Machine


class BuildJob(NamedTuple):
    """One engine to build."""

    entry: str
    backend: Backend
    precision: Precision
    batch: BatchRange
    settings: BuildSettings

    @property
    def label(self) -> str:
        """Return what progress and messages call it."""
        from heartvit_edge.engines.engine_name import Kind, variant_name

        return f"{self.entry}, {Kind(self.backend, self.precision, variant_name(self.batch, self.settings))}"


class Result(NamedTuple):
    """What became of one engine: its manifest, or the error."""

    label: str
    seconds: float
    manifest: Path | None
    error: HeartViTError | None


class Site(NamedTuple):
    """Where engines are built from, and for which machine.

    Attributes:
        pack: Folder of the pack.
        content: Its manifest.
        engines: The store.
        machine: This machine.
        force: Replace engines that exist.
        verify: How TensorRT engines reach the device while each is compared with its graph; None to compare none.
    """

    pack: Path
    content: BudgetPack
    engines: Path
    machine: Machine
    force: bool
    verify: CudaChoice | None


def run_jobs(site: Site, jobs: Sequence[BuildJob], *, go_on: bool) -> list[Result]:
    """Build every engine and show how far each is.

    Args:
        site: Where from and where to.
        jobs: In order.
        go_on: Go on after an engine that cannot be built.

    Raises:
        HeartViTError: If an engine cannot be built and ``go_on`` is not set.
    """
    results = []
    fresh: set[Path] = set()
    with _progress(len(jobs)) as (tell, begin, phase):
        for job in jobs:
            begin(job.label)
            started = time.monotonic()
            manifest, error = None, None
            try:
                manifest = _build(site, job, tell, phase, fresh)
                fresh.add(manifest.parent)
            except HeartViTError as err:
                if not go_on:
                    raise
                error = err
                tell(f"error: {job.label}: {err}" + (f"\nhint: {err.hint}" if err.hint else ""))
            results.append(Result(job.label, time.monotonic() - started, manifest, error))
    return results


def summary(results: Sequence[Result]) -> str:
    """Return a table of what became of each engine."""
    rows = [
        (result.label, f"{result.seconds:.1f}", "built" if result.error is None else "failed") for result in results
    ]
    return aligned(("engine", "s", "result"), rows)


def _build(
    site: Site,
    job: BuildJob,
    tell: Callable[[str], None],
    phase: Callable[[str, int, int], None],
    fresh: Collection[Path],
) -> Path:
    from heartvit_edge.engines import build, store
    from heartvit_edge.runtime import verify

    folder = build.build_engine(
        site.pack,
        site.content,
        job.entry,
        job.backend,
        job.precision,
        job.batch,
        site.engines,
        site.machine,
        force=site.force,
        settings=job.settings,
        verify=None if site.verify is None else partial(verify.verify_engine, choice=site.verify),
        tell=tell,
        progress=phase,
        fresh=fresh,
    )
    return folder / store.MANIFEST


@contextmanager
def _progress(
    total: int,
) -> Iterator[tuple[Callable[[str], None], Callable[[str], None], Callable[[str, int, int], None]]]:
    """Show a bar over the engines and one a phase of TensorRT's; give what tells, begins an engine, moves a phase."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, TimeElapsedColumn(), console=console, redirect_stdout=False) as progress:
        engines = progress.add_task("", total=total)
        told: set[str] = set()
        phases: dict[str, TaskID] = {}
        begun = 0

        def tell(text: str) -> None:
            if text not in told:  # what holds for the machine is said once, not once an entry
                told.add(text)
                progress.console.print(text, markup=False, soft_wrap=True)

        def begin(label: str) -> None:
            nonlocal begun
            while phases:
                progress.remove_task(phases.popitem()[1])
            progress.update(engines, description=f"building {label}", completed=begun)
            begun += 1

        def phase(name: str, done: int, steps: int) -> None:
            if name not in phases:
                phases[name] = progress.add_task(f"  {name}", total=steps)
            progress.update(phases[name], completed=done, total=steps)

        yield tell, begin, phase
        progress.update(engines, completed=begun)
