from __future__ import annotations

import pytest
from fakes.machines import DESKTOP, orin
from fakes.measurements import make_measurement, make_row, make_trial

from heartvit_edge.bench.floors import find_limits, floors
from heartvit_edge.spec.measurement import MachineLimits


def test_the_table_has_the_orins_and_says_where_its_figures_are_from():
    limits = find_limits(orin("10.3"), "fp16", "gpu")
    # 16 SM x 1024 x 1.3 GHz; docs of the boards round it to 42.6 TFLOP/s, two operations a multiply-accumulate.
    assert (limits.bandwidth_gb_s, limits.peak_tmac_s) == (204.8, pytest.approx(21.3, abs=0.01))
    assert "data sheet" in limits.source
    assert find_limits(orin("10.3"), "fp32", "gpu").peak_tmac_s == pytest.approx(21.3 / 2, abs=0.01)


@pytest.mark.parametrize(
    ("board", "bandwidth", "tmac"),
    [
        ("Jetson Orin NX 16GB (p3767-0000)", 102.4, 7.5),
        ("Jetson Orin Nano 8GB Developer Kit (p3767-0005)", 102.0, 8.4),
        ("Jetson AGX Orin 32GB (p3701-0004)", 204.8, 13.3),
    ],
)
def test_a_module_is_told_by_its_part_number(board, bandwidth, tmac):
    limits = find_limits(orin("10.3", board=board), "fp16", "gpu")
    assert (limits.bandwidth_gb_s, limits.peak_tmac_s) == (bandwidth, pytest.approx(tmac, abs=0.06))


def test_a_machine_that_is_not_in_the_table_has_limits_only_where_they_are_given():
    assert find_limits(DESKTOP, "fp32", "gpu") is None
    given = find_limits(DESKTOP, "fp32", "gpu", bandwidth_gb_s=50.0)
    assert (given.bandwidth_gb_s, given.peak_tmac_s, given.source) == (50.0, None, "bandwidth was given")


def test_what_is_given_takes_the_place_of_the_table():
    limits = find_limits(orin("10.3"), "fp16", "gpu", bandwidth_gb_s=100.0, peak_tmac_s=1.0)
    assert (limits.bandwidth_gb_s, limits.peak_tmac_s) == (100.0, 1.0)
    assert limits.source == "bandwidth was given; peak was given"


def test_an_int8_engine_may_compute_twice_as_fast_as_fp16_and_reads_half_the_weights(tmp_path):
    fp16, int8 = (find_limits(orin("10.3"), precision, "gpu") for precision in ("fp16", "int8"))
    assert int8.peak_tmac_s == 2 * fp16.peak_tmac_s
    measurement, row = measured(tmp_path, 1, bandwidth_gb_s=204.8, peak_tmac_s=21.3)
    found = floors(measurement.model_copy(update={"precision": "int8"}), row)
    assert found.weights_ms == pytest.approx(floors(measurement, row).weights_ms / 2)


def test_the_table_says_nothing_of_the_cpu_beside_a_gpu():
    assert find_limits(orin("10.3"), "fp32", "cpu") is None
    given = find_limits(orin("10.3"), "fp32", "cpu", bandwidth_gb_s=50.0)
    assert (given.bandwidth_gb_s, given.peak_tmac_s, given.source) == (50.0, None, "bandwidth was given")


def measured(tmp_path, batch_size, **limits):
    row = make_row("dense", [make_trial(0.0, [5.0] * 10)], batch_size=batch_size)
    measurement = make_measurement(tmp_path, [row])
    entry = measurement.pack.entries[0]
    plan = entry.plan.model_copy(update={"params": 86_000_000, "dense_params": 86_000_000, "macs": 17_600_000_000})
    pack = measurement.pack.model_copy(update={"entries": (entry.model_copy(update={"plan": plan}),)})
    changes = {
        "pack": pack,
        "precision": "fp16",
        "limits": MachineLimits(source="a test", **limits) if limits else None,
    }
    return measurement.model_copy(update=changes), row


def test_floors_of_vit_b_on_an_agx_orin_are_those_of_the_published_arithmetic(tmp_path):
    # 172 MB of fp16 weights at 204.8 GB/s; 17.6 GMAC at 21.3 TMAC/s.
    measurement, row = measured(tmp_path, 1, bandwidth_gb_s=204.8, peak_tmac_s=21.3)
    found = floors(measurement, row)
    assert found.weights_ms == pytest.approx(0.84, abs=0.01)
    assert found.arithmetic_ms == pytest.approx(0.826, abs=0.001)
    assert found.least_ms == found.weights_ms


def test_weights_are_read_once_a_batch_and_arithmetic_grows_with_it(tmp_path):
    measurement, row = measured(tmp_path, 8, bandwidth_gb_s=204.8, peak_tmac_s=21.3)
    found = floors(measurement, row)
    assert found.weights_ms == pytest.approx(0.84, abs=0.01)
    assert found.arithmetic_ms == pytest.approx(8 * 0.826, abs=0.01)


def test_there_are_no_floors_without_limits(tmp_path):
    found = floors(*measured(tmp_path, 1))
    assert (found.weights_ms, found.arithmetic_ms, found.least_ms) == (None, None, None)
