"""A fine-tune: what it was asked for, how it went, and the weights that it left."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from heartvit_edge.spec.base import Artefact, Spec
from heartvit_edge.spec.model import ImageSetRef, ModelShape, ModelSource, Preprocessing
from heartvit_edge.spec.plan import PruningPlan
from heartvit_edge.spec.reduction import Reduction

FINETUNE = "finetune.json"
CONTROL = "control"

Augmentation = Literal["none", "crop", "light", "strong"]
Schedule = Literal["cosine", "linear", "constant"]
Anneal = Literal["cosine", "exponential"]


class FinetuneRecipe(Spec):
    """Every setting that the weights depend on; the control is trained by the same.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a forward, on each process.
        accumulate: Forwards an optimiser step.
        num_processes: Processes that share a step; a step takes batch_size * accumulate * num_processes images.
        optimizer: timm's name of the optimiser.
        learning_rate: Its peak.
        gate_learning_rate: The peak for a gate's own weights.
        min_learning_rate: Where the schedule begins and ends.
        weight_decay: On matrices alone.
        schedule: How the learning rate falls, step by step.
        warmup_epochs: Epochs of linear warm-up.
        clip_grad: Largest norm of the gradient; None for no limit.
        augmentation: ``none``: timm's evaluation preprocessing. ``crop``: random resized crop of at least half of the
            area. ``light``: crop and horizontal flip. ``strong``: light, RandAugment and random erasing.
        temperature: Of the softmax in the distillation loss.
        token_weight: Weight of the error of the kept patches' final features, relative to the dense model's.
        feature_weight: Weight of the same error of the feature that the classifier reads.
        label_weight: Weight of the cross-entropy with the labels, in nats.
        gates_only: Whether the weights were left alone, and the gate's alone were trained.
        gate_weight: Weight of the relaxed forward's distillation loss, which trains a gate's weights; 0 leaves these as
            they came, and runs no relaxed forward.
        removal_start: Temperature of the relaxed removal at the first step, in standard deviations of the scores.
        removal_end: The same at the last step.
        removal_anneal: How it falls in between.
        ema_decay: Decay of the moving average of the weights that is evaluated and kept; None for the weights as they
            are.
        patience: Epochs without a smaller held-out KL after which a pruned model's training ends, and the weights of
            the best epoch are kept; None for every epoch and the last weights.
        precision: What matrix products are computed in; the weights are float32.
        grad_checkpointing: Whether a block's activations were computed again in the backward pass.
        seed: Of the order of the images and their augmentation.
    """

    epochs: PositiveInt
    batch_size: PositiveInt = 64
    accumulate: PositiveInt = 1
    num_processes: PositiveInt = 1
    optimizer: str = "adamw"
    learning_rate: PositiveFloat = 5e-6
    gate_learning_rate: PositiveFloat = 1e-3
    min_learning_rate: NonNegativeFloat = 1e-6
    weight_decay: NonNegativeFloat = 0.0
    schedule: Schedule = "cosine"
    warmup_epochs: NonNegativeFloat = 0.0
    clip_grad: PositiveFloat | None = 1.0
    augmentation: Augmentation = "light"
    temperature: PositiveFloat = 1.0
    token_weight: NonNegativeFloat = 0.0
    feature_weight: NonNegativeFloat = 0.0
    label_weight: NonNegativeFloat = 0.0
    gates_only: bool = False
    gate_weight: NonNegativeFloat = 0.0
    removal_start: PositiveFloat = 1.0
    removal_end: PositiveFloat = 0.05
    removal_anneal: Anneal = "cosine"
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    patience: PositiveInt | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    grad_checkpointing: bool = False
    seed: NonNegativeInt = 0

    @property
    def images_per_step(self) -> int:
        """Images of one optimiser step, over all processes."""
        return self.batch_size * self.accumulate * self.num_processes


class Answers(Spec):
    """What a model answers on the held-out images, counted.

    Attributes:
        num_images: Held-out images.
        kl_nats: Mean KL(dense || this).
        kl_stderr_nats: Its standard error over images.
        num_agreeing: Images whose largest logit is the dense model's.
        num_correct: Images whose label is the largest logit; None without labels.
    """

    num_images: PositiveInt
    kl_nats: NonNegativeFloat
    kl_stderr_nats: NonNegativeFloat
    num_agreeing: NonNegativeInt
    num_correct: NonNegativeInt | None


class EpochRecord(Spec):
    """One pass over the training images.

    Attributes:
        loss: Mean of the weighted loss over the epoch.
        learning_rate: Of its last step.
        held_out: The answers after it.
    """

    loss: float
    learning_rate: NonNegativeFloat
    held_out: Answers


class FineTuned(Spec):
    """One model that was trained.

    Attributes:
        name: The plan's label, or ``control`` for the dense model.
        plan: What each block keeps; None for the control.
        plan_sha256: The plan's digest; None for the control.
        gate: Name of what chooses tokens; None where none are dropped.
        gate_from_sha256: Hash of the gate's weights before training; None where it has none.
        reduction: What became of tokens that were not kept.
        weights: File of the backbone's tensors under timm's names, without what the plan removes; relative to the run.
        weights_sha256: Its hash.
        gate_weights: File of the gate's tensors, relative to the run; None where it has none.
        gate_weights_sha256: Its hash.
        before: The answers before the first step.
        history: One record an epoch.
        epoch: The epoch whose weights were kept, from 1.
    """

    name: str
    plan: PruningPlan | None
    plan_sha256: str | None
    gate: str | None
    gate_from_sha256: str | None
    reduction: Reduction = "drop"
    weights: str
    weights_sha256: str
    gate_weights: str | None
    gate_weights_sha256: str | None
    before: Answers
    history: tuple[EpochRecord, ...]
    epoch: PositiveInt

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.epoch > len(self.history):
            raise ValueError(f"epoch {self.epoch} was kept of {len(self.history)}")
        if (self.name == CONTROL) != (self.plan is None):
            raise ValueError(f"the control, and nothing else, has no plan; found {self.name!r}")
        if self.plan_sha256 != (self.plan.digest() if self.plan else None):
            raise ValueError(f"the plan of {self.name} is not the one that plan_sha256 names")
        return self

    @property
    def after(self) -> Answers:
        """The answers of the weights that were kept."""
        return self.history[self.epoch - 1].held_out


class FinetuneRun(Artefact):
    """Models that were trained by one recipe on the same images: ``<run>/finetune.json``.

    The file is written when the first training begins, and again as each model is done.

    Attributes:
        source: The dense model, which is the teacher too.
        shape: Its dimensions.
        preprocessing: How an image becomes the input.
        images: The training images.
        held_out: Images that nothing was trained on.
        recipe: The settings.
        dense: The dense model's answers on the held-out images.
        entries: The models that are done.
        tool_version: heartvit-edge's own version.
    """

    schema_name: ClassVar[str] = "finetune-run"

    source: ModelSource
    shape: ModelShape
    preprocessing: Preprocessing
    images: ImageSetRef
    held_out: ImageSetRef
    recipe: FinetuneRecipe
    dense: Answers
    entries: tuple[FineTuned, ...]
    tool_version: str

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [entry.name for entry in self.entries]
        if len(set(names)) != len(names):
            raise ValueError(f"entries must have different names, found {names}")
        return self

    def find(self, name: str) -> FineTuned | None:
        """Return the entry of that name; None where there is none yet."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def control_at(self, epoch: int) -> Answers | None:
        """Return the control's answers after as many epochs; None where it was not trained.

        With gates only no weights are trained, so that the dense model is its own control. A control that had nothing
        left to learn ended early, and answers in any later epoch as in its last.
        """
        if self.recipe.gates_only:
            return self.dense
        control = self.find(CONTROL)
        return control.history[min(epoch, len(control.history)) - 1].held_out if control is not None else None
