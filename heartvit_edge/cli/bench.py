"""``heartvit-edge bench``: latency, throughput and energy of the engines of a pack."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from heartvit_edge.cli import engine_options as options
from heartvit_edge.cli.profile_table import refuse_options_of_engines, run_profile
from heartvit_edge.cli.run_bench import Wanted, run_bench
from heartvit_edge.errors import InputError

MOST_S = 86_400.0
"""Longest window, idle window or rest: a day."""


class ScenarioName(str, Enum):
    """MLPerf's ways to ask."""

    single_stream = "single-stream"
    multi_stream = "multi-stream"
    offline = "offline"


def bench(
    pack: options.Pack,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Folder for measurement.json.", show_default=False)
    ] = None,
    profile_table: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE.json",
            help="Instead: measure what one block costs by tokens and heads, for plans under a latency or energy "
            "budget, and store it here. Needs no engines.",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            help="With --profile-table: token counts, prefix included, beside all tokens; repeat, or separate by "
            "commas.",
            show_default="up to 12 multiples of 8",
        ),
    ] = None,
    heads: Annotated[
        list[str] | None,
        typer.Option(
            help="With --profile-table: head counts beside all heads; repeat, or separate by commas.",
            show_default="up to 4 from 1 on",
        ),
    ] = None,
    engines: Annotated[
        Path | None, typer.Option(help="Where `heartvit-edge build-engine` stored the engines.", show_default="engines")
    ] = None,
    backend: options.BuiltBackend = None,
    precision: options.BuiltPrecision = None,
    variant: options.BuiltVariant = None,
    budget: options.Entries = None,
    batch_size: Annotated[
        list[str] | None,
        typer.Option(
            help="Images an inference; repeat, or separate by commas, for more.",
            show_default="the smallest that the engines serve: 1",
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=MOST_S,
            metavar="SECONDS",
            help="Length of a trial, and the cap of each warm-up.",
            show_default="3",
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Trials of each engine and batch size, in turn with the others.")
    ] = 3,
    idle: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=MOST_S,
            metavar="SECONDS",
            help="Length of the idle window, where power is read; 0: none.",
            show_default="3",
        ),
    ] = None,
    cool_down: Annotated[
        float | None,
        typer.Option(min=0, max=MOST_S, metavar="SECONDS", help="Rest before each trial.", show_default="0"),
    ] = None,
    scenario: Annotated[
        ScenarioName | None,
        typer.Option(
            help="MLPerf's: one image at a time, eight, or any number (which sweeps batch sizes).",
            show_default="the batch sizes given, back to back",
        ),
    ] = None,
    arrival: Annotated[
        str | None,
        typer.Option(
            metavar="poisson:RATE",
            help="Let requests come at random times, RATE a second, whether or not the engine is free.",
            show_default="each as the one before is answered",
        ),
    ] = None,
    mlperf: Annotated[
        bool,
        typer.Option(
            "--mlperf", help="Trials of 600 s, 60 s of rest before each, 60 s idle; single-stream by default."
        ),
    ] = False,
    power_mode: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Measure in each of these power modes of the board, by name, into RUN/NAME, and put the former back; "
            "repeat, or separate by commas.",
            show_default="the one in force",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Change power modes without asking.")] = False,
    power: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="Where power readings come from: auto (the best that sees what runs the engines), ina3221, jtop, "
            "nvml, rapl, none, or replay:FILE for the trace in a measurement.",
        ),
    ] = "auto",
    interval_ms: Annotated[
        float,
        typer.Option(
            min=10, max=60_000, help="Time between power readings to ask for; the service may run at another."
        ),
    ] = 100.0,
    total_rail: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL", help="Rail that counts for the total; repeat.", show_default="by the board's rule"
        ),
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="GB/S", help="Memory bandwidth, for the floors.", show_default="by a table"),
    ] = None,
    peak: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            metavar="TMAC/S",
            help="Most multiply-accumulates a second in 10^12, for the floors.",
            show_default="by a table",
        ),
    ] = None,
    cuda_binding: options.Binding = options.BindingName.cuda_python,
    cuda_graph: options.Graphs = True,
    any_power_mode: options.AnyPowerMode = False,
    json: options.Json = False,
    force: Annotated[bool, typer.Option("--force", help="Replace RUN/measurement.json, or TABLE.json.")] = False,
) -> None:
    """Measure latency, throughput and, where there is a power source, energy of the engines of PACK.

    Each engine runs on random images until its latency has settled, then all of them in turn: A B C A B C. Every
    sample is stored in RUN/measurement.json, and the figures printed are computed from it. `heartvit-edge schema
    measurement` describes that file.

    With --profile-table, engines of a few blocks of the dense model are built on the way, for TensorRT where it can be
    used and in fp32 unless told otherwise, and timed by tokens and heads: what `heartvit-edge plan` needs for a budget
    in milliseconds or millijoules on this machine.

    Example: heartvit-edge bench pack --batch-size 1 --batch-size 8 --out run

    Example: heartvit-edge bench pack --power-mode MAXN,30W --yes --duration 30 --out sweep

    Example: heartvit-edge bench pack --profile-table table.json --precision fp16
    """
    sizes = parse_counts("--batch-size", batch_size or [])
    if profile_table is not None:
        built = {"--out": out, "--budget": budget, "--engines": engines, "--any-power-mode": any_power_mode}
        asked = {"--scenario": scenario, "--arrival": arrival, "--mlperf": mlperf, "--power-mode": power_mode}
        kept = {"--variant": variant}
        paced = {"--idle": idle is not None, "--cool-down": cool_down is not None, "--yes": yes}
        limits = {"--total-rail": total_rail, "--bandwidth": bandwidth, "--peak": peak}
        refuse_options_of_engines({**built, **kept, **asked, **paced, **limits}, sizes)
        if precision is options.PrecisionName.int8:
            raise InputError(
                "INT8 needs images, which a table of single blocks has none of", hint="--precision fp16, or fp32"
            )
        run_profile(
            pack,
            profile_table,
            backend=backend.value if backend else None,
            precision=precision.value if precision else "fp32",
            batch_size=sizes[0] if sizes else 1,
            tokens=parse_counts("--tokens", tokens or []),
            heads=parse_counts("--heads", heads or []),
            duration_s=3.0 if duration is None else duration,
            num_rounds=trials,
            power=power,
            interval_ms=interval_ms,
            choice=options.cuda_choice(cuda_binding, cuda_graph),
            json=json,
            force=force,
        )
        return
    if tokens or heads:
        option = "--tokens" if tokens else "--heads"
        raise InputError(f"{option} goes with --profile-table alone", hint=f"leave {option} out")
    if out is None:
        raise InputError("--out is missing, expected a folder for measurement.json", hint="add --out run")
    from heartvit_edge.bench.scenario import MLPERF, QUICK, Pace

    pace = MLPERF if mlperf else QUICK
    run_bench(
        pack,
        out,
        engines or Path("engines"),
        Wanted(
            backend=backend.value if backend else None,
            precision=precision.value if precision else None,
            variant=variant,
            budgets=tuple(budget or ()),
            sizes=tuple(sizes),
            scenario=scenario.value if scenario else "single-stream" if mlperf and not (sizes or arrival) else None,
            arrival=arrival,
            pace=Pace(
                duration_s=pace.duration_s if duration is None else duration,
                num_trials=trials,
                idle_s=pace.idle_s if idle is None else idle,
                cool_down_s=pace.cool_down_s if cool_down is None else cool_down,
            ),
            power=power,
            interval_ms=interval_ms,
            total_rails=tuple(total_rail or ()),
            modes=tuple(dict.fromkeys(name.strip() for text in power_mode or () for name in text.split(","))),
            bandwidth_gb_s=bandwidth,
            peak_tmac_s=peak,
            any_power_mode=any_power_mode,
            choice=options.cuda_choice(cuda_binding, cuda_graph),
        ),
        yes=yes,
        json=json,
        force=force,
    )


def parse_counts(option: str, texts: Sequence[str]) -> list[int]:
    """Return the counts of ``["1", "4,8"]`` in order, each once.

    Raises:
        InputError: If one is not a whole number of at least one; the message names the option.
    """
    counts: dict[int, None] = {}
    for text in texts:
        for part in text.split(","):
            try:
                count = int(part)
            except ValueError:
                count = 0
            if count < 1:
                raise InputError(
                    f"{option} is {text!r}, expected whole numbers of at least 1",
                    hint=f"write {option} 1 {option} 8, or {option} 1,8",
                )
            counts[count] = None
    return list(counts)
