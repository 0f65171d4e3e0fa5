"""What ``bench`` prints of a measurement: a table for a person, JSON for a machine."""

from __future__ import annotations

import json
from pathlib import Path

from heartvit_edge.bench.board_figures import (
    busiest_share,
    hottest_c,
    others_cpu_share,
    throttle_causes,
    throttled,
    wandering_clocks,
    wandering_mhz,
)
from heartvit_edge.bench.energy_figures import achieved_rate_hz, energy_figures, energy_ratio, largest_gap_s
from heartvit_edge.bench.figures import Figure, latency_figures, ratio_figures
from heartvit_edge.bench.floors import floors
from heartvit_edge.bench.scenario import HEADLINES, best_offline, headline
from heartvit_edge.cli.table import aligned
from heartvit_edge.report.formats import interval_text, value_text
from heartvit_edge.report.notes import footnotes, numbered
from heartvit_edge.spec.measurement import EntryMeasurement, Measurement


def as_table(measurement: Measurement) -> str:
    """Return one line a row, and beneath them the reasons for missing figures and what a reader must know.

    Floors and energy have columns where any row has them, and waiting takes the loop's where requests come at random.
    """
    energies = [energy_figures(measurement, row) for row in measurement.rows]
    least_ms = [floors(measurement, row).least_ms for row in measurement.rows]
    has_energy = any(energy.mj_per_inference.value is not None for energy in energies)
    has_floor = any(floor is not None for floor in least_ms)
    header = (
        *("entry", "batch", "samples", "p50 ms (95 % CI)", "p90 ms", "p99 ms", "mean ms"),
        *(("floor ms",) if has_floor else ()),
        *(("waiting ms",) if measurement.arrival_per_s else ("loop µs",)),
        *("images/s", "latency / dense (95 % CI)"),
        *(("mJ / inference (95 % CI)", "net mJ", "energy / dense") if has_energy else ()),
    )
    lines: list[tuple[str, ...]] = []
    reasons: dict[str, list[str]] = {}
    for row, energy, floor in zip(measurement.rows, energies, least_ms, strict=True):
        latency, ratio = latency_figures(row), ratio_figures(measurement, row).latency
        of_dense = energy_ratio(measurement, row)
        joules = (energy.mj_per_inference, energy.net_mj_per_inference, of_dense)
        lines.append(
            (
                row.entry,
                str(row.batch_size),
                str(latency.num_samples),
                _with_interval(latency.p50_ms),
                *map(value_text, (latency.p90_ms, latency.p99_ms, latency.mean_ms)),
                *(("—" if floor is None else f"{floor:.3g}",) if has_floor else ()),
                value_text(latency.waiting_ms if measurement.arrival_per_s else latency.host_overhead_us),
                value_text(latency.images_per_s),
                _with_interval(ratio),
                *(map(_with_interval, joules) if has_energy else ()),
            )
        )
        shown = (latency.p90_ms, latency.p99_ms, ratio)
        for what, figures in (("", shown), ("energy: ", joules)):
            for reason in dict.fromkeys(figure.reason for figure in figures if figure.reason is not None):
                reasons.setdefault(f"{what}{reason}", []).append(_label(row))
    return "\n".join([aligned(header, lines), *_notes(reasons, len(lines)), *remarks(measurement)])


def _notes(reasons: dict[str, list[str]], num_rows: int) -> list[str]:
    """Return a line for each kind of reason, behind the rows that it holds for unless it holds for all."""
    kinds = numbered(reasons)
    found = []
    for number, words in footnotes(kinds).items():
        rows = [label for reason, labels in reasons.items() if kinds[reason] == number for label in labels]
        labels = dict.fromkeys(rows)
        found.append(f"— {words}" if len(labels) == num_rows else f"— {', '.join(labels)}: {words}")
    return found


