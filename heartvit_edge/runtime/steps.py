"""What an inference spends its time on, in trtexec's words and with its defaults."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.runtime.slot import StepTimes
from heartvit_edge.runtime.tensorrt_runner import TensorRTRunner

WARM_UP_S = 0.2
MIN_COUNT = 10
ENQUEUE_BOUND = 0.8
"""Share of the compute time above which the host is what limits throughput."""
UNSTABLE = 0.01
"""Coefficient of variation of the compute time above which trtexec 10 calls a run unstable."""


class StepRun(NamedTuple):
    """Many inferences of one engine at one batch size.

    Attributes:
        steps: One at a time, each waited for.
        batches_per_s: With one batch under way while the next is copied in.
    """

    steps: tuple[StepTimes, ...]
    batches_per_s: float

    def median(self) -> StepTimes:
        """Return the median of each time by itself."""
        return StepTimes(*(float(value) for value in np.median(np.asarray(self.steps), axis=0)))

    def remarks(self) -> list[str]:
        """Return what trtexec would warn of."""
        compute = np.asarray([step.compute_ms for step in self.steps])
        variation = float(compute.std(ddof=1) / compute.mean())
        found = []
        if self.median().enqueue_ms > ENQUEUE_BOUND * float(np.median(compute)):
            found.append("enqueue takes nearly as long as compute: the host limits throughput")
        if variation > UNSTABLE:
            found.append(f"compute varies by {variation:.1%}: lock the clocks, or run longer")
        return found


def time_runner(
    runner: TensorRTRunner,
    inputs: Sequence[NDArray[np.float32]],
    duration_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> StepRun:
    """Warm up, time inferences one by one, and then as many as the device takes with one batch ahead.

    Args:
        runner: Loaded.
        inputs: Batches of one size, cycled.
        duration_s: Least length of each of the two runs; at least MIN_COUNT inferences each.
        clock: Seconds, never backwards.
    """
    for batch in _for(inputs, WARM_UP_S, clock):
        runner.infer(batch)
    steps = tuple(runner.time_steps(batch) for batch in _for(inputs, duration_s, clock))
    for _ in runner.infer_many(inputs):  # makes what the second batch in flight needs
        pass
    for _ in runner.infer_many(inputs):
        pass
    began, count = clock(), 0
    for _ in runner.infer_many(_for(inputs, duration_s, clock)):
        count += 1
    return StepRun(steps, count / (clock() - began))


def _for(
    inputs: Sequence[NDArray[np.float32]], duration_s: float, clock: Callable[[], float]
) -> Iterator[NDArray[np.float32]]:
    began, count = clock(), 0
    while count < MIN_COUNT or clock() - began < duration_s:
        yield inputs[count % len(inputs)]
        count += 1
