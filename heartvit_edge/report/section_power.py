"""The power trace with its windows, energy per rail, and the state of the machine meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.bench.energy_figures import achieved_rate_hz, largest_gap_s
from heartvit_edge.report.layout import figure, missing, scrolled, section
from heartvit_edge.report.markup import Markup, element, escaped
from heartvit_edge.report.palette import Series, legend, of_one_pack
from heartvit_edge.report.runs import Run
from heartvit_edge.report.svg_power import power_plot
from heartvit_edge.report.table import noted_table
from heartvit_edge.report.tables_of_power import energy_table, rails_table, state_table
from heartvit_edge.spec.measurement import Measurement, PowerTrace

IDLE = Series(name="idle", colour="idle", dash=None, mark="circle")
"""How the window in which nothing ran is drawn."""


def power(runs: Sequence[Run], styles: dict[tuple[str, str], Series]) -> Markup:
    """Return each run's power trace and energy by rail, or why there is none, and the state of the machine."""
    parts = []
    for run in runs:
        measurement = run.measurement
        name = f"{run.label}: " if len(runs) > 1 else ""
        if name:
            parts.append(element("h3", escaped(run.label), class_="run-name"))
        if measurement is None:
            parts.append(missing("No power trace: the run has no measurement.json, which bench makes."))
        elif measurement.power is None:
            parts.append(missing(f"No power trace: {measurement.no_power_reason}."))
        elif not measurement.power.times_s:
            parts.append(missing(f"No power trace: {measurement.power.source} gave no reading."))
        else:
            parts += _of_run(run.label, measurement, measurement.power, styles, name)
        if measurement is not None:
            parts += _state(measurement, name)
    return section("power", "Power", *parts)


def _of_run(
    label: str, measurement: Measurement, trace: PowerTrace, styles: dict[tuple[str, str], Series], name: str
) -> list[Markup]:
    drawn = of_one_pack(styles, label, [entry.name for entry in measurement.pack.entries])
    windows = [(drawn[row.entry], row.batch_size, trial) for row in measurement.rows for trial in row.trials]
    idle = [IDLE] if measurement.idle else []
    key = legend(dict.fromkeys([*idle, *(series for series, _, _ in windows)]), "area")
    plot = scrolled(power_plot(trace, windows, measurement.idle), "Power trace")
    note = ". ".join([f"Source: {trace.source}. Total: {trace.total_rule}", *trace.notes, f"{_readings(trace)}."])
    tables = ((energy_table(measurement), "Energy and power"), (rails_table(measurement), "Energy by rail"))
    return [
        figure(f"{name}Total power over the run", key, plot, note=note),
        *(part for table, words in tables if table for part in noted_table(table, f"{name}{words}")),
    ]


def _state(measurement: Measurement, name: str) -> list[Markup]:
    table = state_table(measurement)
    return noted_table(table, f"{name}State of the machine") if table else []


def _readings(trace: PowerTrace) -> str:
    rate, gap_s = achieved_rate_hz(trace), largest_gap_s(trace)
    if rate is None or gap_s is None:
        return "One reading"
    dropped = f", {trace.num_dropped} repeated or incomplete ones left out" if trace.num_dropped else ""
    return f"{rate:.3g} readings a second, the largest gap {1000 * gap_s:.0f} ms{dropped}"
