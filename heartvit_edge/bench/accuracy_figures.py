"""Figures of what engines answered: what ``evaluate`` and ``report`` print."""

from __future__ import annotations

import numpy as np

from heartvit_edge.bench.figures import DENSE, Figure, around
from heartvit_edge.bench.statistics import mcnemar, wilson
from heartvit_edge.errors import InputError
from heartvit_edge.spec.base import Spec
from heartvit_edge.spec.evaluation import EntryEvaluation, Evaluation


class AccuracyFigures(Spec):
    """Answers of one engine on an image set.

    Attributes:
        num_images: Images evaluated.
        top1: Share of images whose label is the largest logit; Wilson interval.
        top5: Share of images whose label is among the five largest logits; Wilson interval.
        agreement: Share of images whose largest logit is the dense engine's; Wilson interval.
        kl_nats: Mean KL(dense || this), in nats; Student interval over the images.
        mcnemar_p: Probability that top-1 differs from the dense engine's by as much, or more, were both right equally
            often.
        only_dense_right: Images that the dense engine alone answers right; None without labels.
        only_this_right: Images that this engine alone answers right; None without labels.
    """

    num_images: int
    top1: Figure
    top5: Figure
    agreement: Figure
    kl_nats: Figure
    mcnemar_p: Figure
    only_dense_right: int | None
    only_this_right: int | None


def accuracy_figures(evaluation: Evaluation, entry: str) -> AccuracyFigures:
    """Return accuracy, agreement and KL of one entry.

    Raises:
        InputError: If the evaluation has no such entry; the message lists those there are.
    """
    found = {answers.entry: answers for answers in evaluation.entries}
    if entry not in found:
        raise InputError(f"the evaluation has no entry {entry!r}, only {', '.join(found)}")
    answers = found[entry]
    unlabelled = "the images have no labels" if answers.top1_correct is None else "the model has fewer than six classes"
    mean = float(np.mean(np.asarray(answers.kl_nats, dtype=np.float64)))
    p_value, only_dense, only_this = _against(found.get(DENSE), answers)
    return AccuracyFigures(
        num_images=evaluation.num_images,
        top1=_share(answers.top1_correct, evaluation.num_images, unlabelled),
        top5=_share(answers.top5_correct, evaluation.num_images, unlabelled),
        agreement=_share(answers.agreeing, evaluation.num_images, ""),
        kl_nats=around(mean, answers.kl_nats),
        mcnemar_p=p_value,
        only_dense_right=only_dense,
        only_this_right=only_this,
    )


def _against(dense: EntryEvaluation | None, answers: EntryEvaluation) -> tuple[Figure, int | None, int | None]:
    """Return McNemar's p-value, and the images that the dense engine and this one alone answer right."""
    if answers.top1_correct is None:
        return Figure(value=None, reason="the images have no labels"), None, None
    if dense is None or dense.correct is None or answers.correct is None:
        return (
            Figure(value=None, reason="which images the engines answer right is not stored: evaluate again"),
            None,
            None,
        )
    pairs = list(zip(dense.correct, answers.correct, strict=True))
    only_dense, only_this = pairs.count((True, False)), pairs.count((False, True))
    return Figure(value=mcnemar(only_dense, only_this)), only_dense, only_this


def _share(count: int | None, total: int, reason: str) -> Figure:
    if count is None:
        return Figure(value=None, reason=reason)
    low, high = wilson(count, total)
    return Figure(value=count / total, low=low, high=high)
