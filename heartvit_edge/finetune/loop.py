"""Training of one model: its epochs, when it ends, and what is stored on the way."""

from __future__ import annotations

from pathlib import Path

from heartvit_edge.finetune.logs import Logs
from heartvit_edge.finetune.processes import first_process
from heartvit_edge.finetune.state import TrainingState, read_state
from heartvit_edge.finetune.training import Shared, Trained, Training
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.spec.finetune import Answers, EpochRecord


def train(
    name: str, model: GatedViT, subject: str, shared: Shared, *, patience: int | None, state_path: Path, logs: Path
) -> Trained:
    """Train a model from where its stored state stands, or from the beginning.

    Args:
        name: Of the model, for messages.
        model: What is trained, in place.
        subject: Digest of it before training; a stored state of another is refused.
        shared: Recipe, images and processes.
        patience: Epochs without a smaller held-out KL after which the training ends; None: never.
        state_path: Where the state is stored.
        logs: Folder for TensorBoard.

    Raises:
        InputError: If the stored state is of another model.
        CheckError: If the loss is no longer a number; the last stored state is from before.
    """
    training = Training(model, shared, first_process(shared.accelerator, lambda: read_state(state_path, subject)))
    state = training.state
    if not state.subject:
        state.subject, state.before = subject, shared.held_out.answers(model).model_dump()
    elif state.epoch < shared.recipe.epochs:
        shared.tell(f"{name}: goes on after epoch {state.epoch}, step {state.step}")
    with Logs.open(logs, training.step_number, enabled=shared.accelerator.is_main_process) as log:
        while state.epoch < shared.recipe.epochs and not (_is_over(state, patience) or training.is_at_rest):
            remaining = shared.steps_per_epoch - state.step
            with shared.watch(f"{name}: epoch {state.epoch + 1} of {shared.recipe.epochs}", remaining) as advance:
                training.run_epoch(log, lambda: training.write(state_path), advance)
            record = training.finish_epoch(keep_best=patience is not None)
            training.write(state_path)
            log.answers(training.step_number, record.held_out)
            shared.tell(f"{name}: epoch {state.epoch}: {describe(record)}")
        if training.is_at_rest and state.epoch < shared.recipe.epochs:
            shared.tell(f"{name}: ends here: the loss is exactly 0, so that more epochs would change nothing")
    best = state.best is not None
    weights = state.best if state.best is not None else training.kept.state_dict()
    return Trained(
        before=Answers.model_validate(state.before),
        history=tuple(EpochRecord.model_validate(record) for record in state.history),
        epoch=state.best_epoch if best else state.epoch,
        weights={key: value.detach().cpu().contiguous() for key, value in weights.items()},
    )


def _is_over(state: TrainingState, patience: int | None) -> bool:
    return patience is not None and state.epoch - state.best_epoch >= patience


def describe(record: EpochRecord) -> str:
    """Return an epoch in one line."""
    found = record.held_out
    text = (
        f"loss {record.loss:.4g}, held-out KL {found.kl_nats:.4g} nats, "
        f"agreement {found.num_agreeing / found.num_images:.1%}"
    )
    return text if found.num_correct is None else f"{text}, top-1 {found.num_correct / found.num_images:.1%}"
