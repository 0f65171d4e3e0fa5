"""Energy by the samplers against the exact integral of power that is played into an emulated Orin NX.

    python -m benchmarks.energy_truth --out truth.json --check

Steps, ramps and bursts are written into sysfs files while the INA3221 sampler reads them a hundred times a second, and
while the real service of jetson-stats does at its own rate. What is compared with is the integral over when each value
was really written. jtop needs root, Linux and jetson-stats; it is left out, and said, elsewhere.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.claims import Claim, arguments, finish
from benchmarks.jtop_daemon import orin_board, why_not, write_orin
from benchmarks.power_player import Player
from heartvit_edge.power.energy import NoEnergyError, check_coverage, integrate_mj
from heartvit_edge.power.ina3221 import Ina3221
from heartvit_edge.power.jtop import JtopSampler
from heartvit_edge.power.polling import PollingSampler
from heartvit_edge.power.sampler import Sampler
from heartvit_edge.spec.measurement import PowerTrace

Course = Callable[[float], float]

RAIL = "VDD_IN"

REFUSED = 100.0
"""Stands for the error of an energy that was refused, in percent: it fails every claim."""


def steps(seconds: float) -> float:
    """Return 5, 9, 14 and 7 W in turn, 1.37 s each."""
    return (5000.0, 9000.0, 14000.0, 7000.0)[int(seconds / 1.37) % 4]


def ramps(seconds: float) -> float:
    """Return a triangle from 4 to 16 W and back in 3.1 s."""
    phase = seconds % 3.1 / 3.1
    return 4000 + 24000 * min(phase, 1 - phase)


def bursts(seconds: float) -> float:
    """Return 5 W, and 15 W once in every 1.7 s, for 0.4 to 0.9 s from an uneven time on.

    Bursts in step with the readings would all be cut at the same place, and no sampler could tell.
    """
    number, phase = divmod(seconds, 1.7)
    begins, length = 0.8 * (number * math.sqrt(3) % 1), 0.4 + 0.5 * (number * math.sqrt(2) % 1)
    return 15000.0 if begins <= phase < begins + length else 5000.0


COURSES: dict[str, Course] = {"steps": steps, "ramps": ramps, "bursts": bursts}


def compare(sampler: Sampler, currents: Path, course: Course, seconds: float) -> tuple[float, PowerTrace, float, float]:
    """Play one course, and return the error of its energy in percent, the trace and the window."""
    with Player(currents, course) as player, sampler:
        time.sleep(0.5)
        start = time.perf_counter()
        time.sleep(seconds)
        end = time.perf_counter()
        trace = sampler.stop()
        exact = player.energy_mj(start, end)
    found = integrate_mj(np.asarray(trace.times_s), np.asarray(trace.total_mw()), start, end)
    return 100 * (found / exact - 1), trace, start, end


def main() -> None:
    """Measure every course with every source, and print the errors."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each window, at least 10")
    args = parser.parse_args()
    clock = time.perf_counter
    claims: list[Claim] = []
    details: dict[str, object] = {}

    def measure(source: str, sampler: Sampler, currents: Path, course: str, at_most: float) -> None:
        name = f"error of energy, {source}, {course}, %"
        try:
            error, trace, start, end = compare(sampler, currents, COURSES[course], args.seconds)
        except NoEnergyError as err:
            print(f"{name}: {err}", file=sys.stderr)
            claims.append(Claim(name, REFUSED, at_most=at_most))
            details[name] = f"refused: {err}"
            return
        coverage = check_coverage(np.asarray(trace.times_s), start, end)
        claims.append(Claim(name, abs(error), at_most=at_most))
        details[name] = {
            "signed_percent": error,
            "rate_hz": coverage.rate_hz,
            "largest_gap_s": coverage.largest_gap_s,
            "interval_ms": trace.interval_ms,
        }
        print(f"{name}: {error:+.3f} at {coverage.rate_hz:.1f} Hz", file=sys.stderr)

    for course in COURSES:
        with tempfile.TemporaryDirectory() as folder:
            sysfs = Path(folder)
            currents = write_orin(sysfs)
            ina = PollingSampler(lambda root=sysfs: Ina3221(root), clock, 0.01, "asked for")  # type: ignore[misc]
            measure("ina3221 at 100 Hz", ina, currents[RAIL], course, 1.0)
    if reason := why_not():
        print(f"jtop is left out: {reason}", file=sys.stderr)
        details["jtop"] = reason
    for course in COURSES if reason is None else ():
        with tempfile.TemporaryDirectory() as folder, orin_board(Path(folder)) as orin:
            orin.start()
            jtop = JtopSampler(clock, 0.1, "asked for", command=orin.client)
            measure("jtop", jtop, orin.currents[RAIL], course, 3.0)
    finish(claims, details, args)


if __name__ == "__main__":
    main()
