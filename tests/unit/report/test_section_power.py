"""The power section: energy with its reasons, and the state of the machine in the windows."""

from __future__ import annotations

import re

import pytest
from fakes.runs import make_measurement

from heartvit_edge.report.page import styles_of
from heartvit_edge.report.runs import Run
from heartvit_edge.report.section_power import power
from heartvit_edge.spec.board import BoardTrace
from heartvit_edge.spec.measurement import Window


def cells(html, heading):
    """Return the texts of the lines of the table whose first heading it is."""
    (table,) = [text for text in re.findall(r"<table.*?</table>", html) if f">{heading}<" in text]
    lines = re.findall(r"<tr>(.*?)</tr>", table)
    return [[cell.replace("\u2060", "") for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line)] for line in lines]


def number(cell, unit):
    """Return the number of a cell such as ``12.3 mJ (12.1-12.5)``."""
    value, found, *_ = cell.split()
    assert found == unit
    return float(value)


def section_of(measurement):
    run = Run("run", measurement, None, measurement.pack)
    return power([run], styles_of([run]))


def test_energy_is_power_times_time_and_power_is_shown_in_watt():
    _, dense, pruned = cells(section_of(make_measurement(power=True)), "Energy and power")
    assert [number(line[1], "mJ") for line in (dense, pruned)] == pytest.approx(
        [10.0, 5.0], rel=1e-3
    )  # 5 W, 2 and 1 ms
    assert number(dense[5], "W") == pytest.approx(5.0)


def test_a_missing_idle_window_is_a_numbered_dash_whose_reason_is_written_once():
    html = section_of(make_measurement(power=True))
    headings, *lines = cells(html, "Energy and power")
    for line in lines:
        found = dict(zip(headings, line, strict=True))
        assert (found["Net of idle"], found["Idle power"]) == ("—¹", "—¹")
    assert html.count("no idle window was measured") == 1


def test_rails_keep_their_labels_and_add_up():
    headings, dense, _ = cells(section_of(make_measurement(power=True)), "Energy of one inference by rail")
    assert headings[1:] == ["GPU", "CPU"]
    assert [number(cell, "mJ") for cell in dense[1:]] == pytest.approx([4.0, 6.0], rel=1e-3)


def test_an_idle_window_is_shaded_and_in_the_legend():
    measurement = make_measurement(power=True).model_copy(update={"idle": Window(start_s=0.0, end_s=0.9)})
    legend = re.search(r'<ul class="legend">(.*?)</ul>', section_of(measurement))[1]
    assert ">idle<" in legend
    assert ">idle<" not in re.search(r'<ul class="legend">(.*?)</ul>', section_of(make_measurement(power=True)))[1]


def test_the_machines_state_in_the_windows_stands_beneath():
    measurement = make_measurement()
    times = [0.5 * tick for tick in range(40)]
    board = BoardTrace(
        times_s=tuple(times),
        clocks_mhz={"GPU": tuple(1300.0 if time < 3.5 else 600.0 for time in times), "memory": (None,) * 40},
        locked_mhz={"GPU": 1300.0},
        temperatures_c={"cpu": tuple(40.0 + time for time in times)},
        others_cpu_share=(None, *(0.25,) * 39),
    )
    html = section_of(measurement.model_copy(update={"board": board}))
    headings, dense, pruned = cells(html, "The machine in these windows")
    assert headings[1:] == ["Hottest", "GPU clock", "memory clock", "Other processes", "Slowed down by"]
    ends = [max(trial.end_s for trial in row.trials) for row in measurement.rows]
    first_tick_after = [next(time for time in times if time >= end) for end in ends]
    assert [line[1] for line in (dense, pruned)] == [f"{40 + time:.1f} °C" for time in first_tick_after]
    assert dense[2:] == ["600\N{EN DASH}1300 MHz", "—", "25 % of the processor", "GPU clock down to 600 of 1300 MHz"]


def test_a_machine_that_tells_nothing_has_no_such_table():
    assert "The machine in these windows" not in section_of(make_measurement())
