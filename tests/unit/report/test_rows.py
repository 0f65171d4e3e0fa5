"""The rows of the summary: every figure from bench.figures, or a reason."""

from __future__ import annotations

import pytest
import scipy.stats
from fakes.compared import BASELINE, compared_run
from fakes.learned import with_learned_gate
from fakes.runs import NO_POWER, make_evaluation, make_measurement, make_pack

from heartvit_edge.bench.accuracy_figures import accuracy_figures
from heartvit_edge.bench.energy_figures import energy_figures
from heartvit_edge.bench.figures import latency_figures, ratio_figures
from heartvit_edge.report.columns import COLUMNS, PAGE_COLUMNS
from heartvit_edge.report.notes import footnotes, grouped, numbered, reasons, relation, under, warnings
from heartvit_edge.report.rows import rows_of
from heartvit_edge.report.runs import Run
from heartvit_edge.spec.board import BoardTrace
from heartvit_edge.spec.measurement import MachineLimits
from heartvit_edge.spec.plan import PlanCheck

COLUMN = {column.key: column for column in COLUMNS}


def _run(measurement=None, evaluation=None):
    return Run("run", measurement, evaluation, measurement.pack if measurement else None)


def test_figures_of_a_row_are_those_of_bench_figures():
    measurement, evaluation = make_measurement(power=True), make_evaluation()
    row = rows_of([_run(measurement, evaluation)])[1]
    stored = measurement.rows[1]
    assert row.figures["p99_ms"] == latency_figures(stored).p99_ms
    assert row.figures["images_per_s"] == latency_figures(stored).images_per_s
    assert row.figures["mj_per_inference"] == energy_figures(measurement, stored).mj_per_inference
    assert row.figures["top1"] == accuracy_figures(evaluation, "macs-0.5").top1
    assert row.figures["kl_nats"] == accuracy_figures(evaluation, "macs-0.5").kl_nats


def test_energy_of_a_constant_trace_is_its_power_times_the_latency():
    row = rows_of([_run(make_measurement(power=True))])[0]
    mean_ms = row.figures["mean_ms"].value
    assert row.figures["mj_per_inference"].value == pytest.approx(5.0 * mean_ms)  # 5 W


def test_speed_up_is_one_over_the_latency_ratio_with_its_interval_turned_around():
    measurement = make_measurement()
    ratio = ratio_figures(measurement, measurement.rows[1]).latency
    speed_up = rows_of([_run(measurement)])[1].figures["speed_up"]
    assert speed_up.value == pytest.approx(2.0, rel=1e-3)
    assert (speed_up.low, speed_up.high) == (1 / ratio.high, 1 / ratio.low)
    assert speed_up.low < speed_up.value < speed_up.high


def test_plan_figures_are_counted_by_hand():
    row = rows_of([_run(make_measurement())])[1]
    assert row.figures["macs_fraction"].value == 0.5
    assert row.figures["tokens_share"].value == pytest.approx((17 + 9 + 5) / (3 * 17))
    assert row.figures["heads_share"].value == pytest.approx(5 / 6)
    assert row.figures["predicted_loss_nats"].value == 0.0125
    assert row.details == {"macs_fraction": "0.02 M", "tokens_share": "17→9→5", "heads_share": "5 of 6"}


def test_the_macs_of_a_learned_gate_count():
    measurement = make_measurement(pack=with_learned_gate(make_pack()))
    row = rows_of([_run(measurement)])[1]
    assert row.figures["macs_fraction"].value == pytest.approx(0.51)
    assert row.figures["gmacs"].value == pytest.approx(20_400 / 1e9)
    assert row.details["macs_fraction"] == "0.0204 M"


def _planned(**fields):
    """Return the row of macs-0.5 where its plan has these fields."""
    pack = make_pack()
    plan = pack.entries[1].plan.model_copy(update=fields)
    entries = (pack.entries[0], pack.entries[1].model_copy(update={"plan": plan}))
    return rows_of([_run(make_measurement(pack=pack.model_copy(update={"entries": entries})))])[1]


def test_losses_of_a_plan_have_intervals_from_their_standard_errors_and_its_agreement_wilsons():
    check = PlanCheck(
        images=make_evaluation().images, loss_nats=0.02, loss_stderr_nats=0.005, num_agreeing=92
    )  # of 100 images
    row = _planned(predicted_loss_stderr_nats=0.01, check=check)
    found = row.figures["predicted_loss_nats"]
    assert (found.value, found.low, found.high) == (0.0125, 0, pytest.approx(0.0125 + 1.96 * 0.01))
    found = row.figures["held_out_nats"]
    assert (found.value, found.low, found.high) == (0.02, pytest.approx(0.0102), pytest.approx(0.0298))
    assert row.figures["held_out_agreement"] == accuracy_figures(make_evaluation(), "macs-0.5").agreement


