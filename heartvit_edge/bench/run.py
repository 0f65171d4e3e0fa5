"""From engines in the store to a stored measurement or evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone

import numpy as np

from heartvit_edge.bench.accuracy import Engine, evaluate
from heartvit_edge.bench.session import Schedule, Workload, measure
from heartvit_edge.bench.stored import StoredEngine
from heartvit_edge.data.images import ImageSet
from heartvit_edge.data.preprocess import preprocess
from heartvit_edge.power.choose import choose
from heartvit_edge.power.sampler import NoPowerError, PowerLostError, Sampler
from heartvit_edge.runtime.open import CudaChoice, open_runners
from heartvit_edge.spec.evaluation import Evaluation
from heartvit_edge.spec.machine import Machine
from heartvit_edge.spec.measurement import Measurement, PowerTrace
from heartvit_edge.spec.pack import BudgetPack

INPUT_SEED = 0
"""Seed of the random images, so that every run of every engine sees the same."""


def measure_engines(
    pack: BudgetPack,
    engines: Sequence[StoredEngine],
    batch_sizes: Sequence[int],
    schedule: Schedule,
    power: str,
    interval_s: float,
    machine: Machine,
    command: str,
    tell: Callable[[str], None],
    step: Callable[[str], None],
    choice: CudaChoice | None = None,
) -> tuple[Measurement, PowerLostError | None]:
    """Measure every engine at every batch size while the board's power is read.

    Args:
        pack: What the engines were built from.
        engines: All of one backend and precision.
        batch_sizes: Each within the engines' range.
        schedule: How long and how often.
        power: Which power source to read.
        interval_s: Time between power readings to ask for.
        machine: Where this runs.
        command: What measures this again.
        tell: Takes a remark for the user.
        step: Called before each warm-up and window with what comes, never inside a window.
        choice: How TensorRT engines reach the device.

    Returns:
        The measurement, and the error that ended the power readings in mid-run; None where nothing did.

    Raises:
        MachineError: If a power source was asked for and cannot be read, or an engine cannot run.
        CheckError: If an engine cannot be loaded.
    """
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    origin = time.perf_counter()

    def clock() -> float:
        return time.perf_counter() - origin

    with ExitStack() as stack:
        sampler = stack.enter_context(choose(power, interval_s=interval_s, clock=clock))
        tell(f"power: {sampler.name} ({sampler.why})")
        pairs = [(engine.manifest, engine.folder) for engine in engines]
        runners = stack.enter_context(open_runners(pairs, choice))
        workloads = [
            Workload(engine.manifest.entry, size, engine.manifest.sha256, runner.infer)
            for size in batch_sizes
            for engine, runner in zip(engines, runners, strict=True)
        ]
        generator = np.random.default_rng(INPUT_SEED)
        rows = measure(workloads, pack.shape.img_size, schedule, generator, clock, tell, step)
        trace, reason, lost = _stop(sampler)
    measurement = Measurement(
        pack=pack,
        machine=machine,
        backend=engines[0].manifest.backend,
        precision=engines[0].manifest.precision,
        created=created,
        command=command,
        rows=rows,
        power=trace,
        no_power_reason=reason,
    )
    return measurement, lost


def _stop(sampler: Sampler) -> tuple[PowerTrace | None, str | None, PowerLostError | None]:
    """Return the trace; or the reason why there is none, with the error if readings had begun."""
    try:
        return sampler.stop(), None, None
    except NoPowerError as err:
        return None, str(err), err if isinstance(err, PowerLostError) else None


def evaluate_engines(
    pack: BudgetPack,
    engines: Sequence[StoredEngine],
    images: ImageSet,
    batch_size: int,
    num_samples: int,
    command: str,
    progress: Callable[[int, int], None],
    choice: CudaChoice | None = None,
) -> Evaluation:
    """Run every engine over every image and count its answers.

    Args:
        pack: What the engines were built from.
        engines: All of one backend and precision, the dense one first.
        images: Labels, where there are any, within the model's classes.
        batch_size: Images an inference, at most what the engines serve.
        num_samples: Images to keep for the report.
        command: What evaluates this again.
        progress: Told (images done, images in all) after each batch.
        choice: How TensorRT engines reach the device.

    Raises:
        InputError: If an image vanished or changed since it was listed.
        MachineError: If an engine cannot run.
        CheckError: If an engine cannot be loaded, or answers with NaN or infinity.
    """
    with open_runners([(engine.manifest, engine.folder) for engine in engines], choice) as runners:
        loaded = [
            Engine(
                entry=engine.manifest.entry,
                sha256=engine.manifest.sha256,
                answer=runner.infer,
                min_batch=engine.manifest.batch.min,
            )
            for engine, runner in zip(engines, runners, strict=True)
        ]
        batches = preprocess(images, pack.preprocessing, batch_size)
        entries, samples = evaluate(
            loaded, batches, images.labels, len(images), pack.preprocessing, num_samples, progress
        )
    return Evaluation(
        pack_sha256=pack.digest(),
        images=images.ref(),
        num_images=len(images),
        backend=engines[0].manifest.backend,
        precision=engines[0].manifest.precision,
        entries=entries,
        samples=samples,
        classes=pack.classes or images.classes,
        command=command,
    )
