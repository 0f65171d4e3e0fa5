"""Fine-tunes with answers that are easily counted: 100 held-out images."""

from __future__ import annotations

from fakes.tiny_pack import SHAPE, SOURCE
from fakes.tiny_vit import plan_of

from heartvit_edge.spec.finetune import Answers, EpochRecord, FineTuned, FinetuneRecipe, FinetuneRun
from heartvit_edge.spec.model import ImageSetRef, Preprocessing

NUM_IMAGES = 100


def answers(agreeing: int, correct: int | None = None) -> Answers:
    """Return answers that agree, and are correct, on so many of 100 images."""
    return Answers(
        num_images=NUM_IMAGES,
        kl_nats=(100 - agreeing) / 100,
        kl_stderr_nats=0.01,
        num_agreeing=agreeing,
        num_correct=correct,
    )


def entry(
    name: str = "macs-0.5",
    *,
    control: bool = False,
    agreeing: tuple[int, ...] = (60, 70, 80),
    correct: tuple[int, ...] | None = None,
    before: Answers | None = None,
    epoch: int | None = None,
) -> FineTuned:
    """Return a model trained for as many epochs as there are answers; the last is kept unless ``epoch`` is given."""
    plan = None if control else plan_of(SHAPE, {1: 9}, source=SOURCE, limit=float(name.partition("-")[2]))
    rights = correct if correct is not None else (None,) * len(agreeing)
    history = [
        EpochRecord(loss=1.0, learning_rate=1e-4, held_out=answers(agrees, right))
        for agrees, right in zip(agreeing, rights, strict=True)
    ]
    return FineTuned(
        name="control" if control else name,
        plan=plan,
        plan_sha256=plan.digest() if plan else None,
        gate=None if control else "class-attention",
        gate_from_sha256=None,
        weights=f"{name}.safetensors",
        weights_sha256="2" * 64,
        gate_weights=None,
        gate_weights_sha256=None,
        before=before or answers(50, None if correct is None else 50),
        history=tuple(history),
        epoch=epoch or len(history),
    )


def finetune_run(*entries: FineTuned, correct: int | None = None, **recipe: object) -> FinetuneRun:
    """Return a run of those entries; the dense model is correct on so many images."""
    images = ImageSetRef(name="photos", num_images=NUM_IMAGES, sha256="3" * 64, labelled=correct is not None)
    return FinetuneRun(
        source=SOURCE,
        shape=SHAPE,
        preprocessing=Preprocessing(
            img_size=SHAPE.img_size,
            interpolation="bicubic",
            crop_pct=0.9,
            crop_mode="center",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        images=images,
        held_out=images,
        recipe=FinetuneRecipe.model_validate({"epochs": 3} | recipe),
        dense=answers(100, correct),
        entries=entries,
        tool_version="0",
    )
