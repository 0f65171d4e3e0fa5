"""A whole run: every engine warmed up, then windows of all of them in turn, so that slow drift falls on each alike.

warm-up A B C | round 1: A B C | round 2: A B C | round 3: A B C      a rest before each window, where one is asked for
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.bench.arrivals import check_load, draw_arrivals, measure_open_window
from heartvit_edge.bench.window import WARM_UP_CALLS, WARM_UP_CV, Infer, measure_window, warm_up
from heartvit_edge.spec.measurement import EntryMeasurement, Trial

NUM_INPUTS = 4
"""Distinct batches that a window cycles through, so that no call finds its input in a cache by luck alone."""


@dataclass(frozen=True)
class Workload:
    """One engine at one batch size, loaded and ready.

    Attributes:
        entry: Name of the pack's entry.
        batch_size: Images an inference.
        engine_sha256: Hash of the engine.
        infer: Runs one batch to the end.
    """

    entry: str
    batch_size: int
    engine_sha256: str
    infer: Infer

    @property
    def label(self) -> str:
        """Return what progress and messages call it."""
        return f"{self.entry} batch {self.batch_size}"


@dataclass(frozen=True)
class Schedule:
    """How long and how often to measure.

    Attributes:
        duration_s: Seconds of one window, and the cap of each warm-up.
        num_trials: Windows of each workload.
        cool_down_s: Seconds of rest before each window.
        arrival_per_s: Mean rate at which requests come; None where each comes as the one before is answered.
    """

    duration_s: float
    num_trials: int
    cool_down_s: float = 0.0
    arrival_per_s: float | None = None


def make_inputs(
    batch_size: int, img_size: int, generator: np.random.Generator, num_inputs: int = NUM_INPUTS
) -> tuple[NDArray[np.float32], ...]:
    """Return distinct random batches, each of shape (B, 3, S, S), standard normal as normalised images nearly are."""
    shape = (batch_size, 3, img_size, img_size)
    return tuple(generator.standard_normal(shape, dtype=np.float32) for _ in range(num_inputs))


def measure(
    workloads: Sequence[Workload],
    img_size: int,
    schedule: Schedule,
    generator: np.random.Generator,
    clock: Callable[[], float],
    tell: Callable[[str], None],
    step: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[EntryMeasurement, ...]:
    """Warm up and measure every workload in interleaved rounds.

    Args:
        workloads: In the order of the rows to return.
        img_size: Side of the square input in pixels.
        schedule: How long and how often.
        generator: Source of the inputs; workloads of one batch size share theirs.
        clock: Gives seconds since the run began, on the clock that also stamps the power readings.
        tell: Takes a remark for the user.
        step: Called before each warm-up and window with what comes, never inside a window;
            ``len(workloads) * (1 + num_trials)`` times in all.
        sleep: Waits so many seconds.

    Returns:
        One row a workload.

    Raises:
        InputError: If requests would come faster than a workload answers them.
    """
    sizes = sorted({work.batch_size for work in workloads})
    inputs = {size: make_inputs(size, img_size, generator) for size in sizes}
    warm_ups = []
    for work in workloads:
        step(f"warming up {work.label}")
        count, variation = warm_up(work.infer, inputs[work.batch_size], schedule.duration_s, clock)
        stable = variation is not None and variation < WARM_UP_CV
        if not stable:
            found = "too few to judge" if variation is None else f"latency still varied by {variation:.1%}"
            cap = f"{schedule.duration_s:g} s" if count < WARM_UP_CALLS else f"{WARM_UP_CALLS} calls"
            tell(f"{work.label}: the warm-up ended at its cap of {cap}; calls: {count}, {found}")
        warm_ups.append((count, stable))
        if schedule.arrival_per_s is not None:
            batches = inputs[work.batch_size]
            call_s = float(np.median([_timed(work.infer, batch, clock) for batch in batches]))
            check_load(work.label, call_s, schedule.arrival_per_s)
    trials: list[list[Trial]] = [[] for _ in workloads]
    for number in range(schedule.num_trials):
        for work, windows in zip(workloads, trials, strict=True):
            step(f"trial {number + 1} of {schedule.num_trials}: {work.label}")
            if schedule.cool_down_s:
                sleep(schedule.cool_down_s)
            windows.append(_window(work, inputs[work.batch_size], schedule, number, clock, sleep))
    return tuple(
        EntryMeasurement(
            entry=work.entry,
            batch_size=work.batch_size,
            engine_sha256=work.engine_sha256,
            warm_up_count=count,
            warm_up_stable=stable,
            trials=tuple(windows),
        )
        for work, (count, stable), windows in zip(workloads, warm_ups, trials, strict=True)
    )


def _window(
    work: Workload,
    inputs: Sequence[NDArray[np.float32]],
    schedule: Schedule,
    number: int,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Trial:
    """Measure one window; requests of one round come at the same times for every workload."""
    if schedule.arrival_per_s is None:
        return measure_window(work.infer, inputs, schedule.duration_s, clock)
    arrivals_s = draw_arrivals(schedule.arrival_per_s, schedule.duration_s, np.random.default_rng(number))
    return measure_open_window(work.infer, inputs, schedule.duration_s, clock, arrivals_s, sleep)


def _timed(infer: Infer, batch: NDArray[np.float32], clock: Callable[[], float]) -> float:
    start = clock()
    infer(batch)
    return clock() - start
