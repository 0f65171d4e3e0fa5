"""Energy counters: RAPL's files, NVML's double, and the power that follows from them."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from benchmarks.power_trees import write_rapl
from heartvit_edge.errors import MachineError
from heartvit_edge.power.counter import EnergyCounter
from heartvit_edge.power.energy import integrate_mj
from heartvit_edge.power.nvml import Nvml, why_no_gpu_power
from heartvit_edge.power.rapl import Rapl, why_no_counter


def test_power_is_what_was_used_between_two_looks_over_the_time_at_its_middle():
    counter = EnergyCounter()
    assert counter.look(1.0, {"a": 50.0}) is None
    reading = counter.look(3.0, {"a": 90.0})
    assert (reading.time_s, reading.rails_mw) == (2.0, {"a": 20.0})


def test_a_counter_that_wraps_goes_on_from_zero():
    counter = EnergyCounter({"a": 100.0})
    counter.look(0.0, {"a": 90.0})
    assert counter.look(1.0, {"a": 10.0}).rails_mw == {"a": 20.0}


def test_a_counter_that_never_wraps_and_runs_backwards_is_refused():
    counter = EnergyCounter()
    counter.look(0.0, {"a": 90.0})
    with pytest.raises(ValueError, match="a ran backwards by 80 mJ"):
        counter.look(1.0, {"a": 10.0})


def test_a_counter_that_has_not_moved_is_nothing_new_and_its_time_counts_with_the_next():
    counter = EnergyCounter()
    counter.look(0.0, {"a": 0.0})
    assert counter.look(1.0, {"a": 0.0}) is None
    reading = counter.look(2.0, {"a": 30.0})
    assert (reading.time_s, reading.rails_mw) == (1.0, {"a": 15.0})


def test_the_trapezoid_over_a_counters_readings_is_what_it_counted():
    # E(t) of P(t) = 1000 (3 + sin t) mW, read every 0.1 s; the integral from 2 to 8 s is exact by hand.
    times = np.arange(0.0, 10.0, 0.1)
    counter = EnergyCounter()
    found = [counter.look(t, {"a": 1000 * (3 * t - np.cos(t) + 1)}) for t in times]
    readings = [reading for reading in found if reading]
    got = integrate_mj(np.array([r.time_s for r in readings]), np.array([r.rails_mw["a"] for r in readings]), 2.0, 8.0)
    assert got == pytest.approx(1000 * (18 - np.cos(8) + np.cos(2)), rel=1e-3)


def test_rapl_adds_packages_and_memory_but_not_the_cores_that_a_package_holds(tmp_path):
    files = write_rapl(tmp_path)
    rapl = Rapl(tmp_path)
    assert rapl.labels == ("package-0", "package-0/core", "package-0/dram")
    assert rapl.total[0] == ("package-0", "package-0/dram")
    times = iter((1.0, 2.0))
    assert rapl.read(lambda: next(times)) is None
    files["package-0"].write_text("2001000\n")
    files["package-0/dram"].write_text("501000\n")
    assert rapl.read(lambda: next(times)).rails_mw == {
        "package-0": 2000.0,
        "package-0/core": 0.0,
        "package-0/dram": 500.0,
    }


def test_rapl_wraps_where_its_file_says(tmp_path):
    files = write_rapl(tmp_path, microjoule=9_900_000, wraps_at=10_000_000)
    rapl = Rapl(tmp_path)
    times = iter((1.0, 2.0))
    rapl.read(lambda: next(times))
    for file in files.values():
        file.write_text("400000\n")
    assert rapl.read(lambda: next(times)).rails_mw["package-0"] == pytest.approx(500.0)


def test_rapl_takes_the_platform_alone_where_it_is_counted(tmp_path):
    write_rapl(tmp_path)
    (tmp_path / "class/powercap/intel-rapl:0/name").write_text("psys\n")
    assert Rapl(tmp_path).total[0] == ("psys",)


def test_a_machine_without_rapl_and_one_that_hides_it_say_so(tmp_path):
    assert "most virtual machines hide them" in str(why_no_counter(tmp_path))
    (write_rapl(tmp_path)["package-0"]).write_text("")
    refused = why_no_counter(tmp_path)
    assert "cannot be read" in str(refused)
    assert refused.hint.startswith("sudo chmod a+r ")


class NVMLError(Exception):
    pass


def nvml_double(energy_mj=None, power_mw=None, gpus=("Some GPU",)):
    """Return a module as nvidia-ml-py, whose GPU tells the energies or powers in turn; None is NOT_SUPPORTED."""
    module = types.ModuleType("pynvml")
    module.NVMLError = NVMLError
    module.shut = 0
    left = {"energy": iter(energy_mj or ()), "power": iter(power_mw or ())}

    def tell(which, values):
        def ask(_):
            if values is None:
                raise NVMLError("Not Supported")
            return next(left[which])

        return ask

    def by_index(index):
        if index >= len(gpus):
            raise NVMLError("Invalid Argument")
        return index

    def shut_down():
        module.shut += 1

    module.nvmlInit = lambda: None
    module.nvmlShutdown = shut_down
    module.nvmlDeviceGetHandleByIndex = by_index
    module.nvmlDeviceGetHandleByUUID = lambda uuid: {"GPU-b": 1}[uuid]
    module.nvmlDeviceGetName = lambda gpu: gpus[gpu]
    module.nvmlDeviceGetIndex = lambda gpu: gpu
    module.nvmlDeviceGetTotalEnergyConsumption = tell("energy", energy_mj)
    module.nvmlDeviceGetPowerUsage = tell("power", power_mw)
    return module


@pytest.fixture
def install(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(module):
        monkeypatch.setitem(sys.modules, "pynvml", module)
        return module

    return put


def test_nvml_reads_the_energy_counter_where_the_gpu_has_one(install):
    install(nvml_double(energy_mj=[0, 1000, 61_000], power_mw=[1]))
    gpu = Nvml()
    times = iter((1.0, 2.0))
    assert gpu.read(lambda: next(times)) is None
    assert gpu.read(lambda: next(times)).rails_mw == {"Some GPU 0": 60_000.0}
    assert gpu.notes == ()


def test_nvml_reads_power_where_the_gpu_counts_no_energy_and_says_so(install):
    install(nvml_double(power_mw=[1, 55_000]))
    gpu = Nvml()
    assert gpu.read(lambda: 3.0).rails_mw == {"Some GPU 0": 55_000.0}
    assert "counts no energy" in gpu.notes[0]


def test_an_orin_whose_nvml_loads_and_supports_nothing_is_no_power_source(install):
    double = install(nvml_double())
    assert "NVML tells no power on this machine: Not Supported" in str(why_no_gpu_power())
    assert double.shut == 1


@pytest.mark.parametrize(("visible", "name"), [("1", "B 1"), ("GPU-b,GPU-a", "B 1"), ("0,1", "A 0"), ("", "A 0")])
def test_the_gpu_is_the_first_that_cuda_sees(install, monkeypatch, visible, name):
    install(nvml_double(energy_mj=[0], gpus=("A", "B")))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert Nvml().labels == (name,)


def test_without_the_package_the_hint_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MachineError, match="cannot be imported") as caught:
        Nvml()
    assert caught.value.hint == "pip install 'heartvit-edge[nvml]'"
