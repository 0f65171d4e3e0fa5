"""The runs that a report compares, read from their folders."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from heartvit_edge.errors import InputError
from heartvit_edge.spec.evaluation import Evaluation
from heartvit_edge.spec.measurement import Measurement
from heartvit_edge.spec.pack import BudgetPack

MEASUREMENT = "measurement.json"
EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Run:
    """What one run folder holds.

    Attributes:
        label: The folder's name, or its path where two folders have the same name.
        measurement: What ``bench`` stored; None where it did not run.
        evaluation: What ``evaluate`` stored; None where it did not run.
        pack: The pack that ran; None where no measurement carries it.
    """

    label: str
    measurement: Measurement | None
    evaluation: Evaluation | None
    pack: BudgetPack | None


def read_runs(folders: Sequence[Path]) -> tuple[Run, ...]:
    """Return the runs in the given order.

    Where a folder holds only a measurement and another only the evaluation of the very same engines, the two become
    one run under the measurement's label. An evaluation without a measurement takes its pack from any other run of it.

    Raises:
        InputError: If a folder is missing, given twice or holds neither file, a file is malformed, or a folder's two
            files belong to different packs.
    """
    resolved = [folder.resolve() for folder in folders]
    for index, folder in enumerate(folders):
        if resolved.index(resolved[index]) != index:
            raise InputError(f"{folder} is given twice")
    names = [folder.name for folder in resolved]
    runs = tuple(
        _read(folder, name if names.count(name) == 1 else str(folder))
        for folder, name in zip(folders, names, strict=True)
    )
    return _with_packs(_joined(runs))


def _read(folder: Path, label: str) -> Run:
    if folder.name in (MEASUREMENT, EVALUATION) and folder.is_file():
        raise InputError(f"{folder} is a file, expected the folder that holds it", hint=f"name {folder.parent}")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", hint="make one with: heartvit-edge bench PACK --out RUN")
    measured, evaluated = folder / MEASUREMENT, folder / EVALUATION
    if not measured.exists() and not evaluated.exists():
        within = sorted({file.parent for name in (MEASUREMENT, EVALUATION) for file in folder.glob(f"*/{name}")})
        if within:
            raise InputError(
                f"{folder} is no run, and holds {', '.join(run.name for run in within)}",
                hint=shlex.join(["heartvit-edge", "report", *map(str, within)]),
            )
        raise InputError(
            f"{folder} holds neither {MEASUREMENT} (made by bench) nor {EVALUATION} (made by evaluate)",
            hint="heartvit-edge bench PACK --out RUN and heartvit-edge evaluate PACK --data DATA --out RUN make them",
        )
    measurement = _measurement(measured) if measured.exists() else None
    evaluation = _evaluation(evaluated) if evaluated.exists() else None
    if measurement and evaluation and measurement.pack.digest() != evaluation.pack_sha256:
        raise InputError(
            f"{folder} mixes two packs: {MEASUREMENT} is of {measurement.pack.digest()[:12]}, "
            f"{EVALUATION} of {evaluation.pack_sha256[:12]}",
            hint="run heartvit-edge bench and heartvit-edge evaluate on the same pack",
        )
    return Run(label, measurement, evaluation, measurement.pack if measurement else None)


def _measurement(path: Path) -> Measurement:
    measurement = Measurement.read(path)
    names = [entry.name for entry in measurement.pack.entries]
    for row in measurement.rows:
        if row.entry not in names:
            raise InputError(f"{path} measures entry {row.entry!r}, its pack has only {', '.join(names)}")
    return measurement


def _evaluation(path: Path) -> Evaluation:
    evaluation = Evaluation.read(path)
    for answers in evaluation.entries:
        counted = [answers.agreeing, answers.top1_correct or 0, answers.top5_correct or 0]
        lengths = {len(stored) for stored in (answers.kl_nats, answers.correct) if stored is not None}
        if lengths != {evaluation.num_images} or max(counted) > evaluation.num_images:
            raise InputError(
                f"{path} counts {max(*counted, *lengths)} answers of entry {answers.entry!r}, "
                f"expected {evaluation.num_images}, one an image"
            )
    return evaluation


def _joined(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """Return the runs with each lone evaluation moved to the lone measurements of the same engines."""
    lone = [run for run in runs if run.measurement is None]
    joined, moved = [], set()
    for run in runs:
        if run.measurement is not None and run.evaluation is None:
            found = next((other for other in lone if _same_engines(run.measurement, other.evaluation)), None)
            if found is not None:
                run = replace(run, evaluation=found.evaluation)
                moved.add(found.label)
        joined.append(run)
    return tuple(run for run in joined if run.label not in moved)


def _same_engines(measurement: Measurement, evaluation: Evaluation | None) -> bool:
    if evaluation is None or evaluation.pack_sha256 != measurement.pack.digest():
        return False
    answered = {answers.engine_sha256 for answers in evaluation.entries}
    return {row.engine_sha256 for row in measurement.rows} <= answered


def _with_packs(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    packs = {run.pack.digest(): run.pack for run in runs if run.pack is not None}
    return tuple(
        replace(run, pack=packs.get(run.evaluation.pack_sha256)) if run.pack is None and run.evaluation else run
        for run in runs
    )
