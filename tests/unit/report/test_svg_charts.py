"""The charts: coordinates against the values that they stand for."""

from __future__ import annotations

import re

import numpy as np
import pytest
from fakes.measurements import make_trial
from fakes.runs import BLOCKS, KEPT, make_evaluation, make_measurement, make_pack, make_power

from heartvit_edge.report.columns import COLUMNS
from heartvit_edge.report.page import styles_of
from heartvit_edge.report.palette import MARKS, mark, series_of
from heartvit_edge.report.rows import rows_of
from heartvit_edge.report.runs import Run
from heartvit_edge.report.svg_blocks import tokens_plot
from heartvit_edge.report.svg_ecdf import MOST_STEPS, ecdf_plot, steps
from heartvit_edge.report.svg_heads import heads_map
from heartvit_edge.report.svg_pareto import pareto_plot
from heartvit_edge.report.svg_patches import dropped_before, outline, patch_map, veil_opacities
from heartvit_edge.report.svg_power import envelope, power_plot
from heartvit_edge.report.svg_timeline import spans, timeline_plot

COLUMN = {column.key: column for column in COLUMNS}
DENSE, PRUNED = series_of([("run", "dense"), ("run", "macs-0.5")]).values()


def _path_of(svg, class_):
    """Return the points that the first path of that class draws with M, H and V."""
    drawn = re.search(rf'<path class="{class_}"[^>]* d="([^"]*)"', svg)
    assert drawn, svg
    points, x, y = [], 0.0, 0.0
    for command, numbers in re.findall(r"([MHV])([-\d. ]+)", drawn.group(1)):
        values = [float(number) for number in numbers.split()]
        x = values[0] if command in "MH" else x
        y = values[-1] if command in "MV" else y
        points.append((x, y))
    return points


def test_every_step_of_the_distribution_is_the_share_of_samples_up_to_it():
    samples = np.sort(np.random.default_rng(0).gamma(4.0, size=5000))
    found = steps(samples)
    assert len(found) <= MOST_STEPS
    assert (found[0][0], found[-1]) == (samples[0], (samples[-1], 1.0))
    assert all(share == pytest.approx(np.mean(samples <= at)) for at, share in found)


def test_the_distribution_of_three_samples_has_three_steps():
    assert steps(np.array([1.0, 2.0, 4.0])) == [(1.0, 1 / 3), (2.0, 2 / 3), (4.0, 1.0)]


def test_a_distribution_is_drawn_rightward_and_upward():
    samples = np.sort(np.random.default_rng(0).gamma(4.0, size=500))
    drawn, beyond = ecdf_plot([(DENSE, samples)], 1)
    xs, ys = zip(*_path_of(drawn, "line s0"), strict=True)
    assert list(xs) == sorted(xs)
    assert list(ys) == sorted(ys, reverse=True)  # pixels count downward
    assert "slowest" in beyond


def test_samples_beyond_the_right_edge_are_counted_in_words():
    samples = np.sort(np.concatenate([np.linspace(1.0, 2.0, 999), [50.0]]))
    _, beyond = ecdf_plot([(DENSE, samples)], 1)
    assert beyond == "Beyond the right edge: 1 of 1000 of dense (slowest 50 ms)."


def test_a_long_tail_leaves_room_for_the_body_and_is_counted_in_words():
    samples = np.sort(np.concatenate([np.linspace(1.0, 1.2, 900), np.linspace(10.0, 100.0, 100)]))
    drawn, beyond = ecdf_plot([(DENSE, samples)], 1)
    body = [x for x, y in _path_of(drawn, "line s0") if y > 60]
    assert max(body) - min(body) > 0.1 * (480 - 80)
    assert beyond.startswith("Beyond the right edge: 100 of 1000")


def test_equal_samples_draw_one_step_and_leave_nothing_beyond_the_edge():
    _, beyond = ecdf_plot([(DENSE, np.full(10, 3.0))], 1)
    assert beyond == ""


def _rows(latency_ms):
    measurement, evaluation = make_measurement(latency_ms), make_evaluation()
    run = Run("run", measurement, evaluation, measurement.pack)
    return rows_of([run]), styles_of([run])


