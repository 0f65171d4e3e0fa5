"""Options of ``heartvit-edge finetune``, and what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heartvit_edge.cli.console import progress_bar, say
from heartvit_edge.errors import InputError

if TYPE_CHECKING:
    from heartvit_edge.data.images import ImageSet
    from heartvit_edge.finetune.subject import Subject
    from heartvit_edge.spec.pack import BudgetPack, PackEntry
    from heartvit_edge.spec.plan import PruningPlan


class AugmentationName(str, Enum):
    """Augmentations that can be asked for."""

    none = "none"
    crop = "crop"
    light = "light"
    strong = "strong"


class ScheduleName(str, Enum):
    """Schedules that can be asked for."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"


class AnnealName(str, Enum):
    """Ways in which the relaxed removal's temperature may fall."""

    cosine = "cosine"
    exponential = "exponential"


Plans = Annotated[
    Path, typer.Argument(metavar="PACK|PLAN.json", help="Budget pack, or one pruning plan.", show_default=False)
]
Out = Annotated[Path, typer.Option(metavar="RUN", help="Folder of the fine-tune.", show_default=False)]
Labels = Annotated[
    list[str] | None, typer.Option("--budget", help="Entry of PACK to train; repeat for more.", show_default="all")
]
Gate = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|GATE.json",
        help="What chooses tokens, for a PLAN.json: class-attention, attention-received, or the file of a gate that "
        "`export --gate learned` taught for that plan.",
        show_default="what fits the pooling",
    ),
]
Control = Annotated[
    bool, typer.Option("--control", help="Train the dense model too, by the same recipe on the same images.")
]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the training images.")]
TrainImages = Annotated[int | None, typer.Option("--num-images", min=1, help="Images to train on.", show_default="all")]
HeldOutImages = Annotated[int, typer.Option(min=2, help="Further images, to count answers on after each epoch.")]
TrainBatch = Annotated[int, typer.Option("--batch-size", min=1, help="Images a forward, on each process.")]
Accumulate = Annotated[int, typer.Option(min=1, help="Forwards a step of the optimiser.")]
OptimizerName = Annotated[str, typer.Option("--optimizer", help="timm's name of the optimiser.")]
Rate = Annotated[float, typer.Option("--lr", help="Peak learning rate.")]
GateRate = Annotated[
    float | None, typer.Option("--gate-lr", help="Peak learning rate of a gate's weights.", show_default="0.001")
]
MinRate = Annotated[float, typer.Option("--min-lr", help="Learning rate at the start of a warm-up and at the end.")]
WeightDecay = Annotated[float, typer.Option(min=0, help="Weight decay of matrices.")]
ScheduleOption = Annotated[ScheduleName, typer.Option(help="How the learning rate falls.")]
Warmup = Annotated[float, typer.Option("--warmup-epochs", min=0, help="Epochs of linear warm-up.")]
Clip = Annotated[float, typer.Option("--clip-grad", min=0, help="Largest norm of the gradient; 0: no limit.")]
Augment = Annotated[
    AugmentationName,
    typer.Option(
        "--augment",
        help="none: timm's evaluation preprocessing; crop: random resized crop; light: and flip; strong: and "
        "RandAugment and random erasing.",
    ),
]
Temperature = Annotated[float, typer.Option(help="Of the softmax in the distillation.")]
TokenWeight = Annotated[float, typer.Option(min=0, help="Of the error of the kept patches' final features.")]
FeatureWeight = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Of the error of the feature that the classifier reads.",
        show_default="1, and 0 with --gates-only",
    ),
]
LabelWeight = Annotated[float, typer.Option(min=0, help="Of the cross-entropy with the labels.")]
GatesOnly = Annotated[bool, typer.Option("--gates-only", help="Train a gate's weights and leave the others alone.")]
GateWeight = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Of the relaxed forward's distillation, which teaches a gate; 0 leaves its weights as they are.",
        show_default="0, and 1 with --gates-only",
    ),
]
RemovalStart = Annotated[
    float | None,
    typer.Option(
        help="Temperature of the relaxed removal at first, in standard deviations of the scores.", show_default="1"
    ),
]
RemovalEnd = Annotated[float | None, typer.Option(help="The same at last.", show_default="0.05")]
RemovalAnneal = Annotated[AnnealName | None, typer.Option(help="How it falls.", show_default="cosine")]
Ema = Annotated[
    float | None,
    typer.Option("--ema", help="Decay of a moving average of the weights, which is kept.", show_default="none"),
]
Patience = Annotated[
    int | None,
    typer.Option(
        min=1, help="Stop a plan's training after so many epochs without a smaller held-out KL.", show_default="never"
    ),
]
Amp = Annotated[
    bool | None,
    typer.Option("--amp/--no-amp", help="Matrix products in bf16, on CUDA.", show_default="where the GPU has it"),
]
Checkpointing = Annotated[
    bool, typer.Option("--grad-checkpointing", help="Less memory: compute activations again in the backward pass.")
]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Processes that prepare images.", show_default="up to 4, by the CPUs")
]
SaveEvery = Annotated[int, typer.Option(min=1, help="Steps after which a state is stored within an epoch.")]


