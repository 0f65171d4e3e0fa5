"""Entries of a pack that were fine-tuned: each beside the one whose plan it carries out, the control beside dense."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from heartvit_edge.errors import InputError
from heartvit_edge.export.entries import Entry
from heartvit_edge.finetune.load import check_model, load_finetuned
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.spec.finetune import CONTROL, FINETUNE, FineTuned, FinetuneRun
from heartvit_edge.spec.gate import LEARNED
from heartvit_edge.spec.pack import Role


@dataclass(frozen=True)
class Tuned:
    """A fine-tune and where it lies."""

    folder: Path
    run: FinetuneRun


def read_runs(folders: Sequence[Path], dense: DenseModel) -> list[Tuned]:
    """Return the fine-tunes in the folders, each once, without their tensors.

    Raises:
        InputError: If a folder holds none, or one of another model or with no finished entry.
    """
    found = []
    for folder in dict.fromkeys(folders):
        run = FinetuneRun.read(folder / FINETUNE)
        check_model(run, folder, dense)
        if not run.entries:
            raise InputError(
                f"{folder} holds no finished model",
                hint="start the same `heartvit-edge finetune` again: it goes on where it was stopped",
            )
        found.append(Tuned(folder, run))
    return found


def with_finetuned(
    entries: Sequence[Entry], dense: DenseModel, runs: Sequence[Tuned], tell: Callable[[str], None]
) -> list[Entry]:
    """Return the entries of a pack, each plan's followed by its fine-tuned form, and the dense model by the control.

    Args:
        entries: The dense model first.
        dense: What the runs were made from.
        runs: Fine-tunes of it.
        tell: Told which finished models have no place in the pack.

    Raises:
        InputError: If a model was trained for another plan than the one of its label, two runs hold the same one, or
            a run has none that is of this pack.
        CheckError: If a file of a run was altered.
    """
    own = {entry.name: entry for entry in entries if entry.compares_with is None}
    added: dict[str, Entry] = {}
    stems: dict[str, FineTuned] = {}
    for tuned in runs:
        placed = 0
        for model in tuned.run.entries:
            beside = "dense" if model.plan is None else model.name
            if beside not in own:
                tell(f"{tuned.folder}: {model.name} is no entry of this pack and is left out")
                continue
            placed += 1
            known = stems.setdefault(beside, model)
            if known is model:
                added[beside] = _entry(own[beside], model, tuned.folder, dense)
            elif model.name != CONTROL or known.weights_sha256 != model.weights_sha256:
                raise InputError(
                    f"{tuned.folder} holds another {model.name} than a run named before it, and the pack has room for "
                    "one",
                    hint="export a pack for each run",
                )
        if not placed:
            names, labels = (
                ", ".join(found) for found in ([model.name for model in tuned.run.entries], [*own][1:] or ["none"])
            )
            raise InputError(
                f"{tuned.folder} holds {names}, and this pack's plans are {labels}",
                hint="give the --budget that was fine-tuned, or leave --finetuned out",
            )
    return [one for entry in entries for one in (entry, *_beside(entry, added))]


def _beside(entry: Entry, added: dict[str, Entry]) -> list[Entry]:
    return [added[entry.name]] if entry.name in added else []


def _entry(beside: Entry, model: FineTuned, folder: Path, dense: DenseModel) -> Entry:
    """Return the entry of a fine-tuned model, or of the control, beside the one that it compares with."""
    if model.plan is not None and model.plan_sha256 != beside.plan.digest():
        raise InputError(
            f"{folder} holds {model.name} of another plan than this pack's",
            hint="name the scores whose plans were fine-tuned, with the same options: --scores PACK.scores",
        )
    if model.gate_weights is not None and model.gate != LEARNED:
        raise InputError(f"{folder}: gate {model.gate} of {model.name} cannot be made, expected one that was learned")
    role: Role = "control" if model.plan is None else "finetuned"
    return Entry(
        CONTROL if model.plan is None else f"{model.name}.finetuned",
        load_finetuned(folder, model.name, dense),
        beside.plan,
        gate_name=model.gate,
        reduction=model.reduction,
        role=role,
        compares_with=beside.name,
        form=beside.form,
    )
