"""The power trace with its windows, energy per rail, and the state of the machine meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.bench.board_figures import clocks_mhz, hottest_c, throttle_causes
from heartvit_edge.bench.energy_figures import achieved_rate_hz, energy_figures, largest_gap_s, scaled
from heartvit_edge.report.figure_cells import Cell, figure_table
from heartvit_edge.report.layout import figure, missing, scrolled, section
from heartvit_edge.report.markup import Markup
from heartvit_edge.report.palette import Series, legend, of_one_pack
from heartvit_edge.report.runs import Run
from heartvit_edge.report.svg_power import power_plot
from heartvit_edge.report.table import noted_table, plain_table
from heartvit_edge.spec.measurement import EntryMeasurement, Measurement, PowerTrace

FIGURES = (
    ("mj_per_inference", 1.0, "mJ", "Gross an inference"),
    ("net_mj_per_inference", 1.0, "mJ", "Net of idle"),
    ("inferences_per_j", 1.0, "", "Inferences a joule"),
    ("energy_delay_mj_ms", 1.0, "mJ·ms", "Energy-delay product"),
    ("mean_mw", 1e-3, "W", "Mean power"),
    ("peak_mw", 1e-3, "W", "Peak power"),
    ("idle_mw", 1e-3, "W", "Idle power"),
)
"""Key, what one of its units is in the shown one, that unit, and heading of what the table of a run shows."""

IDLE = Series(name="idle", colour="idle", dash=None, mark="circle")
"""How the window in which nothing ran is drawn."""


def power(runs: Sequence[Run], styles: dict[tuple[str, str], Series]) -> Markup:
    """Return each run's power trace and energy by rail, or why there is none, and the state of the machine."""
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
    rails = tuple(trace.rails_mw)
    whole: list[list[Cell]] = []
    by_rail: list[list[Cell]] = []
    for row in _ordered(measurement):
        energy = energy_figures(measurement, row)
        found = energy.rails_mj_per_inference
        shown = [(scaled(getattr(energy, key), factor), unit) for key, factor, unit, _ in FIGURES]
        whole.append([_what(row), *shown])
        by_rail.append([_what(row), *((found.get(rail, energy.mj_per_inference), "mJ") for rail in rails)])
    headings = ("Energy and power", *(heading for *_, heading in FIGURES))
    return [
        figure(f"{name}Total power over the run", key, plot, note=note),
        *noted_table(figure_table(headings, whole), f"{name}Energy and power"),
        *noted_table(figure_table(("Energy of one inference by rail", *rails), by_rail), f"{name}Energy by rail"),
    ]


def _state(measurement: Measurement, name: str) -> list[Markup]:
    """Return clocks, the highest temperature and what slowed the machine down in each row's windows."""
    if measurement.board is None:
        return []
    clocks = list(measurement.board.clocks_mhz)
    lines = []
    for row in _ordered(measurement):
        hottest = hottest_c(measurement, row)
        cells = [_clock_text(ends) for ends in clocks_mhz(measurement, row).values()]
        causes = "; ".join(throttle_causes(measurement, row)) or "nothing"
        lines.append([_what(row), None if hottest is None else f"{hottest:.1f} °C", *cells, causes])
    headings = ("The machine in these windows", "Hottest", *(f"{clock} clock" for clock in clocks), "Slowed down by")
    return [plain_table(headings, lines, f"{name}State of the machine")]


def _clock_text(ends: tuple[float, float] | None) -> str | None:
    if ends is None:
        return None
    low, high = ends
    return f"{low:.0f}\N{EN DASH}{high:.0f} MHz" if low < high else f"{high:.0f} MHz"


def _ordered(measurement: Measurement) -> list[EntryMeasurement]:
    return sorted(measurement.rows, key=lambda row: row.batch_size)


def _what(row: EntryMeasurement) -> str:
    return f"{row.entry}, batch size {row.batch_size}"


def _readings(trace: PowerTrace) -> str:
    rate, gap_s = achieved_rate_hz(trace), largest_gap_s(trace)
    if rate is None or gap_s is None:
        return "One reading"
    dropped = f", {trace.num_dropped} repeated or incomplete ones left out" if trace.num_dropped else ""
    return f"{rate:.3g} readings a second, the largest gap {1000 * gap_s:.0f} ms{dropped}"
