"""Clocks, temperatures and throttling, read from trees of files as machines have them."""

from __future__ import annotations

import itertools

import pytest
from fakes.boards import write_agx_orin

from benchmarks.power_trees import AGX_SENSORS, write_ina3221
from heartvit_edge.power.board import BoardRecorder, find_probes


def write(file, value):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{value}\n")
    return file


@pytest.fixture
def orin(tmp_path):
    """An AGX Orin with a GPU at 1.3 GHz whose clock is locked, two CPU clusters, two thermal zones and its limits."""
    write_agx_orin(tmp_path)
    sys = tmp_path / "sys"
    gpu = sys / "class/devfreq/17000000.ga10b"
    for name in ("cur_freq", "min_freq", "max_freq"):
        write(gpu / name, 1_300_500_000)
    for policy, current in (("policy0", 2_201_600), ("policy4", 729_600)):
        folder = sys / "devices/system/cpu/cpufreq" / policy
        for name, value in (("cur", current), ("min", 729_600), ("max", 2_201_600)):
            write(folder / f"scaling_{name}_freq", value)
    for number, (name, value) in enumerate((("gpu-thermal", 51_500), ("cv0-thermal", -256_000))):
        write(sys / f"class/thermal/thermal_zone{number}/type", name)
        write(sys / f"class/thermal/thermal_zone{number}/temp", value)
    for number, (name, value) in enumerate((("gpu-throttle-alert", 0), ("pwm-fan", 3), ("hot-surface-alert", 0))):
        write(sys / f"class/thermal/cooling_device{number}/type", name)
        write(sys / f"class/thermal/cooling_device{number}/cur_state", value)
    write(sys / "class/hwmon/hwmon1/oc1_event_cnt", 4)
    write_ina3221(sys, AGX_SENSORS)
    write(sys / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr1_crit_alarm", 0)
    write(sys / "bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon3/curr1_crit_alarm", 0)  # of a channel that is NC
    return tmp_path


def record(root, during=lambda: None):
    times = itertools.count(1.0)
    with BoardRecorder(lambda: next(times), root, interval_s=100.0) as recorder:
        during()
        return recorder.stop()


def test_clocks_temperatures_and_power_mode_of_a_board_are_read_in_their_units(orin):
    found = record(orin)
    assert found.times_s == (1.0, 2.0)
    assert found.clocks_mhz == {"GPU": (1300.5, 1300.5), "CPU 0": (2201.6, 2201.6), "CPU 4": (729.6, 729.6)}
    assert found.locked_mhz == {"GPU": 1300.5}
    assert found.temperatures_c == {"gpu-thermal": (51.5, 51.5), "cv0-thermal": (None, None)}
    assert found.power_mode == ("MODE_30W", "MODE_30W")


def test_limits_are_those_in_force_and_events_since_the_start_without_fans_and_open_channels(orin):
    found = record(orin, lambda: write(orin / "sys/class/hwmon/hwmon1/oc1_event_cnt", 6))
    assert found.throttle_states == {
        "gpu-throttle-alert": (0, 0),
        "hot-surface-alert": (0, 0),
        "VDD_GPU_SOC above its crit current": (0, 0),
    }
    assert found.throttle_counts == {"over-current oc1": (4, 6)}


def test_a_gpu_is_told_by_its_node_in_the_device_tree_too(tmp_path):
    device = tmp_path / "sys/class/devfreq/17000000.other"
    write(device / "cur_freq", 1_000_000)
    write(device / "device/of_node/name", "gpu")
    probes, locked = find_probes(tmp_path)
    assert [probe.label for probe in probes] == ["GPU"]
    assert locked == {}


def test_a_machine_with_nothing_to_look_at_has_no_state(tmp_path):
    assert record(tmp_path) is None


def test_a_machine_that_tells_the_time_of_its_processor_alone_has_a_state(tmp_path):
    write(tmp_path / "proc/stat", "cpu  100 0 0 100 0 0 0 0 0 0")
    found = record(tmp_path, lambda: write(tmp_path / "proc/stat", "cpu  900000 0 0 900100 0 0 0 0 0 0"))
    assert found.others_cpu_share[0] is None
    assert found.others_cpu_share[1] == pytest.approx(0.5, abs=0.01)


def test_a_file_that_goes_away_leaves_a_gap_not_an_error(orin):
    found = record(orin, (orin / "sys/class/devfreq/17000000.ga10b/cur_freq").unlink)
    assert found.clocks_mhz["GPU"] == (1300.5, None)


def test_it_looks_again_and_again_in_a_thread(orin):
    times = itertools.count(1.0)
    with BoardRecorder(lambda: next(times), orin, interval_s=0.001) as recorder:
        while len(recorder._ticks) < 4:
            pass
        assert len(recorder.stop().times_s) >= 5
