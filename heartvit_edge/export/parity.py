"""Whether an exported graph answers as the PyTorch model does, on real images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heartvit_edge.errors import CheckError
from heartvit_edge.spec.parity import Parity
from heartvit_edge.spec.route import Arrays

TOLERANCE = 1e-4
"""Largest allowed |difference| of a logit over the largest |logit|, at float32."""


Answer = Callable[[Tensor], Sequence[Tensor]]
"""The model in PyTorch: of images (B, 3, H, W), logits (B, num_classes) and the kept patches of each site (B, K)."""


class Graph:
    """A stored graph in ONNX Runtime on the CPU, as it stands: what is built for a device starts from that."""

    def __init__(self, path: Path, feeds: Mapping[str, int] | None = None) -> None:
        """Open the graph.

        Args:
            path: The ONNX file.
            feeds: Values of its inputs beside the images.
        """
        import onnxruntime

        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self._feeds = {name: np.array(value, dtype=np.int64) for name, value in (feeds or {}).items()}

    def with_feeds(self, feeds: Mapping[str, int]) -> Graph:
        """Return the same graph with other values of its inputs beside the images."""
        other = copy.copy(self)
        other._feeds = {name: np.array(value, dtype=np.int64) for name, value in feeds.items()}
        return other

    def run(self, given: Arrays) -> dict[str, NDArray[Any]]:
        """Return every output by name, of inputs by name."""
        names = [info.name for info in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(given)), strict=True))

    def __call__(self, images: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Return every output, in order."""
        found: list[NDArray[Any]] = self._session.run(None, {"images": images} | self._feeds)
        return found


def parity_batches(images: NDArray[np.float32], sizes: Sequence[int]) -> list[NDArray[np.float32]]:
    """Return the images in batches of the sizes in turn, so that each size is tried on real images.

    Args:
        images: Shape (N, 3, H, W).
        sizes: Each at least one.
    """
    batches: list[NDArray[np.float32]] = []
    start, turn = 0, cycle(sizes)
    while start < len(images):
        batches.append(images[start : start + next(turn)])
        start += len(batches[-1])
    return batches


def check_parity(
    model: Answer,
    graph: Callable[[NDArray[np.float32]], list[NDArray[Any]]],
    batches: Sequence[NDArray[np.float32]],
    name: str,
    *,
    merges: bool = False,
) -> Parity:
    """Compare a graph with the model that it was exported from.

    Near ties are decided by rounding, and the logits of such an image differ with good reason. Which tokens are kept is
    seen in the outputs; which one another was merged into is not, so there logits beyond the tolerance count as a tie.

    Args:
        model: In evaluation mode, on the CPU.
        graph: What was exported.
        batches: Real inputs, (B, 3, H, W) each, of any batch sizes.
        name: The entry's name, for the message.
        merges: Whether the model merges tokens.

    Returns:
        The comparison.

    Raises:
        CheckError: If a value is not finite, the logits differ by more than the tolerance, or other tokens are kept.
    """
    worst, scale, mismatches, images = 0.0, 0.0, 0, 0
    for inputs in batches:
        with torch.no_grad():
            expected = [tensor.numpy() for tensor in model(torch.from_numpy(inputs))]
        found = graph(inputs)
        if not all(np.isfinite(array).all() for array in (expected[0], found[0])):
            raise CheckError(f"{name}: the logits are not all finite", hint="check the weights for NaN and infinity")
        same = np.ones(len(inputs), dtype=bool)
        for kept, kept_here in zip(expected[1:], found[1:], strict=True):
            same &= (kept == kept_here).all(axis=1)
        images += len(inputs)
        scale = max(scale, float(np.abs(expected[0]).max()))
        error = np.abs(expected[0] - found[0]).max(axis=1)
        if merges:
            same &= error <= TOLERANCE * scale
        mismatches += int((~same).sum())
        worst = max(worst, float(error[same].max(initial=0.0)))
    parity = Parity(
        num_images=images,
        max_abs_error=worst,
        logit_scale=scale,
        tolerance=TOLERANCE,
        batch_sizes=tuple(sorted({len(inputs) for inputs in batches})),
        kept_token_mismatches=mismatches,
    )
    if worst > TOLERANCE * scale:
        raise CheckError(f"{name}: logits differ from PyTorch by {worst:.3g}, more than {TOLERANCE:g} of {scale:.3g}")
    if mismatches > -(-images // 50):
        do = "keep or merge" if merges else "keep"
        raise CheckError(f"{name}: {mismatches} of {images} images {do} other tokens than in PyTorch (ties allow 2 %)")
    return parity
