"""Measuring the engines of a pack, once or in each of several power modes, and keeping what was measured."""

from __future__ import annotations

import itertools
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from heartvit_edge.cli.build_engine import choose_entries
from heartvit_edge.cli.console import say
from heartvit_edge.cli.run_folder import run_file
from heartvit_edge.cli.window_progress import window_progress
from heartvit_edge.engines.signals import termination_as_exit
from heartvit_edge.errors import HeartViTError, InputError, MachineError
from heartvit_edge.spec.engine import Backend, Precision
from heartvit_edge.spec.pack import BudgetPack

if TYPE_CHECKING:
    from heartvit_edge.bench.scenario import Pace
    from heartvit_edge.bench.stored import StoredEngine
    from heartvit_edge.power.modes import PowerModes
    from heartvit_edge.power.sampler import PowerLostError
    from heartvit_edge.runtime.open import CudaChoice
    from heartvit_edge.spec.measurement import Measurement, Scenario


@dataclass(frozen=True)
class Wanted:
    """What was asked for; empty or None where it is left to the engines or the machine."""

    backend: Backend | None
    precision: Precision | None
    variant: str | None
    budgets: tuple[str, ...]
    sizes: tuple[int, ...]
    scenario: Scenario | None
    arrival: str | None
    pace: Pace
    power: str
    interval_ms: float
    total_rails: tuple[str, ...]
    modes: tuple[str, ...]
    bandwidth_gb_s: float | None
    peak_tmac_s: float | None
    any_power_mode: bool
    choice: CudaChoice


@dataclass(frozen=True)
class Prepared:
    """What is to run: engines that are whole, and the batch sizes that they serve."""

    pack: BudgetPack
    engines: tuple[StoredEngine, ...]
    sizes: tuple[int, ...]
    arrival_per_s: float | None


def run_bench(pack: Path, out: Path, engines: Path, wanted: Wanted, *, yes: bool, json: bool, force: bool) -> None:
    """Measure, store and print; in each power mode that was named, in turn.

    Raises:
        InputError: If something asked for cannot be used, or a file exists and ``force`` is not set.
        MachineError: If the machine lacks what was asked for, a power source died in mid-run, or what was measured
            could not be stored where it should; it is kept elsewhere then.
        CheckError: If an engine cannot be loaded.
    """
    from heartvit_edge.power.choose import check_power
    from heartvit_edge.power.modes import PowerModes
    from heartvit_edge.report.runs import MEASUREMENT

    _refuse_what_contradicts(wanted, yes=yes)
    folders = [out / _folder_name(mode) for mode in wanted.modes] or [out]
    targets = [run_file(folder, MEASUREMENT, force=force) for folder in folders]
    check_power(wanted.power)
    prepared = _prepare(pack, engines, wanted)
    failure: HeartViTError | None = None
    with ExitStack() as stack:
        stack.enter_context(termination_as_exit())
        modes = stack.enter_context(PowerModes(say, interval_s=wanted.interval_ms / 1000)) if wanted.modes else None
        if modes is not None:
            modes.check(wanted.modes)
            _confirm(modes.former, wanted.modes, yes=yes)
        for mode, target in zip(wanted.modes or (None,), targets, strict=True):
            measurement, lost = _measure(prepared, wanted, modes, mode)
            failure = (
                _keep(measurement, target, json=json, one_of_several=len(targets) > 1, force=force) or lost or failure
            )
    if len(folders) > 1:
        say(f"compare the modes: {shlex.join(['heartvit-edge', 'report', *map(str, folders)])} --latency-limit MS")
    if failure is not None:
        raise failure


def _refuse_what_contradicts(wanted: Wanted, *, yes: bool) -> None:
    """Return only if every option that was given can have an effect.

    Raises:
        InputError: If one cannot beside the others.
    """
    if wanted.scenario is not None and wanted.arrival is not None:
        raise InputError(
            f"--scenario {wanted.scenario} sends a request when the last is answered, --arrival {wanted.arrival} lets "
            "them come at random: expected one of the two",
            hint="leave --scenario out; random arrivals are what MLPerf calls Server",
        )
    if yes and not wanted.modes:
        raise InputError("--yes goes with --power-mode alone", hint="leave --yes out")
    if wanted.total_rails and wanted.power == "none":
        raise InputError("--total-rail names rails, --power none reads none", hint="leave --total-rail out")


def _folder_name(mode: str) -> str:
    """Return a power mode as the name of a folder.

    Raises:
        InputError: If it is empty, or no name of one.
    """
    if not mode or "/" in mode or mode.startswith("."):
        raise InputError(f"--power-mode is {mode!r}, expected the name of a mode", hint="sudo nvpmodel -p --verbose")
    return mode