def remarks(measurement: Measurement) -> list[str]:
    """Return what holds for a whole measurement: its scenario, its energy, what the machine did meanwhile."""
    found = []
    if measurement.scenario is not None:
        for row in measurement.rows:
            figure = headline(measurement.scenario, row)
            text = _with_interval(figure) if figure.value is not None else f"— ({figure.reason})"
            found.append(f"{measurement.scenario}: {_label(row)}: {HEADLINES[measurement.scenario]} {text}")
        if measurement.scenario == "offline":
            best = [f"{entry} at batch size {size}" for entry, size in best_offline(measurement).items()]
            found.append(f"offline: most images a second: {', '.join(best)}")
    if measurement.arrival_per_s is not None:
        found.append(
            f"requests came at random times, {measurement.arrival_per_s:g} a second: latencies contain waiting"
        )
    trace = measurement.power
    if trace is not None:
        found.append(f"energy: gross, from {trace.source}; {trace.total_rule}")
        found += [f"energy: {note}" for note in trace.notes]
    if measurement.limits is not None:
        found.append(f"floor: the larger of reading the weights and of the arithmetic; {measurement.limits.source}")
    for causes, rows in throttled(measurement).items():
        found.append(f"{', '.join(map(_label, rows))}: slowed down: {'; '.join(causes)}")
    if clocks := wandering_mhz(measurement):
        ends = ", ".join(f"{name} {low:.0f} to {high:.0f} MHz" for name, (low, high) in clocks.items())
        found.append(f"clocks are not locked, and moved: {ends}")
    if share := busiest_share(measurement):
        found.append(f"other processes used up to {100 * share:.0f} % of the processor: measure on a quiet machine")
    if any(len(row.trials) < 3 for row in measurement.rows):
        found.append("fewer than three trials: intervals between trials are wide or missing")
    return found


def as_json(measurement: Measurement, target: Path, *, in_one_line: bool) -> str:
    """Return every figure as JSON; in one line where more than one measurement is printed."""
    trace = measurement.power
    power = trace and {
        "source": trace.source,
        "interval_ms": trace.interval_ms,
        "achieved_rate_hz": achieved_rate_hz(trace),
        "largest_gap_s": largest_gap_s(trace),
        "num_dropped": trace.num_dropped,
        "total_rails": trace.total_rails,
        "total_rule": trace.total_rule,
        "notes": trace.notes,
    }
    content = {
        "measurement": str(target),
        "backend": measurement.backend,
        "precision": measurement.precision,
        "power_mode": measurement.machine.power_mode,
        "scenario": measurement.scenario,
        "arrival_per_s": measurement.arrival_per_s,
        "power": power,
        "no_power_reason": measurement.no_power_reason,
        "limits": measurement.limits and measurement.limits.model_dump(mode="json"),
        "rows": [_row_json(measurement, row) for row in measurement.rows],
    }
    return json.dumps(content, indent=None if in_one_line else 1)


def _row_json(measurement: Measurement, row: EntryMeasurement) -> dict[str, object]:
    floor = floors(measurement, row)
    return {
        "entry": row.entry,
        "batch_size": row.batch_size,
        "macs_fraction": measurement.pack.entry(row.entry).plan.macs_fraction,
        "warm_up_count": row.warm_up_count,
        "warm_up_stable": row.warm_up_stable,
        "latency": latency_figures(row).model_dump(mode="json"),
        "ratio_to_dense": ratio_figures(measurement, row).model_dump(mode="json"),
        "energy": energy_figures(measurement, row).model_dump(mode="json"),
        "energy_ratio_to_dense": energy_ratio(measurement, row).model_dump(mode="json"),
        "floors": {"weights_ms": floor.weights_ms, "arithmetic_ms": floor.arithmetic_ms},
        "slowed_down_by": throttle_causes(measurement, row),
        "wandering_clocks": wandering_clocks(measurement, row),
        "hottest_c": hottest_c(measurement, row),
        "others_cpu_share": others_cpu_share(measurement, row),
    }


def _label(row: EntryMeasurement) -> str:
    return f"{row.entry} batch {row.batch_size}"


def _with_interval(figure: Figure) -> str:
    interval = interval_text(figure)
    return value_text(figure) + (f" ({interval})" if interval else "")
