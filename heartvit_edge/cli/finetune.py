"""``heartvit-edge finetune``: teach pruned models by the dense one, beside a control that is trained alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from heartvit_edge.cli import finetune_options as wanted
from heartvit_edge.cli import host_options as options
from heartvit_edge.cli.console import is_first_process, progress_bar, say
from heartvit_edge.cli.recovery_table import recovery_table
from heartvit_edge.errors import InputError

if TYPE_CHECKING:
    from heartvit_edge.spec.finetune import FinetuneRecipe


def finetune(
    plans: wanted.Plans,
    model: options.Model,
    data: options.Data,
    out: wanted.Out,
    weights: options.Weights = None,
    img_size: options.ImgSize = None,
    model_kwargs: options.ModelKwargs = None,
    budget: wanted.Labels = None,
    gate: wanted.Gate = None,
    control: wanted.Control = False,
    epochs: wanted.Epochs = 10,
    num_images: wanted.TrainImages = None,
    held_out_images: wanted.HeldOutImages = 256,
    batch_size: wanted.TrainBatch = 64,
    accumulate: wanted.Accumulate = 1,
    optimizer: wanted.OptimizerName = "adamw",
    lr: wanted.Rate = 5e-6,
    gate_lr: wanted.GateRate = None,
    min_lr: wanted.MinRate = 1e-6,
    weight_decay: wanted.WeightDecay = 0.0,
    schedule: wanted.ScheduleOption = wanted.ScheduleName.cosine,
    warmup_epochs: wanted.Warmup = 0.0,
    clip_grad: wanted.Clip = 1.0,
    augment: wanted.Augment = wanted.AugmentationName.light,
    temperature: wanted.Temperature = 1.0,
    token_weight: wanted.TokenWeight = 0.0,
    feature_weight: wanted.FeatureWeight = None,
    label_weight: wanted.LabelWeight = 0.0,
    gates_only: wanted.GatesOnly = False,
    gate_weight: wanted.GateWeight = None,
    removal_start: wanted.RemovalStart = None,
    removal_end: wanted.RemovalEnd = None,
    removal_anneal: wanted.RemovalAnneal = None,
    ema: wanted.Ema = None,
    patience: wanted.Patience = None,
    amp: wanted.Amp = None,
    grad_checkpointing: wanted.Checkpointing = False,
    workers: wanted.Workers = None,
    save_every: wanted.SaveEvery = 500,
    seed: options.Seed = 0,
    force: options.Force = False,
) -> None:
    """Train the pruned models of a pack, or one plan, to answer as the dense MODEL does.

    Labels are not needed. --control trains the dense model by the same recipe, which is what a recovery is to be held
    against. Prints what came back on held-out images, and the path of the run's finetune.json. The same command goes
    on where it was stopped, and can add --control later; accelerate launch or torchrun share the work among GPUs or
    machines.

    Example: heartvit-edge finetune pack deit_small_patch16_224 --data images/ --epochs 10 --control --out tuned
    """
    from heartvit_edge.cli.requirements import commands

    if lack := commands()["finetune"]():
        raise lack
    from heartvit_edge.finetune.data import default_workers
    from heartvit_edge.finetune.processes import choose_precision, join_processes
    from heartvit_edge.finetune.run import Means
    from heartvit_edge.finetune.run import finetune as run_finetune
    from heartvit_edge.finetune.subject import Subject, check_subject
    from heartvit_edge.model.zoo import load_dense
    from heartvit_edge.spec.finetune import FINETUNE

    taught = wanted.gate_settings(gate_weight, gate_lr, removal_start, removal_end, removal_anneal, alone=gates_only)
    subjects, pack = wanted.read_plans(plans, budget or [], gate)
    precision = choose_precision(amp)
    with join_processes(precision, gate_has_weights=any(subject.gate_sha256 for subject in subjects)) as accelerator:
        recipe = _recipe(
            epochs=epochs,
            batch_size=batch_size,
            accumulate=accumulate,
            num_processes=accelerator.num_processes,
            optimizer=optimizer,
            learning_rate=lr,
            min_learning_rate=min_lr,
            weight_decay=weight_decay,
            schedule=schedule.value,
            warmup_epochs=warmup_epochs,
            clip_grad=clip_grad or None,
            augmentation=augment.value,
            temperature=temperature,
            token_weight=token_weight,
            feature_weight=float(not gates_only) if feature_weight is None else feature_weight,
            label_weight=label_weight,
            gates_only=gates_only,
            **taught,
            ema_decay=ema,
            patience=patience,
            precision=precision,
            grad_checkpointing=grad_checkpointing,
            seed=seed,
        )
        dense = load_dense(model, weights=weights or (), img_size=img_size, model_kwargs=model_kwargs or ())
        for subject in subjects:
            check_subject(subject, dense, recipe)
        train, held_out = wanted.load_training_images(
            data, num_images, held_out_images, seed, pack.classes if pack else (), dense.shape.num_classes
        )
        say(f"matrix products in {precision}, on {accelerator.num_processes} x {accelerator.device.type}")
        run = run_finetune(
            dense,
            [*subjects, Subject(None, None)] if control else subjects,
            train,
            held_out,
            recipe,
            out,
            Means(accelerator, default_workers() if workers is None else workers, save_every, say, progress_bar),
            force=force,
        )
    if is_first_process():
        typer.echo(recovery_table(run))
        typer.echo(out / FINETUNE)


def _recipe(**settings: object) -> FinetuneRecipe:
    """Return the recipe.

    Raises:
        InputError: If a number is outside its range; the message names it.
    """
    from pydantic import ValidationError

    from heartvit_edge.spec.finetune import FinetuneRecipe

    try:
        return FinetuneRecipe.model_validate(settings)
    except ValidationError as err:
        first = err.errors()[0]
        name = str(first["loc"][0])
        raise InputError(f"{name} is {settings[name]}: {first['msg']}", hint="heartvit-edge finetune --help") from err
