"""From engines in the store to a stored measurement or evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np

from heartvit_edge.bench.accuracy import Engine, evaluate
from heartvit_edge.bench.session import Schedule, Workload, measure
from heartvit_edge.bench.stored import StoredEngine, processor_of, read_layers
from heartvit_edge.data.images import ImageSet
from heartvit_edge.data.preprocess import preprocess
from heartvit_edge.power.board import BoardRecorder
from heartvit_edge.power.choose import choose
from heartvit_edge.power.sampler import NoPowerError, PowerLostError, Sampler
from heartvit_edge.power.totals import with_total
from heartvit_edge.runtime.open import CudaChoice, open_runners
from heartvit_edge.spec.evaluation import Evaluation
from heartvit_edge.spec.measurement import Measurement, PowerTrace, Window
from heartvit_edge.spec.pack import BudgetPack

INPUT_SEED = 0
"""Seed of the random images, so that every run of every engine sees the same."""


@dataclass(frozen=True)
class Power:
    """What is read of the machine while engines run.

    Attributes:
        asked: Which power source, as ``power.choose`` takes it.
        interval_s: Time between power readings to ask for.
        total_rails: Rails that add up to the total; empty for those of the board's own rule.
        idle_s: Seconds of the idle window; 0 for none. None is measured where no power is read.
    """

    asked: str
    interval_s: float
    total_rails: tuple[str, ...] = ()
    idle_s: float = 0.0


def measure_engines(
    pack: BudgetPack,
    engines: Sequence[StoredEngine],
    batch_sizes: Sequence[int],
    schedule: Schedule,
    power: Power,
    facts: Mapping[str, object],
    tell: Callable[[str], None],
    step: Callable[[str], None],
    choice: CudaChoice | None = None,
) -> tuple[Measurement, PowerLostError | None]:
    """Measure every engine at every batch size while the board's power and state are read.

    Args:
        pack: What the engines were built from.
        engines: All of one kind.
        batch_sizes: Each within the engines' range.
        schedule: How long and how often.
        power: What is read meanwhile.
        facts: Fields of the measurement that are known before: machine, command, scenario, limits.
        tell: Takes a remark for the user.
        step: Called before each warm-up and window with what comes, never inside a window.
        choice: How TensorRT engines reach the device.

    Returns:
        The measurement, and the error that ended the power readings in mid-run; None where nothing did.

    Raises:
        InputError: If a rail was named that is not read, or requests would come faster than an engine answers them.
        MachineError: If a power source was asked for and cannot be read, or an engine cannot run.
        CheckError: If an engine cannot be loaded.
    """
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    origin = time.perf_counter()

    def clock() -> float:
        return time.perf_counter() - origin

    processor = processor_of(engines[0].manifest)
    with ExitStack() as stack:
        sampler = stack.enter_context(
            choose(
                power.asked,
                interval_s=power.interval_s,
                clock=clock,
                processor=processor,
                total_rails=power.total_rails,
            )
        )
        tell(f"power: {sampler.name} ({sampler.why})")
        board = stack.enter_context(BoardRecorder(clock))
        idle = None
        if power.idle_s and sampler.name != "none":
            tell(f"idle for {power.idle_s:g} s")
            idle = _rest(power.idle_s, clock)
        pairs = [(engine.manifest, engine.folder) for engine in engines]
        runners = stack.enter_context(open_runners(pairs, choice))
        workloads = [
            Workload(engine.manifest.entry, size, engine.manifest.sha256, runner.infer)
            for size in batch_sizes
            for engine, runner in zip(engines, runners, strict=True)
        ]
        generator = np.random.default_rng(INPUT_SEED)
        rows = measure(workloads, pack.shape.img_size, schedule, generator, clock, tell, step)
        state = board.stop()
        trace, reason, lost = _stop(sampler)
    measured = {
        "pack": pack,
        "backend": engines[0].manifest.backend,
        "precision": engines[0].manifest.precision,
        "variant": engines[0].kind.variant,
        "created": created,
        "rows": rows,
        "power": trace and with_total(trace, power.total_rails),
        "no_power_reason": reason,
        "arrival_per_s": schedule.arrival_per_s,
        "idle": idle,
        "board": state,
        "layers": read_layers(engines, tell),
    }
    return Measurement.model_validate({**facts, **measured}), lost


def _rest(seconds: float, clock: Callable[[], float]) -> Window:
    """Do nothing for a while, and return when."""
    start_s = clock()
    time.sleep(seconds)
    return Window(start_s=start_s, end_s=clock())


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
        engines: All of one kind, the dense one first.
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
