"""What the engines answered on a set of images."""

from __future__ import annotations

from typing import ClassVar

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from typing_extensions import Self

from heartvit_edge.spec.base import Artefact, Spec
from heartvit_edge.spec.engine import Backend, Precision
from heartvit_edge.spec.model import ImageSetRef


class EntryEvaluation(Spec):
    """One engine's answers, counted.

    Attributes:
        entry: Name of the pack's entry.
        engine_sha256: Hash of the engine that ran.
        top1_correct: Images whose label is the largest logit; None without labels.
        top5_correct: Images whose label is among the five largest; None without labels or with fewer than six classes.
        agreeing: Images whose largest logit is the dense engine's.
        kl_nats: KL(dense || this) of every image, in nats, in image order.
        correct: Whether the label is the largest logit of each image, in image order; None without labels, and in
            evaluations from before it was stored.
    """

    entry: str
    engine_sha256: str
    top1_correct: NonNegativeInt | None
    top5_correct: NonNegativeInt | None
    agreeing: NonNegativeInt
    kl_nats: tuple[NonNegativeFloat, ...]
    correct: tuple[bool, ...] | None = None

    @model_validator(mode="after")
    def _counts_what_is_correct(self) -> Self:
        if self.correct is not None and sum(self.correct) != self.top1_correct:
            raise ValueError(f"{sum(self.correct)} answers are correct, top1_correct says {self.top1_correct}")
        return self


class SampleImage(Spec):
    """One image shown in the report with the patches that each entry keeps.

    Attributes:
        index: Position in the evaluated set.
        png_base64: The preprocessed square before normalisation, as a PNG.
        label: Class index; None without labels.
        predictions: Entry name to predicted class index.
        kept: Entry name to (block, kept patch indices ascending) for each site.
    """

    index: NonNegativeInt
    png_base64: str
    label: NonNegativeInt | None
    predictions: dict[str, NonNegativeInt]
    kept: dict[str, tuple[tuple[NonNegativeInt, tuple[NonNegativeInt, ...]], ...]]


class Evaluation(Artefact):
    """Accuracy of every entry of a pack on one image set: ``<run>/evaluation.json``.

    Attributes:
        pack_sha256: Digest of the pack's manifest.
        images: The image set.
        num_images: Images evaluated.
        backend: What ran the engines.
        precision: Precision of the engines.
        entries: The dense engine first.
        samples: A few images for the report.
        classes: Class names, or empty where unknown.
        command: What prints these figures again.
    """

    schema_name: ClassVar[str] = "evaluation"

    pack_sha256: str
    images: ImageSetRef
    num_images: PositiveInt
    backend: Backend
    precision: Precision
    entries: tuple[EntryEvaluation, ...]
    samples: tuple[SampleImage, ...]
    classes: tuple[str, ...]
    command: str
