"""``heartvit-edge bench``: latency, throughput and energy of the engines of a pack."""

from __future__ import annotations

import json as jsonlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heartvit_edge.cli import engine_options as options
from heartvit_edge.cli.build_engine import choose_entries
from heartvit_edge.cli.console import say
from heartvit_edge.cli.profile_table import refuse_options_of_engines, run_profile
from heartvit_edge.cli.run_folder import run_file
from heartvit_edge.cli.table import aligned
from heartvit_edge.cli.window_progress import window_progress
from heartvit_edge.errors import InputError
from heartvit_edge.spec.pack import BudgetPack

if TYPE_CHECKING:
    from heartvit_edge.bench.figures import Figure
    from heartvit_edge.spec.measurement import Measurement


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
    budget: options.Entries = None,
    batch_size: Annotated[
        list[str] | None,
        typer.Option(help="Images an inference; repeat, or separate by commas, for more.", show_default="1"),
    ] = None,
    duration: Annotated[
        float, typer.Option(min=0.01, metavar="SECONDS", help="Length of a trial, and the cap of each warm-up.")
    ] = 3.0,
    trials: Annotated[
        int, typer.Option(min=1, help="Trials of each engine and batch size, in turn with the others.")
    ] = 3,
    power: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="Where power readings come from: auto (the best that sees what runs the engines), ina3221, jtop, nvml, "
            "rapl, none, or replay:FILE for the trace in a measurement.",
        ),
    ] = "auto",
    interval_ms: Annotated[
        float, typer.Option(min=10, help="Time between power readings to ask for; the service may run at another.")
    ] = 100.0,
    cuda_binding: options.Binding = options.BindingName.cuda_python,
    cuda_graph: options.Graphs = True,
    any_power_mode: options.AnyPowerMode = False,
    json: options.Json = False,
    force: Annotated[bool, typer.Option("--force", help="Replace RUN/measurement.json, or TABLE.json.")] = False,
) -> None:
    """Measure latency, throughput and, where there is a power source, gross energy of the engines of PACK.

    Each engine runs on random images until its latency has settled, then all of them in turn: A B C A B C. Every
    sample is stored in RUN/measurement.json, and the figures printed are computed from it.

    With --profile-table, engines of a few blocks of the dense model are built on the way, for TensorRT where it can be
    used and in fp32 unless told otherwise, and timed by tokens and heads: what `heartvit-edge plan` needs for a budget
    in milliseconds or millijoules on this machine.

    Example: heartvit-edge bench pack --batch-size 1 --batch-size 8 --out run

    Example: heartvit-edge bench pack --profile-table table.json --precision fp16
    """
    from heartvit_edge.bench.run import measure_engines
    from heartvit_edge.bench.session import Schedule
    from heartvit_edge.bench.stored import check_batch_sizes, find_engines
    from heartvit_edge.engines.fingerprint import detect_machine
    from heartvit_edge.report.runs import MEASUREMENT

    sizes = parse_counts("--batch-size", batch_size or ["1"])
    if profile_table is not None:
        built = {"--out": out, "--budget": budget, "--engines": engines, "--any-power-mode": any_power_mode}
        refuse_options_of_engines(built, sizes)
        if precision is options.PrecisionName.int8:
            raise InputError(
                "INT8 needs images, which a table of single blocks has none of", hint="--precision fp16, or fp32"
            )
        run_profile(
            pack,
            profile_table,
            backend=backend.value if backend else None,
            precision=precision.value if precision else "fp32",
            batch_size=sizes[0],
            tokens=parse_counts("--tokens", tokens or []),
            heads=parse_counts("--heads", heads or []),
            duration_s=duration,
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
    engines = engines or Path("engines")
    target = run_file(out, MEASUREMENT, force=force)
    content = BudgetPack.open(pack)
    names = choose_entries(content, budget or [])
    machine = detect_machine()
    found = find_engines(
        pack,
        content,
        names,
        engines,
        backend.value if backend else None,
        precision.value if precision else None,
        machine,
        any_power_mode=any_power_mode,
    )
    check_batch_sizes(pack, engines, found, sizes)
    say(f"engines: {found[0].manifest.backend} {found[0].manifest.precision}, {len(found)} from {engines}")
    with window_progress(len(found) * len(sizes) * (1 + trials)) as (tell, step):
        measurement, lost = measure_engines(
            content,
            found,
            sizes,
            Schedule(duration, trials),
            power,
            interval_ms / 1000,
            machine,
            shlex.join(["heartvit-edge", *sys.argv[1:]]),
            tell,
            step,
            options.cuda_choice(cuda_binding, cuda_graph),
        )
    measurement.write(target, force=force)
    typer.echo(_as_json(measurement, target) if json else f"{_as_table(measurement)}\n{target}")
    if lost is not None:
        raise lost


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


def _as_table(measurement: Measurement) -> str:
    from heartvit_edge.bench.figures import energy_figures, latency_figures, ratio_figures
    from heartvit_edge.report.formats import interval_text, value_text

    def with_interval(figure: Figure) -> str:
        interval = interval_text(figure)
        return value_text(figure) + (f" ({interval})" if interval else "")

    header = (
        *("entry", "batch", "samples", "p50 ms (95 % CI)", "p90 ms", "p99 ms", "mean ms"),
        *("images/s", "latency / dense (95 % CI)", "mJ / inference (95 % CI)"),
    )
    rows: list[tuple[str, ...]] = []
    reasons: dict[str, list[str]] = {}
    for row in measurement.rows:
        latency, energy = latency_figures(row), energy_figures(measurement, row)
        ratio = ratio_figures(measurement, row).latency
        rows.append(
            (
                row.entry,
                str(row.batch_size),
                str(latency.num_samples),
                with_interval(latency.p50_ms),
                value_text(latency.p90_ms),
                value_text(latency.p99_ms),
                value_text(latency.mean_ms),
                value_text(latency.images_per_s),
                with_interval(ratio),
                with_interval(energy.mj_per_inference),
            )
        )
        label = f"{row.entry} batch {row.batch_size}"
        for figure in (latency.p90_ms, latency.p99_ms, ratio, energy.mj_per_inference):
            if figure.reason is not None:
                reasons.setdefault(figure.reason, []).append(label)
    notes = [
        reason if len(labels) == len(rows) else f"{', '.join(labels)}: {reason}" for reason, labels in reasons.items()
    ]
    if measurement.power is not None:
        notes.append(f"energy: gross, from {measurement.power.source}; {measurement.power.total_rule}")
    return "\n".join([aligned(header, rows), *notes])


def _as_json(measurement: Measurement, target: Path) -> str:
    from heartvit_edge.bench.figures import achieved_rate_hz, energy_figures, latency_figures, ratio_figures

    trace = measurement.power
    power = trace and {
        "source": trace.source,
        "interval_ms": trace.interval_ms,
        "achieved_rate_hz": achieved_rate_hz(trace),
        "num_dropped": trace.num_dropped,
        "total_rails": trace.total_rails,
        "total_rule": trace.total_rule,
    }
    rows = [
        {
            "entry": row.entry,
            "batch_size": row.batch_size,
            "macs_fraction": measurement.pack.entry(row.entry).plan.macs_fraction,
            "warm_up_count": row.warm_up_count,
            "warm_up_stable": row.warm_up_stable,
            "latency": latency_figures(row).model_dump(mode="json"),
            "ratio_to_dense": ratio_figures(measurement, row).model_dump(mode="json"),
            "energy": energy_figures(measurement, row).model_dump(mode="json"),
        }
        for row in measurement.rows
    ]
    content = {
        "measurement": str(target),
        "backend": measurement.backend,
        "precision": measurement.precision,
        "power": power,
        "no_power_reason": measurement.no_power_reason,
        "rows": rows,
    }
    return jsonlib.dumps(content, indent=1)
