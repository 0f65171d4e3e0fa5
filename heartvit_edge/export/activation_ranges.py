"""The range of each activation that INT8 covers, measured on images in bounded memory.

ONNX Runtime's own calibrators are not used: they hold every activation of every image that they are fed at once, write
to stdout, and their entropy search at its default bins has one candidate, the largest value. Here images go through
twice, batch by batch: once for the largest absolute value, once into a histogram of fixed size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from heartvit_edge.errors import CheckError
from heartvit_edge.export.sessions import open_graph
from heartvit_edge.spec.precision import Calibration

Feed = Mapping[str, NDArray[Any]]
"""One batch: the graph's inputs by name."""

NUM_BINS = 2048
NUM_LEVELS = 128
"""Magnitudes that a signed byte tells apart, 0 among them."""

PERCENTILE = 99.99
"""Share of the activations, in percent, that ``percentile`` covers."""

STRIDE = 8
"""Bins from one candidate of the entropy search to the next."""


def measure_ranges(
    source: Path, tensors: Sequence[str], feeds: Sequence[Feed], calibration: Calibration
) -> dict[str, float]:
    """Return the largest magnitude that INT8 shall cover for each tensor; larger ones are clipped to it.

    Args:
        source: An FP32 graph.
        tensors: Names of the graph's inputs or of its nodes' outputs.
        feeds: Batches of calibration images, at least one.
        calibration: What decides.

    Raises:
        CheckError: If an activation is not finite.
    """
    run = _observer(source, tensors)
    largest = dict.fromkeys(tensors, 0.0)
    for feed in feeds:
        for name, values in run(feed).items():
            largest[name] = float(np.maximum(largest[name], np.abs(values).max()))  # keeps NaN, unlike max
    for name, value in largest.items():
        if not np.isfinite(value):
            raise CheckError(f"activation {name} of {source.name} is not finite", hint="check the weights for NaN")
    if calibration == "minmax":
        return largest
    counts = {name: np.zeros(NUM_BINS, dtype=np.int64) for name in tensors}
    for feed in feeds:
        for name, values in run(feed).items():
            counts[name] += histogram(values, largest[name])
    choose = entropy_bins if calibration == "entropy" else percentile_bins
    return {name: largest[name] * choose(counts[name]) / NUM_BINS for name in tensors}


def histogram(values: NDArray[Any], largest: float) -> NDArray[np.int64]:
    """Return how many magnitudes lie in each of ``NUM_BINS`` equal bins from 0 to ``largest``."""
    if largest == 0:
        return np.bincount([0], [values.size], NUM_BINS).astype(np.int64)
    bins = np.minimum(np.abs(values.ravel()) * (NUM_BINS / largest), NUM_BINS - 1).astype(np.int64)
    return np.bincount(bins, minlength=NUM_BINS)


def percentile_bins(counts: NDArray[np.int64]) -> int:
    """Return the fewest bins that hold ``PERCENTILE`` of the magnitudes, 1 .. ``NUM_BINS``."""
    return int(np.searchsorted(counts.cumsum(), counts.sum() * (PERCENTILE / 100))) + 1


def entropy_bins(counts: NDArray[np.int64]) -> int:
    """Return where to clip, in bins, so that the distribution diverges least from its quantised form.

    What lies beyond goes into the last bin that is kept; the kept ones are then averaged, where they are not empty,
    over each of ``NUM_LEVELS`` runs.

    Source:
        Migacz (2017), "8-bit Inference with TensorRT", GPU Technology Conference.
    """
    best, least = NUM_BINS, np.inf
    for kept in range(NUM_LEVELS, NUM_BINS + 1, STRIDE):
        reference = counts[:kept].astype(np.float64)
        starts = np.arange(NUM_LEVELS) * kept // NUM_LEVELS
        used = reference > 0
        totals, sizes = np.add.reduceat(reference, starts), np.add.reduceat(used, starts)
        means = np.divide(totals, sizes, out=np.zeros(NUM_LEVELS), where=sizes > 0)
        quantised = np.repeat(means, np.diff(starts, append=kept)) * used
        reference[-1] += counts[kept:].sum()
        divergence = _divergence(reference, quantised)
        if divergence < least:
            best, least = kept, divergence
    return best


def _divergence(reference: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return KL(reference || other) of two histograms; infinite where the other is empty and the reference is not."""
    used = reference > 0
    if not other.sum() or (other[used] == 0).any():
        return np.inf
    shares, others = reference[used] / reference.sum(), other[used] / other.sum()
    return float((shares * np.log(shares / others)).sum())


def _observer(source: Path, tensors: Sequence[str]) -> Callable[[Feed], dict[str, NDArray[Any]]]:
    """Return what runs the graph on a batch and gives the tensors by name."""
    model = onnx.load(str(source), load_external_data=False)
    inputs = {info.name for info in model.graph.input}
    inner = [name for name in dict.fromkeys(tensors) if name not in inputs]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inner)
    session = open_graph(model, source.parent)

    def run(feed: Feed) -> dict[str, NDArray[Any]]:
        given = {name: feed[name] for name in tensors if name in inputs}
        return given | dict(zip(inner, session.run(inner, dict(feed)), strict=True))

    return run
