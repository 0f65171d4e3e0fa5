"""A recipe turned into timm's optimiser and schedule, and refused where it cannot be followed."""

from __future__ import annotations

import difflib
import math

from timm.optim import create_optimizer_v2, list_optimizers, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from heartvit_edge.data.listing import Listing
from heartvit_edge.errors import InputError
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.spec.finetune import Anneal, FinetuneRecipe

# They need packages of their own, second derivatives, or a closure.
_UNFIT_OPTIMIZERS = ("adahessian", "bnb", "fused")

_SCHEDULES: dict[str, dict[str, object]] = {
    "cosine": {"sched": "cosine"},
    "linear": {"sched": "poly", "decay_rate": 1.0},
    "constant": {"sched": "step", "decay_rate": 1.0},
}


def optimizers() -> list[str]:
    """Return the names of timm's optimisers that a recipe may name."""
    return [name for name in list_optimizers() if not name.startswith(_UNFIT_OPTIMIZERS)]


def check_recipe(recipe: FinetuneRecipe, images: Listing, *, control: bool) -> None:
    """Return only if the recipe can be followed on these training images.

    Args:
        recipe: The settings.
        images: The training images.
        control: Whether the dense model is to be trained too.

    Raises:
        InputError: If the optimiser is unknown, a term needs labels that are not there, the images are fewer than one
            step takes, or gates alone are trained and another setting is for weights or leaves nothing to train.
    """
    known = optimizers()
    if recipe.optimizer not in known:
        close = difflib.get_close_matches(recipe.optimizer, known, n=3)
        raise InputError(
            f"timm has no optimiser {recipe.optimizer!r} that fits here", hint=f"--optimizer {(close or ['adamw'])[0]}"
        )
    if recipe.label_weight and images.labels is None:
        raise InputError(
            f"--label-weight {recipe.label_weight:g} needs labels, and {images.name} has none",
            hint="leave --label-weight out: distillation needs no labels",
        )
    if recipe.images_per_step > images.num_images:
        raise InputError(
            f"a step takes {recipe.images_per_step} images, and there are {images.num_images} to train on",
            hint=f"--batch-size {max(1, images.num_images // (recipe.accumulate * recipe.num_processes))}",
        )
    if recipe.gates_only and (recipe.token_weight or recipe.feature_weight):
        raise InputError(
            "--token-weight and --feature-weight teach the weights, which --gates-only leaves alone",
            hint="leave them out",
        )
    if recipe.gates_only and not recipe.gate_weight:
        raise InputError(
            "--gate-weight 0 leaves the gate as it is, and --gates-only all else: nothing would be trained",
            hint="leave one of them out",
        )
    if recipe.gates_only and control:
        raise InputError(
            "--gates-only trains no weights, so that the dense model is its own control", hint="leave --control out"
        )


def make_optimizer(model: GatedViT, recipe: FinetuneRecipe) -> Optimizer:
    """Return timm's optimiser over what is trainable, the gate's weights at a learning rate of their own."""
    groups = _groups(model.backbone, recipe.weight_decay, recipe.learning_rate, model.backbone.no_weight_decay())
    if model.gate is not None:
        groups += _groups(model.gate, recipe.weight_decay, recipe.gate_learning_rate, ())
    return create_optimizer_v2(groups, opt=recipe.optimizer, lr=recipe.learning_rate)


def _groups(
    module: nn.Module, weight_decay: float, learning_rate: float, no_weight_decay: object
) -> list[dict[str, object]]:
    """Return the module's trainable parameters: matrices, which decay, apart from vectors and position embeddings."""
    found = param_groups_weight_decay(module, weight_decay, no_weight_decay_list=no_weight_decay)
    return [group | {"lr": learning_rate} for group in found]


def make_schedule(optimizer: Optimizer, recipe: FinetuneRecipe, steps_per_epoch: int) -> Scheduler:
    """Return timm's schedule; ``step_update(n)`` sets the learning rates of step n, whatever came before."""
    schedule, _ = create_scheduler_v2(
        optimizer,
        num_epochs=recipe.epochs,
        min_lr=recipe.min_learning_rate,
        warmup_lr=recipe.min_learning_rate,
        warmup_epochs=recipe.warmup_epochs,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
        **_SCHEDULES[recipe.schedule],
    )
    return schedule


def removal_temperature(start: float, end: float, anneal: Anneal, done: float) -> float:
    """Return the temperature of the relaxed removal after a share ``done`` of the training, in [0, 1]."""
    if anneal == "exponential":
        return float(start * (end / start) ** done)
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
