"""Whether an exported graph answers as the PyTorch model does, on real images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from heartvit_edge.errors import CheckError
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.spec.pack import Parity

TOLERANCE = 1e-4
"""Largest allowed |difference| of a logit over the largest |logit|, at float32."""


def check_parity(
    model: GatedViT, path: Path, batches: list[NDArray[np.float32]], name: str, *, merges: bool = False
) -> Parity:
    """Compare a graph in ONNX Runtime on the CPU with the model that it was exported from.

    Near ties are decided by rounding, and the logits of such an image differ with good reason. Which tokens are kept is
    seen in the outputs; which one another was merged into is not, so there logits beyond the tolerance count as a tie.

    Args:
        model: In evaluation mode, on the CPU.
        path: The ONNX file.
        batches: Real inputs, (B, 3, H, W) each, of any batch sizes.
        name: The entry's name, for the message.
        merges: Whether the model merges tokens.

    Returns:
        The comparison.

    Raises:
        CheckError: If a value is not finite, the logits differ by more than the tolerance, or other tokens are kept.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst, scale, mismatches, images = 0.0, 0.0, 0, 0
    for inputs in batches:
        with torch.no_grad():
            expected = [tensor.numpy() for tensor in model(torch.from_numpy(inputs))]
        found = session.run(None, {session.get_inputs()[0].name: inputs})
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
        kept_token_mismatches=mismatches,
    )
    if worst > TOLERANCE * scale:
        raise CheckError(f"{name}: logits differ from PyTorch by {worst:.3g}, more than {TOLERANCE:g} of {scale:.3g}")
    if mismatches > -(-images // 50):
        do = "keep or merge" if merges else "keep"
        raise CheckError(f"{name}: {mismatches} of {images} images {do} other tokens than in PyTorch (ties allow 2 %)")
    return parity
