"""A fine-tune from end to end: every pruned model and, if asked for, the dense control, by one recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from heartvit_edge import __version__
from heartvit_edge.data.images import ImageSet
from heartvit_edge.finetune.accuracy import HeldOut
from heartvit_edge.finetune.data import TrainingImages
from heartvit_edge.finetune.folder import LOGS, STATES, open_run, store
from heartvit_edge.finetune.loop import train
from heartvit_edge.finetune.processes import first_process
from heartvit_edge.finetune.recipe import check_recipe
from heartvit_edge.finetune.subject import Subject, check_subject
from heartvit_edge.finetune.training import Shared, Watch
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.spec.base import Spec
from heartvit_edge.spec.finetune import FINETUNE, FinetuneRecipe, FinetuneRun


@dataclass(frozen=True)
class Means:
    """What a fine-tune runs with, and on which its result does not depend.

    Attributes:
        accelerator: The processes.
        workers: Processes that prepare images; 0: none but this.
        save_every: Steps between two stored states within an epoch.
        tell: Told what happens.
        watch: Shows progress.
    """

    accelerator: Accelerator
    workers: int
    save_every: int
    tell: Callable[[str], None]
    watch: Watch


def finetune(
    dense: DenseModel,
    subjects: Sequence[Subject],
    images: ImageSet,
    held_out: ImageSet,
    recipe: FinetuneRecipe,
    out: Path,
    means: Means,
    *,
    force: bool = False,
) -> FinetuneRun:
    """Train each subject that ``out`` does not hold yet, and return all that it holds.

    Args:
        dense: The dense model: what the subjects are made from, and what teaches them; moved to the CPU.
        subjects: Pruned models and, last, the control.
        images: The training images.
        held_out: Other images, on which answers are counted after each epoch.
        recipe: The settings.
        out: Folder of the run.
        means: What it runs with.
        force: Begin again in place of a run at ``out``.

    Raises:
        InputError: If a subject or the recipe does not fit the model or the images, or ``out`` holds another run.
        CheckError: If the loss is no longer a number.
    """
    dense.module.cpu()
    wants_control = any(subject.plan is None for subject in subjects)
    check_recipe(recipe, images, control=wants_control)
    for subject in subjects:
        check_subject(subject, dense, recipe)
    accelerator = means.accelerator
    wanted: dict[str, Spec] = {
        "source": dense.source,
        "shape": dense.shape,
        "preprocessing": dense.preprocessing,
        "images": images.ref(),
        "held_out": held_out.ref(),
        "recipe": recipe,
    }
    run = first_process(accelerator, lambda: open_run(out, wanted, subjects, force=force))
    missing = [subject for subject in subjects if run is None or run.find(subject.name) is None]
    for subject in subjects:
        if subject not in missing:
            means.tell(f"{subject.name}: {out} holds it already")
    if run is not None and not missing:
        return run
    teacher = Subject(None, None).model(dense).to(accelerator.device)
    counted = HeldOut(
        held_out,
        dense.preprocessing,
        teacher,
        accelerator,
        batch_size=recipe.batch_size,
        workers=means.workers,
    )
    if run is None:
        run = FinetuneRun(**wanted, dense=counted.dense, entries=(), tool_version=__version__)
        _write(run, out, accelerator)
    shared = Shared(
        accelerator=accelerator,
        recipe=recipe,
        dense=teacher,
        images=TrainingImages(images, dense.preprocessing, recipe.augmentation, recipe.seed),
        num_images=len(images),
        held_out=counted,
        workers=means.workers,
        save_every=means.save_every,
        tell=means.tell,
        watch=means.watch,
    )
    for subject in missing:
        state = out / STATES / f"{subject.name}.pt"
        trained = train(
            subject.name,
            subject.model(dense),
            subject.digest(),
            shared,
            patience=recipe.patience if subject.plan is not None else None,  # the control answers at every epoch
            state_path=state,
            logs=out / LOGS / subject.name,
        )
        entry = first_process(accelerator, lambda: store(subject, trained, out))  # noqa: B023  # called at once
        run = run.model_copy(update={"entries": (*run.entries, entry)})
        _write(run, out, accelerator)
        if accelerator.is_main_process:
            state.unlink()
    return run


def _write(run: FinetuneRun, out: Path, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        run.write(out / FINETUNE, force=True)
