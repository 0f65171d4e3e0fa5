"""The power trace with its windows, and energy per rail."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.bench.energy_figures import achieved_rate_hz, energy_figures, largest_gap_s
from heartvit_edge.report.formats import DASH, with_unit
from heartvit_edge.report.layout import figure, missing, scrolled, section
from heartvit_edge.report.markup import Markup
from heartvit_edge.report.palette import Series, legend, of_one_pack
from heartvit_edge.report.runs import Run
from heartvit_edge.report.svg_power import power_plot
from heartvit_edge.report.table import plain_table
from heartvit_edge.spec.measurement import Measurement, PowerTrace

FIGURES = (
    ("mj_per_inference", "mJ", "Gross an inference"),
    ("net_mj_per_inference", "mJ", "Net of idle"),
    ("inferences_per_j", "", "Inferences a joule"),
    ("energy_delay_mj_ms", "mJ·ms", "Energy-delay product"),
    ("mean_mw", "mW", "Mean power"),
    ("peak_mw", "mW", "Peak power"),
    ("idle_mw", "mW", "Idle power"),
)
"""Key, unit and heading of what the table of a run shows."""


def power(runs: Sequence[Run], styles: dict[tuple[str, str], Series]) -> Markup:
    """Return each run's power trace and energy per rail, or why there is none."""
    parts = []
    for run in runs:
        measurement = run.measurement
        name = f"{run.label}: " if len(runs) > 1 else ""
        if measurement is None:
            parts.append(missing(f"{name}No power trace: the run has no measurement.json, which bench makes."))
        elif measurement.power is None:
            parts.append(missing(f"{name}No power trace: {measurement.no_power_reason}."))
        elif not measurement.power.times_s:
            parts.append(missing(f"{name}No power trace: {measurement.power.source} gave no reading."))
        else:
            parts += _of_run(run.label, measurement, measurement.power, styles, name)
    return section("power", "Power", *parts)


def _of_run(
    label: str, measurement: Measurement, trace: PowerTrace, styles: dict[tuple[str, str], Series], name: str
) -> list[Markup]:
    drawn = of_one_pack(styles, label, [entry.name for entry in measurement.pack.entries])
    windows = [(drawn[row.entry], row.batch_size, trial) for row in measurement.rows for trial in row.trials]
    key = legend(dict.fromkeys(series for series, _, _ in windows), "area")
    plot = scrolled(power_plot(trace, windows, measurement.idle), "Power trace")
    note = ". ".join([f"Source: {trace.source}. Total: {trace.total_rule}", *trace.notes, _readings(trace)])
    rails = tuple(trace.rails_mw)
    lines, figures = [], []
    for row in sorted(measurement.rows, key=lambda row: row.batch_size):
        energy = energy_figures(measurement, row)
        found = energy.rails_mj_per_inference
        shown = [with_unit(getattr(energy, key), unit) for key, unit, _ in FIGURES]
        figures.append([f"{row.entry}, batch size {row.batch_size}", *shown])
        cells = [with_unit(found[rail], "mJ") if rail in found else DASH for rail in rails]
        lines.append([f"{row.entry}, batch size {row.batch_size}", *cells])
    table = plain_table(("Energy per inference", *rails), lines, f"{name}Energy per rail")
    headings = ("Energy and power", *(heading for _, _, heading in FIGURES))
    whole = plain_table(headings, figures, f"{name}Energy and power")
    return [figure(f"{name}Total power over the run", key, plot, note=note), whole, table]


def _readings(trace: PowerTrace) -> str:
    rate, gap_s = achieved_rate_hz(trace), largest_gap_s(trace)
    if rate is None or gap_s is None:
        return "One reading"
    dropped = f", {trace.num_dropped} readings dropped" if trace.num_dropped else ""
    return f"{rate:.3g} readings a second, the largest gap {1000 * gap_s:.0f} ms{dropped}"