def gate_settings(
    weight: float | None,
    rate: float | None,
    start: float | None,
    end: float | None,
    anneal: AnnealName | None,
    *,
    alone: bool,
) -> dict[str, float | str]:
    """Return the recipe's settings of what teaches a gate; those that are not given stay the recipe's own.

    Args:
        weight: ``--gate-weight``.
        rate: ``--gate-lr``.
        start: ``--removal-start``, in standard deviations of the scores.
        end: ``--removal-end``, the same.
        anneal: ``--removal-anneal``.
        alone: Whether a gate's weights alone are trained.

    Raises:
        InputError: If one is given and the gate keeps its weights, so that it would have no effect.
    """
    wanted = float(alone) if weight is None else weight
    options = {
        "--gate-lr": ("gate_learning_rate", rate),
        "--removal-start": ("removal_start", start),
        "--removal-end": ("removal_end", end),
        "--removal-anneal": ("removal_anneal", None if anneal is None else anneal.value),
    }
    given = {name: (field, value) for name, (field, value) in options.items() if value is not None}
    if given and not wanted and not alone:
        raise InputError(
            f"{next(iter(given))} is for teaching a gate, and here it keeps its weights",
            hint="add --gate-weight 1, or --gates-only",
        )
    return {"gate_weight": wanted, **dict(given.values())}


def read_plans(path: Path, labels: Sequence[str], gate: str | None) -> tuple[list[Subject], BudgetPack | None]:
    """Return what is to be trained, without the control, and the pack that it is from, if it is from one.

    Raises:
        InputError: If there is no such pack, entry, plan or gate, ``labels`` are given for a plan or a gate for a pack,
            or an entry cannot be trained.
        CheckError: If a file of the pack, or a gate's, was altered.
    """
    from heartvit_edge.finetune.subject import Subject
    from heartvit_edge.gating.gate import default_gate
    from heartvit_edge.spec.pack import BudgetPack
    from heartvit_edge.spec.plan import PruningPlan

    if not path.is_dir():
        if labels:
            raise InputError(f"--budget picks entries of a pack, and {path} is one plan", hint="leave --budget out")
        plan = PruningPlan.read(path)
        if not plan.sites:
            return [Subject(plan, None)], None
        return [Subject(plan, default_gate(plan.shape)) if gate is None else _gated(plan, gate)], None
    pack = BudgetPack.open(path)
    if gate is not None:
        raise InputError(f"the entries of {path} have their gates", hint="leave --gate out, or name a PLAN.json")
    picked = [pack.entry(label) for label in dict.fromkeys(labels)]
    entries = picked or [entry for entry in pack.entries if entry.role == "pruned"]
    if not entries:
        raise InputError(f"{path} holds the dense model alone", hint="export it with a --budget below 1")
    return [_subject(entry, path) for entry in entries], pack


def _subject(entry: PackEntry, pack: Path) -> Subject:
    """Return an entry's plan with what chooses its tokens, before any training.

    Raises:
        InputError: If it is no budget's own entry, its tokens are not dropped, or its gate cannot be made.
    """
    from heartvit_edge.finetune.subject import Subject
    from heartvit_edge.gating.gate import GATES
    from heartvit_edge.gating.stored import load_gate_weights
    from heartvit_edge.spec.pack import AGAIN

    if entry.role not in ("dense", "pruned"):
        raise InputError(
            f"{entry.name} is a {entry.role} entry, and a training starts from a budget's own",
            hint="--control" if entry.role == "control" else f"--budget {entry.compares_with}",
        )
    if entry.plan.sites and entry.reduction not in ("drop", "join"):
        raise InputError(
            f"{entry.name} does not drop tokens but {entry.reduction}s them, which is not trained",
            hint="export with --reduction drop",
        )
    if entry.gate_weights is not None and entry.gate_weights_sha256 is not None:
        weights = pack / entry.gate_weights
        gate = load_gate_weights(weights, entry.gate_weights_sha256, entry.plan, AGAIN)
        return Subject(entry.plan, gate, entry.reduction)
    if entry.gate is not None and entry.gate not in GATES:
        raise InputError(f"the pack's gate {entry.gate!r} cannot be made, only {', '.join(GATES)} can")
    return Subject(entry.plan, entry.gate)


def _gated(plan: PruningPlan, text: str) -> Subject:
    """Return a plan with the gate that ``--gate`` names: by its name, or what a file holds.

    Raises:
        InputError: If there is no such gate, or it is of another plan.
        CheckError: If its tensors were altered.
    """
    from heartvit_edge.finetune.subject import Subject
    from heartvit_edge.gating.gate import GATES
    from heartvit_edge.gating.stored import load_gate
    from heartvit_edge.spec.gate import TrainedGate

    for name in GATES:
        if text == name:
            return Subject(plan, name)
    if not text.endswith(".json"):
        raise InputError(
            f"--gate {text!r} is no gate, expected one of {', '.join(GATES)}, or a GATE.json",
            hint=f"--gate SCORES/gates/{plan.label}.json",
        )
    path = Path(text)
    return Subject(plan, load_gate(path, plan), TrainedGate.read(path).reduction)


def load_training_images(
    data: Path, num_images: int | None, held_out_images: int, seed: int, classes: Sequence[str], num_classes: int
) -> tuple[ImageSet, ImageSet]:
    """Return the images to train on and the held-out ones, with a bar on stderr.

    Raises:
        InputError: If there are too few images, or they cannot be used.
    """
    from heartvit_edge.data.images import check_labels, list_images, subset
    from heartvit_edge.data.split import split

    listing = list_images(data, classes=classes or None, warn=say)
    check_labels(listing, num_classes)
    left = listing.num_images - held_out_images
    if left < 1:
        raise InputError(
            f"{data.name} has {listing.num_images} images, of which --held-out-images {held_out_images} leaves none",
            hint=f"--held-out-images {max(2, listing.num_images // 5)}",
        )
    wanted = held_out_images + (left if num_images is None else min(num_images, left))
    with progress_bar("reading images", wanted) as advance:
        draw = wanted if wanted < listing.num_images else None
        images = subset(listing, draw, seed, warn=say, progress=lambda *_: advance(1))
    train, held_out = split(images, len(images) - held_out_images, seed)
    assert held_out is not None  # held_out_images is at least two
    return train, held_out
