"""Tables of a run's energy, of its rails, and of what the machine did meanwhile, for the page and the Markdown file."""

from __future__ import annotations

from heartvit_edge.bench.board_figures import clocks_mhz, hottest_c, others_cpu_share, throttle_causes
from heartvit_edge.bench.energy_figures import energy_figures, scaled
from heartvit_edge.report.figure_cells import Cell, Table, figure_table
from heartvit_edge.report.formats import DASH
from heartvit_edge.spec.measurement import EntryMeasurement, Measurement

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


def energy_table(measurement: Measurement) -> Table | None:
    """Return energy and power of each row; None where no power was read."""
    if measurement.power is None:
        return None
    lines: list[list[Cell]] = []
    for row in _ordered(measurement):
        energy = energy_figures(measurement, row)
        shown = [(scaled(getattr(energy, key), factor), unit) for key, factor, unit, _ in FIGURES]
        lines.append([_what(row), *shown])
    return figure_table(("Energy and power", *(heading for *_, heading in FIGURES)), lines)


def rails_table(measurement: Measurement) -> Table | None:
    """Return energy of each row by rail; None where no power was read."""
    if measurement.power is None:
        return None
    rails = tuple(measurement.power.rails_mw)
    lines: list[list[Cell]] = []
    for row in _ordered(measurement):
        energy = energy_figures(measurement, row)
        found = energy.rails_mj_per_inference
        lines.append([_what(row), *((found.get(rail, energy.mj_per_inference), "mJ") for rail in rails)])
    return figure_table(("Energy of one inference by rail", *rails), lines)


def state_table(measurement: Measurement) -> Table | None:
    """Return clocks, the highest temperature and what slowed the machine down in each row's windows; None if unseen."""
    if measurement.board is None:
        return None
    clocks = list(measurement.board.clocks_mhz)
    lines = []
    for row in _ordered(measurement):
        hottest = hottest_c(measurement, row)
        cells = [_clock_text(ends) for ends in clocks_mhz(measurement, row).values()]
        share = others_cpu_share(measurement, row)
        others = DASH if share is None else f"{100 * share:.0f} % of the processor"
        causes = "; ".join(throttle_causes(measurement, row)) or "nothing"
        lines.append([_what(row), DASH if hottest is None else f"{hottest:.1f} °C", *cells, others, causes])
    names = ("Hottest", *(f"{clock} clock" for clock in clocks), "Other processes", "Slowed down by")
    return Table(("The machine in these windows", *names), lines)


def _clock_text(ends: tuple[float, float] | None) -> str:
    if ends is None:
        return DASH
    low, high = ends
    return f"{low:.0f}\N{EN DASH}{high:.0f} MHz" if low < high else f"{high:.0f} MHz"


def _ordered(measurement: Measurement) -> list[EntryMeasurement]:
    return sorted(measurement.rows, key=lambda row: row.batch_size)


def _what(row: EntryMeasurement) -> str:
    return f"{row.entry}, batch size {row.batch_size}"
