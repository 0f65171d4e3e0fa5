"""The steps of one model's training, and where it stands."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer

from heartvit_edge.errors import CheckError
from heartvit_edge.finetune.accuracy import HeldOut
from heartvit_edge.finetune.data import TrainingImages, epoch_batches, make_loader
from heartvit_edge.finetune.distill import Student, answer_of, weighted_terms
from heartvit_edge.finetune.logs import Logs
from heartvit_edge.finetune.recipe import make_optimizer, make_schedule, removal_temperature
from heartvit_edge.finetune.state import TrainingState, Weights
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.spec.finetune import Answers, EpochRecord, FinetuneRecipe

CHECK_EVERY = 10
"""Steps between two looks at the loss, which make a GPU wait."""

Watch = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows the progress of so many steps under a name, and gives what moves it."""


@dataclass(frozen=True)
class Shared:
    """What the trainings of one run have in common.

    Attributes:
        accelerator: The processes.
        recipe: The settings.
        dense: The dense model, on the accelerator's device.
        images: The training inputs.
        num_images: How many there are.
        held_out: What answers are counted on.
        workers: Processes that prepare images.
        save_every: Steps between two stored states within an epoch.
        tell: Told one line an epoch.
        watch: Shows progress.
    """

    accelerator: Accelerator
    recipe: FinetuneRecipe
    dense: GatedViT
    images: TrainingImages
    num_images: int
    held_out: HeldOut
    workers: int
    save_every: int
    tell: Callable[[str], None]
    watch: Watch

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch; images that fill no step are left out."""
        return self.num_images // self.recipe.images_per_step


@dataclass(frozen=True)
class Trained:
    """A model that is done.

    Attributes:
        before: The answers before the first step.
        history: One record an epoch.
        epoch: The epoch whose weights these are.
        weights: Tensors of the gated model.
    """

    before: Answers
    history: tuple[EpochRecord, ...]
    epoch: int
    weights: Weights


class Training:
    """A model with its optimiser, schedule and moving average, and where it stands."""

    def __init__(self, model: GatedViT, shared: Shared, stored: TrainingState | None) -> None:
        """Put the model on the device, and everything where the stored state left it; None begins."""
        recipe, accelerator = shared.recipe, shared.accelerator
        self.shared, self.model = shared, model.to(accelerator.device)
        student = Student(
            model,
            gates_only=recipe.gates_only,
            teach_gate=recipe.gate_weight > 0,
            grad_checkpointing=recipe.grad_checkpointing,
        )
        self.optimizer: Optimizer = make_optimizer(model, recipe)
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        self.state = stored if stored is not None else TrainingState(subject="")
        if stored is not None:
            model.load_state_dict(stored.model)
            self.optimizer.load_state_dict(stored.optimizer)
            if self.ema is not None and stored.ema is not None:
                self.ema.module.load_state_dict(stored.ema)
        self.schedule: Scheduler = make_schedule(self.optimizer, recipe, shared.steps_per_epoch)
        self.student: nn.Module = accelerator.prepare(student)

    @property
    def kept(self) -> GatedViT:
        """The model whose answers count: the moving average where there is one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def step_number(self) -> int:
        """Steps that are complete in all."""
        return self.state.epoch * self.shared.steps_per_epoch + self.state.step

    @property
    def is_at_rest(self) -> bool:
        """Whether an epoch moved no weight, and none will: every loss in it was exactly 0, and nothing decays."""
        history = self.state.history
        return bool(history) and history[-1]["loss"] == 0 and self.shared.recipe.weight_decay == 0

    def run_epoch(self, log: Logs, save: Callable[[], None], advance: Callable[[int], None]) -> None:
        """Run the steps that are left of the epoch."""
        shared, recipe, state = self.shared, self.shared.recipe, self.state
        batches = epoch_batches(
            shared.num_images,
            state.epoch + 1,
            recipe.seed,
            batch_size=recipe.batch_size,
            accumulate=recipe.accumulate,
            num_processes=recipe.num_processes,
            rank=shared.accelerator.process_index,
        )
        loader = iter(make_loader(shared.images, batches[state.step * recipe.accumulate :], shared.workers))
        loss_sum = torch.tensor(state.loss_sum, dtype=torch.float64, device=shared.accelerator.device)
        self.student.train()
        while state.step < shared.steps_per_epoch:
            terms = self._step([next(loader) for _ in range(recipe.accumulate)])
            loss_sum = loss_sum + sum(terms.values())
            state.step += 1
            is_last, saves = state.step == shared.steps_per_epoch, state.step % shared.save_every == 0
            if is_last or saves or state.step % CHECK_EVERY == 0:
                state.loss_sum = _mean_over_processes(shared.accelerator, loss_sum)
                log.terms(self.step_number, terms, self.optimizer.param_groups[0]["lr"])
            if saves and not is_last:
                save()
            advance(1)

    def _step(self, batches: list[list[Tensor]]) -> dict[str, Tensor]:
        """Take one step of the optimiser; return the terms of its loss, without gradients."""
        shared, recipe, number = self.shared, self.shared.recipe, self.step_number
        self.schedule.step_update(number)
        done = number / max(1, recipe.epochs * shared.steps_per_epoch - 1)
        temperature = removal_temperature(recipe.removal_start, recipe.removal_end, recipe.removal_anneal, done)
        # A gate may draw, for dropout. What it draws depends on the step alone, so that a resumed run draws the same.
        draws = np.random.SeedSequence([recipe.seed, number, shared.accelerator.process_index])
        torch.manual_seed(int(draws.generate_state(1)[0]))
        total: dict[str, Tensor] = {}
        for index, (inputs, labels) in enumerate(batches):
            shares_gradient = index == len(batches) - 1
            with nullcontext() if shares_gradient else shared.accelerator.no_sync(self.student):
                terms = self._loss(inputs, labels, temperature)
                loss = torch.stack(list(terms.values())).sum() / len(batches)
                loss.backward()
            for name, value in terms.items():
                total[name] = total.get(name, 0) + value.detach() / len(batches)
        if recipe.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.model, step=number)
        return total

    def _loss(self, inputs: Tensor, labels: Tensor, temperature: float) -> dict[str, Tensor]:
        """Return the weighted terms of the loss of a batch."""
        device = self.shared.accelerator.device
        inputs, labels = inputs.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        # The dense model runs through the student's own functions: a control, which begins with the same weights, then
        # answers the same to the last bit, and learns nothing where nothing but the dense model teaches it.
        with torch.no_grad(), self.shared.accelerator.autocast():
            target = answer_of(self.shared.dense, inputs)
        answer = self.student(inputs, temperature)
        return weighted_terms(answer, target, labels, self.shared.recipe, self.model.backbone.num_prefix_tokens)

    def finish_epoch(self, *, keep_best: bool) -> EpochRecord:
        """Count the held-out answers, and begin the next epoch."""
        shared, state = self.shared, self.state
        found = shared.held_out.answers(self.kept)
        past = [Answers.model_validate(record["held_out"]).kl_nats for record in state.history]
        record = EpochRecord(
            loss=state.loss_sum / shared.steps_per_epoch,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            held_out=found,
        )
        state.history.append(record.model_dump())
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
        if keep_best and found.kl_nats < min(past, default=math.inf):
            state.best_epoch = state.epoch
            state.best = {key: value.detach().cpu().clone() for key, value in self.kept.state_dict().items()}
        return record

    def write(self, path: Path) -> None:
        """Store where the training stands."""
        if not self.shared.accelerator.is_main_process:
            return
        self.state.model, self.state.optimizer = self.model.state_dict(), self.optimizer.state_dict()
        self.state.ema = None if self.ema is None else self.ema.module.state_dict()
        self.state.write(path)


def _mean_over_processes(accelerator: Accelerator, value: Tensor) -> float:
    """Return the mean of every process's value.

    Raises:
        CheckError: In every process, if it is no number.
    """
    mean = float(accelerator.reduce(value, reduction="mean").item())
    if not math.isfinite(mean):
        raise CheckError(
            f"the loss is {mean}, expected a number: the training diverged",
            hint="take a smaller --lr or --gate-lr; what was stored is from before",
        )
    return mean
