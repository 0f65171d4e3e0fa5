"""Whether an engine answers as the graph that it was built from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.engines.onnxruntime_session import CPU, open_session
from heartvit_edge.errors import CheckError
from heartvit_edge.runtime.open import CudaChoice, open_runner
from heartvit_edge.runtime.runner import count_feeds
from heartvit_edge.spec.engine import EngineManifest, Precision
from heartvit_edge.spec.route import Run, route
from heartvit_edge.spec.routing import NOT_KEPT

SEED = 0
NUM_IMAGES = 4
LOGIT_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 5e-2, "int8": 0.2}  # of the largest |logit|
KEPT_OVERLAP: dict[Precision, float] = {
    "fp32": 0.95,
    "fp16": 0.9,
    "int8": 0.8,
}  # share of kept tokens that must be the same
HINT = "report it with the pack's manifest; until then build with --precision fp32 or --backend onnxruntime"


def verify_engine(manifest: EngineManifest, folder: Path, onnx: Path, choice: CudaChoice | None = None) -> None:
    """Return only if the engine's answers on seeded noise are finite and those of its graph.

    The graph runs on ONNX Runtime's CPU provider without any optimisation.

    Args:
        manifest: The engine's.
        folder: Where it lies.
        onnx: The pack's graph.
        choice: How a TensorRT engine reaches the device.

    Raises:
        CheckError: If an output is not finite or too far off, or the engine cannot be loaded.
        MachineError: If what runs the engine is missing.
    """
    info = manifest.inputs[0]
    batch = max(manifest.batch.min, min(NUM_IMAGES, manifest.batch.max))
    images = np.random.default_rng(SEED).standard_normal(
        [batch if size is None else size for size in info.shape], dtype=np.float32
    )
    if manifest.parts:
        stem, *tails = (_graph(onnx.with_name(part.onnx), manifest.of_part(part)) for part in manifest.parts)
        expected = route({info.name: images}, stem, tails, manifest.buckets, manifest.outputs)
    else:
        expected = dict(_graph(onnx, manifest)({info.name: images}))
    with open_runner(manifest, folder, choice) as runner:
        compare(expected, runner.infer(images), manifest)
        compare(expected, runner.infer(images), manifest)  # the second call may launch a captured graph


def _graph(onnx: Path, manifest: EngineManifest) -> Run:
    """Return what runs a graph as it stands."""
    session = open_session(onnx, CPU, 1, optimise=False)
    names = [output.name for output in manifest.outputs]
    counts = count_feeds(manifest)
    return lambda given: dict(zip(names, session.run(names, {**given, **counts}), strict=True))


def compare(expected: dict[str, NDArray[Any]], found: dict[str, NDArray[Any]], manifest: EngineManifest) -> None:
    """Return only if the two sets of outputs agree.

    Rounding may exchange two tokens whose scores are all but equal, and such an image has other logits with good
    reason: kept tokens are compared by their overlap, logits on the images whose kept tokens are all the same.

    Args:
        expected: The graph's outputs by name.
        found: The engine's.
        manifest: The engine's; its precision sets the tolerances.

    Raises:
        CheckError: If a floating-point output is not finite, kept tokens are not ascending or differ by more than near
            ties explain, or logits are further apart than the tolerance.
    """
    what = f"engine {manifest.entry} ({manifest.backend}, {manifest.precision})"
    same = np.ones(len(next(iter(expected.values()))), dtype=bool)
    for name, value in expected.items():
        if value.dtype.kind == "f":
            continue
        ascend = np.diff(found[name], axis=1) > 0
        if not (ascend | (found[name][:, 1:] == NOT_KEPT)).all():
            raise CheckError(f"{what} answers {name} out of order, expected ascending indices", hint=HINT)
        overlap = [np.isin(ours, theirs).mean() for ours, theirs in zip(found[name], value, strict=True)]
        same &= np.equal(found[name], value).all(axis=1)
        if np.mean(overlap) < KEPT_OVERLAP[manifest.precision]:
            raise CheckError(
                f"{what} keeps other tokens than its graph: {name} overlaps by {np.mean(overlap):.1%}, "
                f"expected {KEPT_OVERLAP[manifest.precision]:.0%}",
                hint=HINT,
            )
    if manifest.precision == "fp32" and not same.any():
        raise CheckError(f"{what} keeps other tokens than its graph on every one of {len(same)} images", hint=HINT)
    for name, value in expected.items():
        if value.dtype.kind != "f":
            continue
        if not np.isfinite(found[name]).all():
            raise CheckError(f"{what} answers {name} with values that are not finite", hint=HINT)
        if not same.any():
            continue
        error = float(np.abs(found[name][same] - value[same]).max())
        allowed = LOGIT_TOLERANCE[manifest.precision] * float(np.abs(value[same]).max())
        if error > allowed:
            raise CheckError(
                f"{what} is off its graph: {name} differs by up to {error:.3g}, allowed {allowed:.3g}", hint=HINT
            )