def test_a_faster_worse_entry_and_a_slower_better_one_are_both_on_the_front():
    rows, styles = _rows({"dense": [2.0] * 20, "macs-0.5": [1.0] * 20})
    drawn = pareto_plot(rows, styles, COLUMN["p50_ms"], COLUMN["top1"], "median latency, ms")
    assert drawn.count("on the front<") == 2
    assert "hollow" not in drawn


def test_an_entry_that_is_slower_and_worse_is_hollow():
    rows, styles = _rows({"dense": [2.0] * 20, "macs-0.5": [3.0] * 20})
    drawn = pareto_plot(rows, styles, COLUMN["p50_ms"], COLUMN["top1"], "median latency, ms")
    assert re.findall(r"<(\w+) class=\"mark (s\d) hollow\"", drawn) == [("rect", "s1")]
    assert "<title>macs-0.5, batch size 1: 3.00 ms" in drawn
    assert "beaten by another point<" in drawn


def test_slower_is_drawn_further_right_and_better_higher_up():
    rows, styles = _rows({"dense": [2.0] * 20, "macs-0.5": [1.0] * 20})
    drawn = pareto_plot(rows, styles, COLUMN["p50_ms"], COLUMN["top1"], "median latency, ms")
    circle = re.search(r'<circle class="mark s0" cx="([\d.]+)" cy="([\d.]+)"', drawn)
    square = re.search(r'<rect class="mark s1" x="([\d.]+)" y="([\d.]+)"', drawn)
    assert float(circle[1]) > float(square[1])
    assert float(circle[2]) < float(square[2])


def test_the_tokens_plot_steps_down_at_the_sites():
    pack = make_pack()
    drawn = tokens_plot([(PRUNED, pack.entries[1].plan)])
    _, *points = _path_of(drawn, "line s1")
    widths = {y: 0.0 for _, y in points}
    before = _path_of(drawn, "line s1")[0]
    for x, y in points:
        widths[y] += x - before[0]
        before = (x, y)
    drop, second = np.diff(list(widths))
    assert len(widths) == 3
    assert drop / second == pytest.approx((17 - 9) / (9 - 5), rel=0.01)
    assert list(widths.values()) == pytest.approx([next(iter(widths.values()))] * 3, rel=0.01)


def test_the_head_map_has_a_filled_cell_for_each_kept_head():
    drawn = heads_map(PRUNED, make_pack().entries[1].plan)
    kept = sum(len(block.kept_heads) for block in BLOCKS["macs-0.5"])
    assert drawn.count('class="head s1"') == kept == 5
    assert drawn.count('class="head removed"') == 1
    assert "block 1, head 0: removed" in drawn


def test_patches_dropped_at_the_sites_and_kept_to_the_end_make_up_the_image():
    dropped = dropped_before(KEPT, 16)
    assert dropped == {1: tuple(range(8, 16)), 2: (0, 3, 4, 7)}
    assert sorted([*dropped[1], *dropped[2], *KEPT[-1][1]]) == list(range(16))


def test_patches_that_survive_longer_are_veiled_less():
    for count in range(1, 6):
        opacities = veil_opacities(count)
        assert len(opacities) == count
        assert list(opacities) == sorted(opacities, reverse=True)
        assert all(0.4 < opacity < 0.9 for opacity in opacities)


def test_the_outline_has_every_edge_between_kept_and_other_patches():
    draw = np.random.default_rng(0)
    for _ in range(50):
        grid = draw.random((5, 5)) < 0.5
        patches = np.flatnonzero(grid).tolist()
        framed = np.pad(grid, 1).astype(int)
        edges = np.abs(np.diff(framed, axis=0)).sum() + np.abs(np.diff(framed, axis=1)).sum()
        assert outline(patches, 5).count("M") == edges


def test_a_patch_map_veils_each_site_and_names_it():
    drawn = patch_map("image", "label", KEPT, 4, "s1")
    assert "8 patches dropped before block 1" in drawn
    assert "4 patches dropped before block 2" in drawn
    assert re.findall(r'fill-opacity="([\d.]+)"', drawn) == ["0.86", "0.5"]


def test_a_map_of_an_entry_that_drops_nothing_is_the_bare_image():
    drawn = patch_map("image", "label", (), 4, "s0")
    assert '<use href="#image"/>' in drawn
    assert "<path" not in drawn


