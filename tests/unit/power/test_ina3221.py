"""The INA3221 sampler on the sysfs trees of an AGX Orin and of an Orin NX or Nano."""

from __future__ import annotations

import errno
import os

import pytest

from benchmarks.power_trees import AGX_SENSORS, NX_SENSORS, write_in_place, write_ina3221
from heartvit_edge.errors import MachineError
from heartvit_edge.power.ina3221 import Ina3221, why_no_sensor


def clock():
    return 7.0


def break_file(monkeypatch, file, code=errno.EIO):
    """Let reading this file fail as an unconnected channel does, with the real call for every other file."""
    real = os.open

    def open_file(path, flags, *rest):
        if path == str(file):
            raise OSError(code, os.strerror(code), path)
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", open_file)


def test_an_agx_orin_has_four_rails_without_those_labelled_nc_and_the_sum_of_shunt_voltages(tmp_path):
    write_ina3221(tmp_path, AGX_SENSORS)
    sensor = Ina3221(tmp_path)
    assert sensor.labels == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO")
    assert sensor.total[0] == sensor.labels
    assert "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 + VDDQ_VDD2_1V8AO" in sensor.total[1]


def test_the_input_rail_alone_is_the_total_of_an_orin_nx(tmp_path):
    write_ina3221(tmp_path, NX_SENSORS)
    assert Ina3221(tmp_path).total[0] == ("VDD_IN",)


def test_power_is_volt_times_ampere_of_each_rail(tmp_path):
    files = write_ina3221(tmp_path, NX_SENSORS)
    write_in_place(files["VDD_IN"], 1840)  # at 5000 mV
    reading = Ina3221(tmp_path).read(clock)
    assert reading.rails_mw == {"VDD_IN": 9200.0, "VDD_CPU_GPU_CV": 5000.0, "VDD_SOC": 5000.0}
    assert reading.time_s == 7.0


def test_a_channel_that_answers_eio_from_the_start_is_left_out_and_said(tmp_path, monkeypatch):
    files = write_ina3221(tmp_path, AGX_SENSORS)
    break_file(monkeypatch, files["VDDQ_VDD2_1V8AO"])
    sensor = Ina3221(tmp_path)
    assert "VDDQ_VDD2_1V8AO" not in sensor.labels
    assert sensor.notes == ("VDDQ_VDD2_1V8AO (1-0041 channel 2) is left out: Input/output error",)


def test_a_sensor_whose_channels_all_fail_is_a_machine_error_that_names_them(tmp_path, monkeypatch):
    files = write_ina3221(tmp_path, {"1-0040": ("VDD_IN", "NC", "NC")})
    break_file(monkeypatch, files["VDD_IN"])
    with pytest.raises(MachineError, match=r"no channel .* VDD_IN \(1-0040 channel 1\) is left out: Input/output"):
        Ina3221(tmp_path)


def test_a_machine_without_the_sensor_says_where_it_was_looked_for(tmp_path):
    missing = why_no_sensor(tmp_path)
    assert str(tmp_path / "bus" / "i2c" / "drivers") in str(missing)
    assert "docker run -v /sys:/sys:ro" in missing.hint


def test_it_is_read_no_faster_than_its_slowest_sensor_converts(tmp_path):
    write_ina3221(tmp_path, AGX_SENSORS, update_interval_ms=35)
    assert Ina3221(tmp_path).min_interval_s == 0.035


def test_the_step_of_a_reading_is_that_of_its_current_at_its_voltage(tmp_path):
    # 40 uV over 10 milliohm are 4 mA, at 5 V 20 mW; a voltage step of 8 mV at 1 A is 8 mW.
    write_ina3221(tmp_path, NX_SENSORS, shunt_uohm=10_000)
    assert Ina3221(tmp_path).resolution_mw["VDD_IN"] == pytest.approx(20.0)


def test_a_file_that_holds_no_number_is_an_error_of_that_read(tmp_path):
    files = write_ina3221(tmp_path, NX_SENSORS)
    sensor = Ina3221(tmp_path)
    files["VDD_SOC"].write_text("")
    with pytest.raises(OSError, match="no number"):
        sensor.read(clock)