def test_costs_of_a_plan_are_its_own():
    row = _planned(
        params=3, dense_params=4, latency_ms=2.5, energy_mj=7.5, device_table_sha256="6" * 64, nats_per_percent=0.001
    )
    for key, value in (
        ("params_fraction", 0.75),
        ("table_latency_ms", 2.5),
        ("table_energy_mj", 7.5),
        ("nats_per_percent", 0.001),
    ):
        assert row.figures[key].value == value


def test_what_is_not_known_of_a_plan_has_its_reason():
    dense, pruned = rows_of([_run(make_measurement())])
    assert "weights were counted" in pruned.figures["params_fraction"].reason
    assert "not measured on held-out images" in pruned.figures["held_out_nats"].reason
    assert dense.figures["held_out_agreement"].reason == "nothing is removed"
    assert "without a device table" in pruned.figures["table_energy_mj"].reason
    assert "without a device table" in pruned.figures["table_latency_ms"].reason
    assert pruned.figures["nats_per_percent"].reason == "not known of this plan"
    timed = _planned(latency_ms=2.5, device_table_sha256="6" * 64)
    assert timed.figures["table_energy_mj"].reason == "the device table has no energy"
    assert _planned(predicted_loss_nats=None).figures["predicted_loss_nats"].reason == (
        "scorer fisher ranks, and foresees no loss"
    )


def test_every_row_has_every_column_and_each_missing_figure_its_reason():
    runs = [
        _run(make_measurement()),
        Run("evaluated", None, make_evaluation(labelled=False), None),
        _run(make_measurement(power=True), make_evaluation()),
    ]
    rows = rows_of(runs)
    for row in rows:
        assert set(row.figures) == set(COLUMN)
    assert rows[0].figures["mj_per_inference"].reason == NO_POWER
    assert "heartvit-edge evaluate" in rows[0].figures["agreement"].reason
    assert rows[2].figures["p50_ms"].reason == "bench did not measure this entry"
    assert "measurement.json" in rows[2].figures["macs_fraction"].reason
    assert rows[2].figures["top1"].reason == "the images have no labels"


def test_rows_are_ordered_by_batch_size_then_by_the_pack():
    samples = {"macs-0.5": [1.0] * 3, "dense": [2.0] * 3}
    rows = rows_of([_run(make_measurement(samples, batch_sizes=(8, 1)))])
    assert [(row.entry, row.batch_size) for row in rows] == [
        ("dense", 1),
        ("macs-0.5", 1),
        ("dense", 8),
        ("macs-0.5", 8),
    ]
    assert list(grouped(rows)) == [("run", 1), ("run", 8)]


def test_an_entry_that_was_evaluated_and_not_measured_has_a_row():
    rows = rows_of([_run(make_measurement({"dense": [2.0] * 3}), make_evaluation())])
    assert [(row.entry, row.batch_size) for row in rows] == [("dense", 1), ("macs-0.5", None)]
    assert rows[1].figures["agreement"].value == 0.92


def test_each_reason_is_numbered_once_in_reading_order():
    rows = rows_of([_run(make_measurement())])
    numbered = reasons(rows, PAGE_COLUMNS)
    assert list(numbered.values()) == [1, 2]
    assert list(numbered)[1] == NO_POWER


def test_reasons_of_one_kind_share_a_number_and_are_counted():
    found = numbered(["9 readings in 3.01 s", "no sensor", "7 readings in 3 s", "no sensor", "8 readings in 12.5 s"])
    assert [found[reason] for reason in ("9 readings in 3.01 s", "7 readings in 3 s", "no sensor")] == [1, 1, 2]
    assert footnotes(found) == {1: "9 readings in 3.01 s, and 2 more like it", 2: "no sensor"}


def test_p90_and_p99_are_names_and_so_two_kinds_of_reason():
    found = numbered(
        ["p90 needs 50 samples, found 3", "p99 needs 500 samples, found 3", "p99 needs 500 samples, found 4"]
    )
    assert list(found.values()) == [1, 2, 2]


def test_under_the_dense_engines_comparisons_stands_that_it_is_the_reference():
    row = rows_of([_run(make_measurement(), make_evaluation())])[0]
    assert under(row, COLUMN["agreement"], row.figures["agreement"], "96-100") == "reference"
    assert under(row, COLUMN["top1"], row.figures["top1"], "89-98") == "89-98"
    assert under(row, COLUMN["heads_share"], row.figures["heads_share"], "") == "6 of 6"


def test_a_warm_up_that_ended_at_its_cap_is_told():
    settled, unsettled = (warnings([_run(make_measurement(warm_up_stable=stable))]) for stable in (True, False))
    (told,) = set(unsettled) - set(settled)
    assert told.endswith("ended at its cap: dense at batch size 1, macs-0.5 at batch size 1.")