def test_thinned_power_readings_keep_the_highest_and_the_lowest():
    draw = np.random.default_rng(0)
    times, watts = np.arange(5000) / 10, draw.normal(10, 1, 5000)
    found = envelope(times, watts, 50)
    assert len(found) <= 100
    assert max(watt for _, watt in found) == watts.max()
    assert min(watt for _, watt in found) == watts.min()
    assert [at for at, _ in found] == sorted(at for at, _ in found)


def test_a_window_is_drawn_through_the_medians_of_its_spans_in_a_band_of_its_fast_and_slow_calls():
    latency = np.random.default_rng(0).gamma(4.0, size=1000)
    trial = make_trial(10.0, latency.tolist())
    found = spans(trial, 20)
    length_s = (trial.end_s - trial.start_s) / 20
    for index, (at, fast, median, slow) in enumerate(found):
        part = np.sort(latency[50 * index : 50 * (index + 1)])
        assert at == pytest.approx(10.0 + (index + 0.5) * length_s)
        assert (fast, median) == (part[0], pytest.approx((part[24] + part[25]) / 2))
        assert part[46] <= slow <= part[48]
    assert len(spans(make_trial(0.0, [1.0] * 12), 20)) == 2  # spans of a few calls would show noise


def test_latency_of_an_open_loop_contains_its_waiting():
    trial = make_trial(0.0, [1.0] * 10, between_ms=9.0).model_copy(update={"waiting_ms": (2.0,) * 10})
    assert [ends[1:] for ends in spans(trial, 1)] == [(3.0, 3.0, 3.0)]


def test_each_trial_is_drawn_where_it_ran_and_slower_ones_higher_up():
    trials = [make_trial(5.0, [2.0] * 500), make_trial(6.0, [1.0] * 1000)]
    drawn = timeline_plot([(DENSE, trials[0]), (PRUNED, trials[1])], 1)
    lines = [
        [tuple(map(float, point.split(","))) for point in points.split()]
        for points in re.findall(r'<polyline class="line thin s\d" points="([^"]*)"', drawn)
    ]
    (left, first), (second, right) = ((line[0], line[-1]) for line in lines)
    assert left[0] < first[0] < second[0] < right[0]
    assert first[0] == pytest.approx((64 + 964) / 2, abs=5)  # both last a second
    assert first[1] < second[1]


def test_few_power_readings_are_drawn_as_they_are():
    assert envelope(np.array([0.0, 1.0]), np.array([5.0, 6.0]), 50) == [(0.0, 5.0), (1.0, 6.0)]


def test_power_windows_are_shaded_where_their_trials_ran():
    measurement = make_measurement(power=True)
    trial = measurement.rows[1].trials[0]
    trace = make_power(20.0)
    drawn = power_plot(trace, [(PRUNED, 1, trial)])
    x, width = map(float, re.search(r'class="window s1" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', drawn).groups())
    left, right = 64.0, 980.0 - 16.0
    assert x == pytest.approx(left + (right - left) * trial.start_s / 20.0, abs=0.01)
    assert width == pytest.approx((right - left) * (trial.end_s - trial.start_s) / 20.0, abs=0.01)


def test_colour_tells_the_entry_and_mark_the_run_where_there_are_several():
    styles = series_of([("a", "dense"), ("a", "macs-0.5"), ("b", "dense"), ("b", "macs-0.5")])
    assert styles["a", "macs-0.5"].colour == styles["b", "macs-0.5"].colour != styles["a", "dense"].colour
    assert [styles[run, "dense"].mark for run in "ab"] == list(MARKS[:2])
    assert styles["b", "dense"].name == "dense · b"


def test_entries_of_one_run_differ_in_mark_and_dash_as_well_as_in_colour():
    names = ["dense", *(f"macs-0.{index}" for index in (9, 8, 7, 6, 5))]
    styles = series_of(("run", name) for name in names)
    for field in ("colour", "mark", "dash", "name"):
        assert len({getattr(series, field) for series in styles.values()}) == 6


def test_every_mark_is_drawn_around_its_point():
    for series in series_of(("run", f"entry-{index}") for index in range(len(MARKS))).values():
        numbers = [
            float(number) for number in re.findall(r"(?<![\w.#])-?\d+\.?\d*", mark(series, 100.0, 100.0, size=5))
        ]
        corners = [number for number in numbers if number > 50]
        assert corners
        assert all(90 <= corner <= 110 for corner in corners)
