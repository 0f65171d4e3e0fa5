"""Which power source a run reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from heartvit_edge.errors import InputError, MachineError
from heartvit_edge.power.ina3221 import Ina3221, why_no_sensor
from heartvit_edge.power.jtop import JtopSampler, why_unusable
from heartvit_edge.power.none import NoSampler
from heartvit_edge.power.nvml import Nvml, why_no_gpu_power
from heartvit_edge.power.polling import PollingSampler
from heartvit_edge.power.rapl import Rapl, why_no_counter
from heartvit_edge.power.replay import ReplaySampler
from heartvit_edge.power.sampler import Clock, Sampler
from heartvit_edge.power.totals import check_rails
from heartvit_edge.spec.measurement import Measurement, PowerTrace

Processor = Literal["cpu", "gpu"]
"""What runs the engines: a source that does not see it is never chosen by itself."""

REPLAY = "replay:"
"""Begins a choice that names the measurement whose trace is read again."""

SOURCES = ("ina3221", "jtop", "nvml", "rapl")
"""Best first: the board's own sensors, those through a daemon, a GPU's card, a processor's package."""

ASKED = ("auto", *SOURCES, "none", f"{REPLAY}FILE")

NO_RAIL = "leave --total-rail out, or name a power source: --power"

REASONS = {
    "ina3221": "the board's own sensors answer, and need no daemon",
    "jtop": "its service answers with the board's own rails",
    "nvml": "the engines run on this GPU",
    "rapl": "the engines run on this processor",
}


def check_power(asked: str, root: Path = Path("/")) -> None:
    """Return only if ``asked`` is one of ``ASKED`` and, where it names a source or a recording, that can be read here.

    Raises:
        InputError: If it is none of them, or the recording is no measurement with a trace.
        MachineError: If the source cannot be read; the hint says what puts that right.
    """
    if asked not in ASKED[:-1] and not asked.startswith(REPLAY):
        raise InputError(f"--power is {asked!r}, expected one of {', '.join(ASKED)}", hint="--power auto")
    if asked.startswith(REPLAY):
        _recorded(asked)
    if asked in SOURCES and (missing := lacks(asked, root)):
        raise missing


def lacks(source: str, root: Path = Path("/")) -> MachineError | None:
    """Return what stands against reading a source on this machine; None if nothing does.

    Args:
        source: One of ``SOURCES``.
        root: Where ``sys`` and ``run`` are looked for.
    """
    looks: dict[str, Callable[[], MachineError | None]] = {
        "ina3221": partial(why_no_sensor, root / "sys"),
        "jtop": partial(why_unusable, root / "run" / "jtop.sock"),
        "nvml": why_no_gpu_power,
        "rapl": partial(why_no_counter, root / "sys"),
    }
    return looks[source]()


@contextmanager
def choose(
    asked: str,
    *,
    interval_s: float,
    clock: Clock,
    processor: Processor = "cpu",
    total_rails: Sequence[str] = (),
    root: Path = Path("/"),
) -> Iterator[Sampler]:
    """Give a sampler that has begun to read; its ``why`` says why it was chosen.

    Args:
        asked: ``auto`` reads the best source that sees the processor; ``none`` reads nothing; ``replay:FILE`` hands out
            again the trace in a measurement; the name of a source reads it or fails.
        interval_s: Time between readings to ask the source for.
        clock: Gives seconds since the run began.
        processor: What runs the engines.
        total_rails: Rails that the source must have, because they were named for the total.
        root: Where ``sys`` and ``run`` are looked for.

    Raises:
        InputError: If ``asked`` is none of these, the file holds no trace, or a rail was named that is not there.
        MachineError: If a source was asked for by name and cannot be read, the hint says what puts that right; or rails
            were named and nothing can be read.
    """
    check_power(asked, root)
    with ExitStack() as stack:
        sampler: Sampler
        if asked == "auto":
            sampler = _best(stack, interval_s, clock, processor, root)
        elif asked == "none":
            sampler = NoSampler("power was not asked for: --power none")
        elif asked.startswith(REPLAY):
            sampler = stack.enter_context(ReplaySampler(_recorded(asked), clock))
        else:
            sampler = stack.enter_context(_open(asked, interval_s, clock, "asked for", root))
        if sampler.name != "none":
            check_rails(total_rails, sampler.labels, sampler.name)
        elif total_rails:
            raise MachineError(f"--total-rail names {', '.join(total_rails)}: {sampler.why}", hint=NO_RAIL)
        yield sampler


def _best(stack: ExitStack, interval_s: float, clock: Clock, processor: Processor, root: Path) -> Sampler:
    """Return the first source that sees the processor and can be read, open; or one that reads nothing and says why."""
    reasons = []
    for source in SOURCES:
        reason: object = _blind(source, processor) or lacks(source, root)
        if reason is None:
            try:
                return stack.enter_context(_open(source, interval_s, clock, REASONS[source], root))
            except MachineError as err:
                reason = err
        reasons.append(f"{source}: {reason}")
    return NoSampler(f"no power source was found: {'; '.join(reasons)}")


def _blind(source: str, processor: Processor) -> str | None:
    """Return why a source does not see what runs the engines; None if it does."""
    if source == "nvml" and processor == "cpu":
        return "the engines run on the CPU, which it does not see"
    if source == "rapl" and processor == "gpu":
        return "the engines run on the GPU, which it does not see"
    return None


def _open(source: str, interval_s: float, clock: Clock, why: str, root: Path) -> Sampler:
    """Return the sampler of a source, not entered yet."""
    if source == "jtop":
        return JtopSampler(clock, interval_s, why)
    if source == "ina3221":
        return PollingSampler(partial(Ina3221, root / "sys"), clock, interval_s, why)
    if source == "nvml":
        return PollingSampler(Nvml, clock, interval_s, why)
    return PollingSampler(partial(Rapl, root / "sys"), clock, interval_s, why)


def _recorded(asked: str) -> PowerTrace:
    """Return the trace of ``replay:FILE``; a folder stands for the measurement in it."""
    named = asked.removeprefix(REPLAY)
    path = Path(named) / "measurement.json" if Path(named).is_dir() else Path(named)
    if not named or not path.is_file():
        raise InputError(
            f"--power is {asked!r}, expected a measurement whose trace to replay", hint=f"{REPLAY}RUN/measurement.json"
        )
    trace = Measurement.read(path).power
    if trace is None:
        raise InputError(f"{path} holds no power trace to replay", hint="name a measurement that has energy")
    return trace
