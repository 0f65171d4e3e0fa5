"""What the engines answer on real images, counted against the labels and against the dense engine."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heartvit_edge.bench.figures import DENSE
from heartvit_edge.data.preprocess import denormalise_to_uint8
from heartvit_edge.errors import CheckError
from heartvit_edge.spec.evaluation import EntryEvaluation, SampleImage
from heartvit_edge.spec.model import Preprocessing
from heartvit_edge.spec.routing import NOT_KEPT

Answer = Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.generic]]]
"""Runs a batch (B, 3, S, S) and returns the outputs by name: ``logits`` (B, C) and ``kept_<block>`` (B, K)."""

KEPT = "kept_"
MIN_CLASSES_TOP5 = 6


@dataclass(frozen=True)
class Engine:
    """One loaded engine.

    Attributes:
        entry: Name of the pack's entry.
        sha256: Hash of the engine.
        answer: Runs a batch.
        min_batch: Smallest batch that it serves; a shorter one is filled up and the answers to the filling dropped.
    """

    entry: str
    sha256: str
    answer: Answer
    min_batch: int = 1


@dataclass
class _Tally:
    """What one engine's answers add up to so far."""

    top5: int = 0
    agreeing: int = 0
    num_classes: int = 0
    kl_nats: list[float] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)

    def add(self, found: NDArray[np.float64], dense: NDArray[np.float64], labels: NDArray[np.int64] | None) -> None:
        """Count a batch from log-probabilities of shape (B, C) and labels of shape (B,)."""
        self.num_classes = found.shape[1]
        self.agreeing += int((found.argmax(axis=1) == dense.argmax(axis=1)).sum())
        self.kl_nats += kl_divergence(dense, found).tolist()
        if labels is not None:
            best = np.argsort(-found, axis=1, kind="stable")[:, :5]
            self.correct += (best[:, 0] == labels).tolist()
            self.top5 += int((best == labels[:, None]).any(axis=1).sum())


def log_softmax(logits: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the log-probabilities of logits of shape (B, C), in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def kl_divergence(reference: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return KL(reference || other) of each image in nats, shape (B,), from log-probabilities of shape (B, C).

    Rounding can leave a sum of nearly equal terms just below zero, which no divergence is; such a sum is zero.
    """
    result: NDArray[np.float64] = (np.exp(reference) * (reference - other)).sum(axis=1).clip(min=0.0)
    return result


def sample_indices(num_images: int, num_samples: int) -> tuple[int, ...]:
    """Return up to ``num_samples`` positions spread evenly, so that a set sorted by class shows several classes."""
    count = min(num_images, num_samples)
    return tuple(int(n * num_images / count) for n in range(count))


def evaluate(
    engines: Sequence[Engine],
    batches: Iterable[NDArray[np.float32]],
    labels: NDArray[np.int64] | None,
    num_images: int,
    preprocessing: Preprocessing,
    num_samples: int,
    progress: Callable[[int, int], None],
) -> tuple[tuple[EntryEvaluation, ...], tuple[SampleImage, ...]]:
    """Run every engine over every batch once and count.

    Args:
        engines: The dense engine first.
        batches: The model's input in order, each of shape (B, 3, S, S).
        labels: Shape (num_images,), each in 0 .. C - 1, or None.
        num_images: Images in all batches.
        preprocessing: How the inputs were made, to show the samples as pictures.
        num_samples: Images to keep for the report, spread over the set.
        progress: Told (images done, images in all) after each batch.

    Returns:
        One evaluation an engine in the same order, and the samples.

    Raises:
        CheckError: If an engine answers with NaN or infinity.
        ValueError: If the first engine is not the dense one.
    """
    if not engines or engines[0].entry != DENSE:
        raise ValueError(f"expected the dense engine first, found {[engine.entry for engine in engines]}")
    tallies = {engine.entry: _Tally() for engine in engines}
    shown = sample_indices(num_images, num_samples)
    samples: list[SampleImage] = []
    done = 0
    for batch in batches:
        outputs = {engine.entry: _answer(engine, batch, done) for engine in engines}
        truth = None if labels is None else labels[done : done + len(batch)]
        dense = log_softmax(outputs[DENSE]["logits"])
        for entry, found in outputs.items():
            tallies[entry].add(log_softmax(found["logits"]), dense, truth)
        for index in shown:
            if done <= index < done + len(batch):
                picture = denormalise_to_uint8(batch[index - done], preprocessing)
                label = None if labels is None else int(labels[index])
                samples.append(_sample(index, picture, label, outputs, index - done))
        done += len(batch)
        progress(done, num_images)
    evaluations = tuple(
        EntryEvaluation(
            entry=engine.entry,
            engine_sha256=engine.sha256,
            top1_correct=None if labels is None else sum(tally.correct),
            top5_correct=None if labels is None or tally.num_classes < MIN_CLASSES_TOP5 else tally.top5,
            agreeing=tally.agreeing,
            kl_nats=tuple(tally.kl_nats),
            correct=None if labels is None else tuple(tally.correct),
        )
        for engine, tally in zip(engines, tallies.values(), strict=True)
    )
    return evaluations, tuple(samples)


def _answer(engine: Engine, batch: NDArray[np.float32], done: int) -> dict[str, NDArray[np.generic]]:
    """Return the outputs for the batch, copied out of whatever memory the engine reuses."""
    count = len(batch)
    if count < engine.min_batch:
        batch = np.concatenate([batch, np.repeat(batch[-1:], engine.min_batch - count, axis=0)])
    outputs = {name: np.array(values[:count]) for name, values in engine.answer(batch).items()}
    finite = np.isfinite(outputs["logits"]).all(axis=1)
    if not finite.all():
        first = done + int(np.argmin(finite))
        raise CheckError(
            f"engine {engine.entry} answers image {first} with logits that are NaN or infinite, expected numbers",
            hint="if the engine is fp16, build it with --precision fp32; else export the pack again",
        )
    return outputs


def _sample(
    index: int,
    picture: NDArray[np.uint8],
    label: int | None,
    outputs: Mapping[str, Mapping[str, NDArray[np.generic]]],
    row: int,
) -> SampleImage:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return SampleImage(
        index=index,
        png_base64=base64.b64encode(file.getvalue()).decode("ascii"),
        label=label,
        predictions={entry: int(np.argmax(found["logits"][row])) for entry, found in outputs.items()},
        kept={
            entry: tuple(
                (int(name.removeprefix(KEPT)), tuple(int(patch) for patch in values[row] if patch != NOT_KEPT))
                for name, values in found.items()
                if name.startswith(KEPT)
            )
            for entry, found in outputs.items()
        },
    )
