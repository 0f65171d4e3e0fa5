"""The folder of a fine-tune: whether it may go on there, and the files of what is done."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file

from heartvit_edge.errors import InputError
from heartvit_edge.finetune.subject import Subject
from heartvit_edge.finetune.training import Trained
from heartvit_edge.spec.base import Spec
from heartvit_edge.spec.files import new_file, sha256_file
from heartvit_edge.spec.finetune import FINETUNE, FineTuned, FinetuneRecipe, FinetuneRun

STATES, LOGS = "state", "logs"

_OTHER = {
    "source": "another model",
    "shape": "a model of another shape",
    "preprocessing": "other preprocessing",
    "images": "other training images",
    "held_out": "other held-out images",
}


def open_run(out: Path, wanted: Mapping[str, Spec], subjects: Sequence[Subject], *, force: bool) -> FinetuneRun | None:
    """Return the run at ``out``, which may go on; None where there is none yet, or none any more.

    Args:
        out: Folder of the run.
        wanted: What the run must be of, by field.
        subjects: What it is to hold.
        force: Remove a run that is there.

    Raises:
        InputError: If ``out`` holds a run with other settings or other plans, or something that is no run.
    """
    path = out / FINETUNE
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out} exists and is no fine-tune", hint="name another place with --out")
        return None
    run = FinetuneRun.read(path)
    if force:
        _remove(run, out)
        return None
    hint = "name another place with --out, or add --force to begin again"
    for field, value in wanted.items():
        found = getattr(run, field)
        if found != value:
            differs = _differences(found, value) if field == "recipe" else _OTHER[field]
            raise InputError(f"{out} holds a fine-tune with {differs}", hint=hint)
    for subject in subjects:
        entry = run.find(subject.name)
        if entry is not None and (entry.plan, entry.gate, entry.gate_from_sha256) != (
            subject.plan,
            subject.gate_name,
            subject.gate_sha256,
        ):
            raise InputError(f"{out} holds {subject.name} with another plan or gate", hint=hint)
    return run


def _remove(run: FinetuneRun, out: Path) -> None:
    """Remove what a fine-tune made in ``out``, and nothing else."""
    (out / FINETUNE).unlink()
    for entry in run.entries:
        for name in (entry.weights, entry.gate_weights):
            if name is not None:
                (out / name).unlink(missing_ok=True)
    for folder in (STATES, LOGS):
        shutil.rmtree(out / folder, ignore_errors=True)


def _differences(found: FinetuneRecipe, wanted: object) -> str:
    names = [name for name in FinetuneRecipe.model_fields if getattr(found, name) != getattr(wanted, name)]
    return ", ".join(f"{name} {getattr(found, name)} where {getattr(wanted, name)} is asked for" for name in names)


def store(subject: Subject, trained: Trained, out: Path) -> FineTuned:
    """Write a subject's tensors and return what is known of it."""
    parts = {
        part: {
            name.removeprefix(f"{part}."): value
            for name, value in trained.weights.items()
            if name.startswith(f"{part}.")
        }
        for part in ("backbone", "gate")
    }
    weights, gate = out / f"{subject.name}.safetensors", out / f"{subject.name}.gate.safetensors"
    for path, tensors in ((weights, parts["backbone"]), (gate, parts["gate"])):
        if tensors:
            with new_file(path, force=True) as temporary:
                save_file(tensors, temporary)
    return FineTuned(
        name=subject.name,
        plan=subject.plan,
        plan_sha256=subject.plan.digest() if subject.plan is not None else None,
        gate=subject.gate_name,
        gate_from_sha256=subject.gate_sha256,
        reduction=subject.reduction,
        weights=weights.name,
        weights_sha256=sha256_file(weights),
        gate_weights=gate.name if parts["gate"] else None,
        gate_weights_sha256=sha256_file(gate) if parts["gate"] else None,
        before=trained.before,
        history=trained.history,
        epoch=trained.epoch,
    )
