"""Which source a run reads, on trees of files that stand in for machines."""

from __future__ import annotations

import sys

import pytest
from fakes.jtop_process import READY, process, readings
from fakes.measurements import make_measurement, make_row, make_trial

from benchmarks.power_trees import NX_SENSORS, write_ina3221, write_rapl
from heartvit_edge.errors import InputError, MachineError
from heartvit_edge.power import choose as choices
from heartvit_edge.power import jtop
from heartvit_edge.power.choose import choose
from heartvit_edge.power.sampler import NoPowerError, PowerLostError
from heartvit_edge.spec.measurement import PowerTrace


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """No GPU tells its power, whatever this machine has."""
    monkeypatch.setitem(sys.modules, "pynvml", None)


@pytest.fixture
def jetson_stats(monkeypatch, tmp_path):
    """jetson-stats is installed, and what its process says is a script; its socket exists once a test makes it."""
    monkeypatch.setattr(jtop.importlib.util, "find_spec", lambda _: object())

    def says(*script):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "jtop.sock").touch()
        defaults = (*jtop.JtopSampler.__init__.__defaults__[:-1], process(*script))
        monkeypatch.setattr(jtop.JtopSampler.__init__, "__defaults__", defaults)

    return says


def opened(asked, root, **options):
    return choose(asked, interval_s=0.1, clock=lambda: 0.0, root=root, **options)


def test_auto_takes_the_boards_own_sensors_before_jtop(jetson_stats, tmp_path):
    jetson_stats(READY, readings(VDD_IN=4000.0))
    write_ina3221(tmp_path / "sys", NX_SENSORS)
    with opened("auto", tmp_path, processor="gpu") as sampler:
        assert (sampler.name, sampler.why) == ("ina3221", "the board's own sensors answer, and need no daemon")
        assert sampler.labels[0] == "VDD_IN"


def test_auto_takes_jtop_where_the_sensors_are_hidden(jetson_stats, tmp_path):
    jetson_stats(READY, readings(VDD_IN=4000.0))
    with opened("auto", tmp_path, processor="gpu") as sampler:
        assert (sampler.name, sampler.labels) == ("jtop", ("VDD_IN",))


def test_auto_goes_on_where_jtop_refuses_and_says_so(jetson_stats, tmp_path):
    jetson_stats(("say", {"error": "Mismatch version"}))
    with opened("auto", tmp_path) as sampler:
        assert sampler.name == "none"
        assert "Mismatch version" in sampler.why


@pytest.mark.usefixtures("jetson_stats")
def test_auto_takes_the_processors_counters_only_for_engines_that_run_on_it(tmp_path):
    write_rapl(tmp_path / "sys")
    with opened("auto", tmp_path, processor="cpu") as sampler:
        assert (sampler.name, sampler.why) == ("rapl", "the engines run on this processor")
    with opened("auto", tmp_path, processor="gpu") as sampler:
        assert sampler.name == "none"
        assert "rapl: the engines run on the GPU, which it does not see" in sampler.why


@pytest.mark.usefixtures("jetson_stats")
def test_auto_without_any_source_reads_nothing_and_says_why_of_each(tmp_path):
    with opened("auto", tmp_path) as sampler, pytest.raises(NoPowerError) as caught:
        sampler.stop()
    assert not isinstance(caught.value, PowerLostError)
    for words in ("ina3221: there is no INA3221", "jtop: the jtop service is not running", "rapl: there is no RAPL"):
        assert words in str(caught.value)
    assert "nvml: the engines run on the CPU, which it does not see" in str(caught.value)


@pytest.mark.usefixtures("jetson_stats")
@pytest.mark.parametrize("source", choices.SOURCES)
def test_a_source_that_was_asked_for_and_is_missing_ends_the_command_with_its_cure(source, tmp_path):
    with pytest.raises(MachineError) as caught, opened(source, tmp_path):
        pass
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_none_reads_nothing_even_where_there_is_a_source(tmp_path):
    write_ina3221(tmp_path / "sys", NX_SENSORS)
    with opened("none", tmp_path) as sampler, pytest.raises(NoPowerError, match="--power none"):
        sampler.stop()


def test_a_measurement_is_replayed_by_its_file(tmp_path):
    trace = PowerTrace(
        source="jtop", times_s=(0.0, 1.0), rails_mw={"A": (1.0, 2.0)}, total_rails=("A",), total_rule="a test"
    )
    row = make_row("dense", [make_trial(0.1, [1.0])])
    for name, power in (("with.json", trace), ("without.json", None)):
        make_measurement(tmp_path / f"of {name}", [row], power).write(tmp_path / name)
    with opened(f"replay:{tmp_path / 'with.json'}", tmp_path) as sampler:
        assert (sampler.name, sampler.labels) == ("replay", ("A",))
        assert sampler.stop().rails_mw == {"A": (1.0,)}
    with (
        pytest.raises(InputError, match="holds no power trace"),
        opened(f"replay:{tmp_path / 'without.json'}", tmp_path),
    ):
        pass


def test_an_unknown_source_is_an_input_error_that_names_those_there_are(tmp_path):
    with pytest.raises(InputError, match=r"'battery', expected one of auto, ina3221, jtop, .*none, replay:FILE"):
        opened("battery", tmp_path).__enter__()


def test_a_rail_that_was_named_for_the_total_must_be_read(tmp_path):
    write_ina3221(tmp_path / "sys", NX_SENSORS)
    with opened("ina3221", tmp_path, total_rails=("VDD_SOC",)) as sampler:
        assert sampler.name == "ina3221"
    with (
        pytest.raises(InputError, match="names GPU, ina3221 reads VDD_IN, VDD_CPU_GPU_CV, VDD_SOC") as caught,
        opened("ina3221", tmp_path, total_rails=("GPU",)),
    ):
        pass
    assert "--total-rail VDD_IN" in caught.value.hint


def test_an_error_of_the_run_passes_through_and_the_source_is_closed(jetson_stats, tmp_path):
    jetson_stats(READY, readings(VDD_IN=4000.0))
    with pytest.raises(KeyboardInterrupt), opened("jtop", tmp_path) as sampler:
        child = sampler._client._process
        raise KeyboardInterrupt
    assert child.returncode is not None
