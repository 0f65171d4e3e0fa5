"""A window in which requests come when they will, not when the engine is free: open loop.

A loop that sends the next request when the last is answered never sees a queue: one slow call delays all that would
have come meanwhile, and they are not counted. Here each request has a time at which it comes, drawn before the window,
and is answered in turn; what it waited is part of its latency.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.bench.window import Infer, settle, uncollected
from heartvit_edge.errors import InputError
from heartvit_edge.spec.measurement import Trial

POISSON = "poisson:"
"""Begins the arrival whose gaps are exponential, as those of many who ask independently are."""

MAX_LOAD = 0.95
"""Share of the engine's time that requests may take: above, the queue grows for longer than a window lasts."""


def parse_arrival(text: str) -> float:
    """Return the mean rate a second of ``poisson:RATE``.

    Raises:
        InputError: If it is not that, or the rate is not above zero.
    """
    try:
        rate = float(text.removeprefix(POISSON)) if text.startswith(POISSON) else 0.0
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise InputError(
            f"--arrival is {text!r}, expected poisson:RATE with requests a second", hint="--arrival poisson:20"
        )
    return rate


def check_load(label: str, call_s: float, rate_per_s: float) -> None:
    """Return only if an engine keeps up with the requests.

    Args:
        label: What messages call the engine.
        call_s: Time of one call in seconds.
        rate_per_s: Requests a second.

    Raises:
        InputError: If requests take more than ``MAX_LOAD`` of its time.
    """
    if rate_per_s * call_s > MAX_LOAD:
        raise InputError(
            f"{label} answers {1 / call_s:.4g} requests a second, {rate_per_s:g} would come: its queue only grows",
            hint=f"--arrival {POISSON}{float(f'{0.7 / call_s:.2g}'):g}",
        )


def draw_arrivals(rate_per_s: float, duration_s: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return the times of a Poisson process within a window, in seconds from its start, shape (N,); at least one."""
    most = int(rate_per_s * duration_s + 12 * (rate_per_s * duration_s) ** 0.5 + 12)
    times: NDArray[np.float64] = np.cumsum(generator.exponential(1 / rate_per_s, most))
    return times[: max(1, int(np.searchsorted(times, duration_s)))]


def measure_open_window(
    infer: Infer,
    inputs: Sequence[NDArray[np.float32]],
    duration_s: float,
    clock: Callable[[], float],
    arrivals_s: NDArray[np.float64],
    sleep: Callable[[float], None] = time.sleep,
) -> Trial:
    """Answer each request in turn, no sooner than it comes, and return every wait and every call.

    The window lasts as long as asked, or until the last request is answered.

    Args:
        infer: What to run.
        inputs: Batches, cycled.
        duration_s: Least length of the window in seconds.
        clock: Gives seconds since the run began.
        arrivals_s: When requests come, in seconds from the window's start, ascending, shape (N,).
        sleep: Waits so many seconds; that it oversleeps counts as waiting.
    """
    settle(infer, inputs)
    waiting_ms: list[float] = []
    latency_ms: list[float] = []
    with uncollected():
        window_start = end = clock()
        for index, arrival_s in enumerate(arrivals_s.tolist()):
            comes = window_start + arrival_s
            batch = inputs[index % len(inputs)]
            while (left := comes - clock()) > 0:
                sleep(left)
            start = clock()
            infer(batch)
            end = clock()
            waiting_ms.append(1000 * (start - comes))
            latency_ms.append(1000 * (end - start))
        while (left := window_start + duration_s - clock()) > 0:
            sleep(left)
        end = max(end, clock())
    return Trial(
        start_s=window_start,
        end_s=end,
        latency_ms=tuple(round(value, 6) for value in latency_ms),
        waiting_ms=tuple(round(value, 6) for value in waiting_ms),
    )
