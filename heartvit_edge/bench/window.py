"""One engine under one clock: the warm-up until its latency has settled, and the timed window.

load | warm-up ....... | settle | window: call call call call | settle | window: ...
                         untimed   timed, collector off
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.spec.measurement import Trial

Infer = Callable[[NDArray[np.float32]], object]
"""Runs one batch to the end: it returns once the outputs are on the host."""

WARM_UP_WINDOW = 20
"""Latest calls whose spread says whether latency has settled."""

WARM_UP_CV = 0.01
"""Coefficient of variation of those calls below which it has."""

WARM_UP_CALLS = 1000
"""Most calls of a warm-up; its time has a cap of its own."""

SETTLE_CALLS = 5
"""Untimed calls before each window: another engine ran just before, so caches and clocks are not yet this one's."""


def warm_up(
    infer: Infer, inputs: Sequence[NDArray[np.float32]], cap_s: float, timer: Callable[[], float] = time.perf_counter
) -> tuple[int, float | None]:
    """Run until the latest ``WARM_UP_WINDOW`` calls vary by less than ``WARM_UP_CV``, or to a cap.

    Args:
        infer: What to run.
        inputs: Batches, cycled.
        cap_s: Seconds after which no further call begins; ``WARM_UP_CALLS`` calls are the other cap.
        timer: A monotonic clock in seconds.

    Returns:
        The number of calls, at least one, and the coefficient of variation of the latest; None where there were fewer
        than ``WARM_UP_WINDOW``.
    """
    began = timer()
    latest: deque[float] = deque(maxlen=WARM_UP_WINDOW)
    for count in range(1, WARM_UP_CALLS + 1):
        start = timer()
        infer(inputs[count % len(inputs)])
        end = timer()
        latest.append(end - start)
        variation = float(np.std(latest, ddof=1) / np.mean(latest)) if count >= WARM_UP_WINDOW else None
        if (variation is not None and variation < WARM_UP_CV) or end - began >= cap_s:
            break
    return count, variation


def settle(infer: Infer, inputs: Sequence[NDArray[np.float32]]) -> None:
    """Run the untimed calls that come before a window."""
    for index in range(SETTLE_CALLS):
        infer(inputs[index % len(inputs)])


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect garbage, and keep the cyclic collector off while the body runs."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def measure_window(
    infer: Infer, inputs: Sequence[NDArray[np.float32]], duration_s: float, clock: Callable[[], float]
) -> Trial:
    """Run back to back for a time and return every latency.

    The cyclic garbage collector is off inside the window. The window ends with the call that is running when the time
    is up, once its outputs are on the host, so the device has nothing left to do.

    Args:
        infer: What to run.
        inputs: Batches, cycled.
        duration_s: Least length of the window in seconds.
        clock: Gives seconds since the run began, on the clock that also stamps the power readings.
    """
    settle(infer, inputs)
    count = len(inputs)
    latency_ms: list[float] = []
    keep = latency_ms.append
    with uncollected():
        index = 0
        window_start = clock()
        window_end = window_start + duration_s
        end = window_start
        while end < window_end:
            batch = inputs[index % count]
            start = clock()
            infer(batch)
            end = clock()
            keep(1000 * (end - start))
            index += 1
    return Trial(start_s=window_start, end_s=end, latency_ms=tuple(round(value, 6) for value in latency_ms))