def _prepare(pack: Path, engines: Path, wanted: Wanted) -> Prepared:
    from heartvit_edge.bench.arrivals import parse_arrival
    from heartvit_edge.bench.scenario import scenario_sizes
    from heartvit_edge.bench.stored import check_batch_sizes, find_engines
    from heartvit_edge.engines.fingerprint import detect_machine
    from heartvit_edge.spec.engine import BatchRange

    arrival_per_s = parse_arrival(wanted.arrival) if wanted.arrival else None
    content = BudgetPack.open(pack)
    names = choose_entries(content, list(wanted.budgets))
    found = find_engines(
        pack,
        content,
        names,
        engines,
        wanted.backend,
        wanted.precision,
        detect_machine(),
        variant=wanted.variant,
        any_power_mode=wanted.any_power_mode or bool(wanted.modes),
    )
    ranges = [engine.manifest.batch for engine in found]
    low, high = max(one.min for one in ranges), min(one.max for one in ranges)
    sizes: Sequence[int] = wanted.sizes or (low,)
    if wanted.scenario is not None:
        sizes = scenario_sizes(wanted.scenario, wanted.sizes, BatchRange(min=low, opt=low, max=high))
    check_batch_sizes(pack, engines, found, sizes)
    say(f"engines: {found[0].kind}, {len(found)} from {engines}")
    return Prepared(content, found, tuple(sizes), arrival_per_s)


def _confirm(former: str, modes: Sequence[str], *, yes: bool) -> None:
    """Ask before power modes are changed, for the whole machine and everything on it.

    Raises:
        InputError: If nobody can be asked, or the answer is no.
    """
    what = f"the board's power mode will change from {former} to {', then '.join(modes)}, and back to {former}"
    if yes:
        say(what)
        return
    if not sys.stdin.isatty():
        raise InputError(f"{what}: that needs a yes", hint="add --yes")
    if not typer.confirm(f"{what}. Go on?", err=True):
        raise InputError("power modes were left as they are", hint="leave --power-mode out")


def _measure(
    prepared: Prepared, wanted: Wanted, modes: PowerModes | None, mode: str | None
) -> tuple[Measurement, PowerLostError | None]:
    """Measure once, in a power mode where one is named."""
    from heartvit_edge.bench.floors import find_limits
    from heartvit_edge.bench.run import Power, measure_engines
    from heartvit_edge.bench.session import Schedule
    from heartvit_edge.bench.stored import processor_of
    from heartvit_edge.engines.fingerprint import detect_machine

    if modes is not None and mode is not None:
        modes.set(mode)
    machine = detect_machine()
    if mode is not None:
        machine = machine.model_copy(update={"power_mode": mode})
    manifest, pace = prepared.engines[0].manifest, wanted.pace
    limits = find_limits(machine, manifest.precision, processor_of(manifest), wanted.bandwidth_gb_s, wanted.peak_tmac_s)
    facts = {
        "machine": machine,
        "command": shlex.join(["heartvit-edge", *sys.argv[1:]]),
        "scenario": wanted.scenario,
        "limits": limits,
    }
    num_workloads = len(prepared.engines) * len(prepared.sizes)
    say(f"this takes up to about {pace.time_text(num_workloads)}")
    with window_progress(num_workloads * (1 + pace.num_trials)) as (tell, step):
        return measure_engines(
            prepared.pack,
            prepared.engines,
            prepared.sizes,
            Schedule(pace.duration_s, pace.num_trials, pace.cool_down_s, prepared.arrival_per_s),
            Power(wanted.power, wanted.interval_ms / 1000, wanted.total_rails, pace.idle_s),
            facts,
            tell,
            step,
            wanted.choice,
        )


def _keep(
    measurement: Measurement, target: Path, *, json: bool, one_of_several: bool, force: bool
) -> HeartViTError | None:
    """Store a measurement and print its figures; return what went wrong, after keeping it elsewhere.

    Minutes of measuring must not be lost to a full disk.
    """
    from heartvit_edge.cli.bench_text import as_json, as_table

    stored, failure = target, None
    try:
        measurement.write(target, force=force)
    except (OSError, InputError, MachineError) as err:
        words = f"{getattr(err, 'strerror', None) or err}"
        reason = words if words.startswith(str(target)) else f"{target} cannot be written: {words}"
        stored = _spare(target)
        try:
            measurement.write(stored, force=False)
        except (OSError, InputError, MachineError):
            typer.echo(measurement.to_json())
            return MachineError(
                f"{reason}; the measurement itself is printed", hint="make room, and save what is above"
            )
        hint = shlex.join(["mv", str(stored), str(target)])
        failure = MachineError(f"{reason}; the measurement is kept in {stored}", hint=f"make room, then: {hint}")
    figures = as_json(measurement, stored, in_one_line=one_of_several) if json else as_table(measurement)
    typer.echo(figures if json else f"{figures}\n{stored}")
    return failure


def _spare(target: Path) -> Path:
    """Return a path in the temporary folder at which nothing is: what is kept of one run never replaces another's."""
    folder, name = Path(tempfile.gettempdir()), f"{target.parent.name}-{target.stem}"
    first = folder / f"{name}{target.suffix}"
    others = (folder / f"{name}-{number}{target.suffix}" for number in itertools.count(2))
    return next(path for path in itertools.chain([first], others) if not path.exists())
