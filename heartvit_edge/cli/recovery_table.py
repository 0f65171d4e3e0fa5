"""The table of what a fine-tune brought back, always beside what the same training gives the dense model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heartvit_edge.cli.table import aligned

if TYPE_CHECKING:
    from heartvit_edge.spec.finetune import Answers, FinetuneRun

NO_CONTROL = "no control: --control"


def recovery_table(run: FinetuneRun) -> str:
    """Return the answers on held-out images of the dense model, the control, and each plan before and after.

    The last column says how much of the distance to the control a fine-tune took back, in points of top-1 where there
    are labels, else of agreement. The control is read after as many epochs as the plan's kept weights have had.
    """
    rows = [_row("dense", 0, run.dense, "")]
    pruned = [entry for entry in run.entries if entry.plan is not None]
    if not run.recipe.gates_only:
        for epoch in sorted({entry.epoch for entry in pruned} or {run.recipe.epochs}):
            if (control := run.control_at(epoch)) is not None:
                rows.append(_row("control", epoch, control, ""))
    for entry in pruned:
        control = run.control_at(entry.epoch)
        rows.append(_row(entry.name, 0, entry.before, ""))
        rows.append(_row(entry.name, entry.epoch, entry.after, _recovered(entry.before, entry.after, control)))
    header = ("entry", "epochs", "top-1 % (95 % CI)", "agreement % (95 % CI)", "KL nats", "recovery over control")
    return "\n".join([aligned(header, rows), *_notes(run)])


def _row(name: str, epoch: int, answers: Answers, recovered: str) -> tuple[str, ...]:
    top1 = "-" if answers.num_correct is None else _share(answers.num_correct, answers.num_images)
    agreement = _share(answers.num_agreeing, answers.num_images)
    return name, str(epoch), top1, agreement, f"{answers.kl_nats:.3g}", recovered


def _share(count: int, total: int) -> str:
    """Return a share in percent with its Wilson interval."""
    from heartvit_edge.bench.statistics import wilson

    low, high = wilson(count, total)
    return f"{100 * count / total:.1f} ({100 * low:.1f}\N{EN DASH}{100 * high:.1f})"


def _recovered(before: Answers, after: Answers, control: Answers | None) -> str:
    """Return the points won, of those that lay between the pruned model and the control."""
    if control is None:
        return NO_CONTROL
    start, reached, goal = (_points(answers) for answers in (before, after, control))
    return f"{reached - start:+.1f} of {goal - start:+.1f} points"


def _points(answers: Answers) -> float:
    right = answers.num_agreeing if answers.num_correct is None else answers.num_correct
    return 100 * right / answers.num_images


def _notes(run: FinetuneRun) -> list[str]:
    recipe, labelled = run.recipe, run.dense.num_correct is not None
    notes = [
        f"{run.held_out.num_images} held-out images of {run.held_out.name}; recovery in points of "
        + ("top-1" if labelled else "agreement, as the images have no labels")
    ]
    if recipe.gates_only:
        notes.append("only gates were trained: the dense model is its own control")
    elif not recipe.label_weight and run.control_at(1) is not None:
        notes.append("without --label-weight the dense model alone teaches, and the control has nothing to learn")
    if recipe.patience is not None:
        notes.append("the epochs were chosen on these images, so that what is shown after them flatters a little")
    return notes
