"""Fine-tunes of plans with their gates, beside the dense model trained by the same recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.claims import Claim
from heartvit_edge.data.images import ImageSet
from heartvit_edge.finetune.load import load_finetuned
from heartvit_edge.finetune.processes import join_processes
from heartvit_edge.finetune.run import Means, finetune
from heartvit_edge.finetune.subject import Subject
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.sensitivity.plan_images import PlanImages
from heartvit_edge.spec.finetune import CONTROL, FinetuneRecipe
from heartvit_edge.spec.plan import PruningPlan

LEAST_AGAINST_CONTROL = {0.65: -1.0, 0.5: -2.5}
"""Share of MACs to the points of top-1 that a fine-tuned model may differ by from the control."""


def fine_tune(
    dense: DenseModel, subject: Subject, train: ImageSet, held_out: ImageSet, recipe: FinetuneRecipe, out: Path
) -> None:
    """Train a plan behind its gate, or the control, unless ``out`` holds it already."""
    with join_processes("fp32", gate_has_weights=False) as accelerator:
        means = Means(accelerator, workers=0, save_every=50, tell=_tell, watch=_quiet)
        finetune(dense, [subject], train, held_out, recipe, out, means)


def fine_tuned_claims(
    dense: DenseModel,
    plans: Sequence[PruningPlan],
    folders: Mapping[str, Path],
    images: PlanImages,
    labels: Sequence[int],
) -> tuple[list[Claim], dict[str, float]]:
    """Return what fine-tuned models give up in top-1 beside the control, in points, and every top-1 in percent."""

    def right(name: str) -> NDArray[np.bool_]:
        return _right(load_finetuned(folders[name], name, dense).eval(), images, labels)

    control = right(CONTROL)
    claims, top1 = [], {CONTROL: 100 * float(control.mean()), "dense": 100 * _dense_top1(images, labels)}
    for plan in plans:
        found = right(plan.label)
        top1[f"{plan.label} fine-tuned"] = 100 * float(found.mean())
        points = 100 * (found.astype(np.float64) - control)
        draws = np.random.default_rng(0).integers(0, len(points), (2000, len(points)))
        low, high = np.quantile(points[draws].mean(axis=1), (0.025, 0.975)).tolist()
        least = LEAST_AGAINST_CONTROL.get(plan.budgets[0].limit)
        name = f"{plan.label}: top-1 fine-tuned minus the control's, points"
        claims.append(Claim(name, float(points.mean()), low, high, at_least=least))
    return claims, top1


@torch.no_grad()
def _right(model: torch.nn.Module, images: PlanImages, labels: Sequence[int]) -> NDArray[np.bool_]:
    found = []
    for batch in images.batches:
        answered = model(batch)
        found.append((answered[0] if isinstance(answered, tuple) else answered).argmax(dim=1))
    return np.asarray(torch.cat(found).numpy() == np.asarray(labels))


def _dense_top1(images: PlanImages, labels: Sequence[int]) -> float:
    answered = torch.cat([logits.argmax(dim=1) for logits in images.logits]).numpy()
    return float((answered == np.asarray(labels)).mean())


def _tell(message: str) -> None:
    print(message, flush=True)


@contextmanager
def _quiet(_what: str, _total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None