def test_too_few_trials_are_told():
    few, three = make_measurement(), make_measurement(num_trials=3)
    assert warnings([_run(few)]) == ("run: fewer than 3 trials: intervals between trials are wide or missing.",)
    assert warnings([_run(three)]) == ()


def test_answers_of_other_engines_than_the_timed_ones_are_told():
    same = warnings([_run(make_measurement(), make_evaluation())])
    other = warnings([_run(make_measurement(), make_evaluation(engine="9" * 64))])
    (told,) = set(other) - set(same)
    assert "dense, macs-0.5 are from different engines" in told


def test_an_entry_that_compares_has_its_own_answers_and_not_its_plans_loss():
    rows = {row.entry: row for row in rows_of([compared_run()])}
    assert [(row.role, row.compares_with) for row in rows.values()] == [
        ("dense", None),
        ("pruned", None),
        ("baseline", "macs-0.5"),
        ("control", "dense"),
    ]
    pruned, baseline = rows["macs-0.5"], rows[BASELINE]
    assert baseline.figures["macs_fraction"] == pruned.figures["macs_fraction"]
    assert (pruned.figures["top1"].value, baseline.figures["top1"].value) == (0.9, 0.7)
    for key in ("predicted_loss_nats", "held_out_nats", "held_out_agreement", "nats_per_percent"):
        assert "is that of macs-0.5, which carries it out in its own way" in baseline.figures[key].reason
    assert pruned.figures["predicted_loss_nats"].value == 0.0125


def test_mcnemar_stands_beside_top1():
    rows = {row.entry: row for row in rows_of([compared_run()])}
    found = [rows[name].figures["mcnemar_p"].value for name in ("dense", "macs-0.5", BASELINE)]
    expected = [scipy.stats.binomtest(few, count, 0.5).pvalue for few, count in ((2, 9), (5, 35))]
    assert found == [1.0, *map(pytest.approx, expected)]
    assert under(rows["dense"], COLUMN["mcnemar_p"], rows["dense"].figures["mcnemar_p"], "") == "reference"


def test_how_an_entry_stands_to_the_one_with_the_same_plan_is_said():
    assert [relation(row) for row in rows_of([compared_run()])] == ["", "", "baseline of macs-0.5", "control of dense"]
    assert [relation(row) for row in rows_of([Run("alone", None, make_evaluation(), None)])] == ["", ""]


def test_a_plan_with_many_sites_shows_its_first_and_last_token_count():
    pack = make_pack()
    shape = pack.shape.model_copy(update={"depth": 6})
    entries = []
    for entry, counts in zip(pack.entries, [(17,) * 6, (17, 15, 13, 11, 9, 7)], strict=True):
        block = entry.plan.blocks[0]
        blocks = tuple(block.model_copy(update={"num_tokens": count}) for count in counts)
        plan = entry.plan.model_copy(update={"shape": shape, "blocks": blocks})
        entries.append(entry.model_copy(update={"plan": plan}))
    deeper = pack.model_copy(update={"shape": shape, "entries": tuple(entries)})
    row = rows_of([_run(make_measurement(pack=deeper))])[1]
    assert row.details["tokens_share"] == "17→…→7"


def test_what_the_board_did_is_told_once_for_all_rows_that_it_touched():
    measurement = make_measurement(batch_sizes=(1, 8), power=True)
    end_s = max(trial.end_s for row in measurement.rows for trial in row.trials)
    times_s = tuple(0.5 * tick for tick in range(int(2 * end_s) + 2))
    board = BoardTrace(
        times_s=times_s,
        clocks_mhz={"GPU": tuple(600.0 + 318.0 * (tick % 2) for tick, _ in enumerate(times_s))},
        throttle_states={"hot-surface-alert": (1,) * len(times_s)},
    )
    told = warnings([_run(measurement.model_copy(update={"board": board}))])
    assert [text for text in told if "hot-surface-alert" in text] == [
        "run: dense at batch size 1, macs-0.5 at batch size 1, dense at batch size 8, macs-0.5 at batch size 8: "
        "slowed down: hot-surface-alert."
    ]
    assert [text for text in told if "GPU" in text] == [
        "run: the GPU's clock is not locked, and moved from 600 to 918 MHz."
    ]


def test_floors_are_figures_with_the_option_that_gives_them_where_they_are_not_known():
    measurement = make_measurement()
    (row, *_) = rows_of([_run(measurement)])
    assert "--bandwidth and --peak" in row.figures["arithmetic_floor_ms"].reason
    limits = MachineLimits(bandwidth_gb_s=None, peak_tmac_s=0.001, source="a test")
    (row, *_) = rows_of([_run(measurement.model_copy(update={"limits": limits}))])
    assert row.figures["arithmetic_floor_ms"].value == pytest.approx(40_000 / 1e6)  # 40,000 MACs at 10^9 a second
