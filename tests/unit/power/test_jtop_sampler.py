from __future__ import annotations

import itertools
import queue
import sys
from pathlib import Path

import pytest
from fakes.jetson_stats import FakeService, JtopException, agx_power, nano_power

from heartvit_edge.errors import MachineError
from heartvit_edge.power import jtop
from heartvit_edge.power.sampler import PowerLostError


class Time:
    """A clock that a test sets; sleeping moves it on and lets the service tick."""

    def __init__(self, service=None):
        self.now = 0.0
        self.service = service

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        if self.service is not None and self.service.death is None:
            self.service.tick()


@pytest.fixture
def serve(monkeypatch):
    def install(ticks):
        service = FakeService(ticks)
        monkeypatch.setitem(sys.modules, "jtop", service.package())
        return service

    return install


def open_sampler(time, interval_s=0.1):
    return jtop.JtopSampler(time, interval_s, "a test", sleep=time.sleep)


def ticks(*powers):
    """Return endless ticks: the given powers, then the last one again and again, each with a fresh uptime."""
    return ((100 + 0.1 * n, power) for n, power in enumerate(itertools.chain(powers, itertools.repeat(powers[-1]))))


def test_the_trace_holds_power_never_avg_under_the_boards_labels(serve):
    service = serve(ticks(nano_power(4000), nano_power(5200, 2000, 1000), nano_power(6000)))
    time = Time(service)
    with open_sampler(time) as sampler:
        time.now = 0.1
        service.tick()
        trace = sampler.stop()
    assert trace.rails_mw["VDD_IN"][:2] == (4000.0, 5200.0)
    assert trace.rails_mw["VDD_CPU_GPU_CV"][:2] == (1500.0, 2000.0)
    assert set(trace.rails_mw) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    assert trace.times_s[:2] == (0.0, 0.1)


def test_the_input_rail_alone_is_the_total_of_an_orin_nano(serve):
    service = serve(ticks(nano_power(4000)))
    with open_sampler(Time(service)) as sampler:
        trace = sampler.stop()
    assert trace.total_rails == ("VDD_IN",)
    assert trace.total_mw()[0] == 4000.0
    assert "VDD_IN carries the input of the whole module" in trace.total_rule


def test_the_total_of_an_agx_orin_is_the_explicit_sum_of_its_rails(serve):
    service = serve(ticks(agx_power(700, 1000, 2500, 3000)))
    with open_sampler(Time(service)) as sampler:
        trace = sampler.stop()
    assert trace.total_rails == ("VDDQ_VDD2_1V8AO", "VDD_CPU_CV", "VDD_GPU_SOC", "VIN_SYS_5V0")
    assert trace.total_mw()[0] == 7200.0
    assert "VDDQ_VDD2_1V8AO + VDD_CPU_CV + VDD_GPU_SOC + VIN_SYS_5V0" in trace.total_rule


def test_negotiated_limits_of_a_usb_port_are_no_rail():
    power = agx_power(700, 1000, 2500, 3000)
    power["rail"]["ucsi-source-psy-0-00081"] = {"volt": 5000, "curr": 3000, "power": 15000, "online": True}
    assert "ucsi-source-psy-0-00081" not in jtop.rails_mw(power)
    assert sum(jtop.rails_mw(power).values()) == 7200.0


def test_a_stale_tick_is_dropped_and_counted(serve):
    service = serve(
        [(100.0, nano_power(4000)), (100.0, nano_power(4000)), (100.5, nano_power(4100)), (101, nano_power(1))]
    )
    time = Time(service)
    with open_sampler(time) as sampler:
        for now in (0.3, 0.5):
            time.now = now
            service.tick()
        trace = sampler.stop()
    assert trace.times_s[:2] == (0.0, 0.5)
    assert trace.num_dropped == 1


def test_the_trace_tells_the_interval_of_the_service_not_the_one_asked_for(serve):
    service = serve(ticks(nano_power(4000)))
    service.interval_s = 1.0  # another client came first
    with open_sampler(Time(service), interval_s=0.1) as sampler:
        assert sampler.stop().interval_ms == 1000.0
    assert service.clients[0].asked_interval == 0.1


def test_stop_waits_for_a_reading_that_came_after_it_was_called(serve):
    service = serve(ticks(nano_power(4000)))
    time = Time(service)
    with open_sampler(time) as sampler:
        time.now = 7.0
        trace = sampler.stop()
    assert trace.times_s[-1] > 7.0


def test_a_service_that_dies_in_mid_run_is_lost_with_its_own_words(serve):
    service = serve(ticks(nano_power(4000)))
    time = Time(service)
    with open_sampler(time) as sampler:
        time.now = 3.0
        service.tick()
        service.death = JtopException("Lost connection with jtop server")
        time.now = 9.0
        with pytest.raises(PowerLostError, match=r"lost 3\.0 s into the run \(2 readings\): Lost connection") as caught:
            sampler.stop()
    assert caught.value.exit_code == 3
    assert service.clients[0].closed


def test_a_service_that_hangs_is_lost_after_ten_of_its_intervals(serve):
    service = serve(ticks(nano_power(4000)))
    service.interval_s = 0.5
    time = Time()  # nothing ticks while it sleeps
    with open_sampler(time) as sampler:
        time.now = 4.0
        with pytest.raises(PowerLostError, match="no new reading came for 9"):
            sampler.stop()
    assert time.now == pytest.approx(4.0 + 10 * 0.5, abs=0.1)


@pytest.mark.parametrize(
    "refusal",
    [
        JtopException("Mismatch version jtop service: [4.2] and client: [7.2]"),
        ConnectionResetError("the service closed"),
        queue.Empty(),
    ],
)
def test_a_service_that_refuses_is_a_machine_error_with_the_command_that_restarts_it(serve, refusal):
    service = serve(ticks(nano_power(4000)))
    service.refusal = refusal
    with pytest.raises(MachineError, match="jtop service cannot be read") as caught, open_sampler(Time(service)):
        pass
    assert (str(refusal) or "Empty") in str(caught.value)
    assert "systemctl restart jtop" in caught.value.hint
    assert service.clients[0].closed


def test_a_board_without_a_power_rail_is_a_machine_error(serve):
    service = serve([(100.0, {})])
    with pytest.raises(MachineError, match="no power rail") as caught, open_sampler(Time(service)):
        pass
    assert "--power none" in caught.value.hint
    assert service.clients[0].closed


def test_the_client_is_closed_when_the_run_is_interrupted(serve):
    service = serve(ticks(nano_power(4000)))
    with pytest.raises(KeyboardInterrupt), open_sampler(Time(service)):
        raise KeyboardInterrupt
    assert service.clients[0].closed


def test_without_the_package_the_hint_installs_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jtop", None)  # what `import jtop` then raises is an ImportError
    missing = jtop.why_unusable(tmp_path)
    assert missing is not None
    assert "heartvit-edge[jetson]" in missing.hint
    with pytest.raises(MachineError, match="cannot be imported"), open_sampler(Time()):
        pass


def test_without_the_services_socket_the_hint_starts_it(serve, tmp_path):
    serve(ticks(nano_power(4000)))
    missing = jtop.why_unusable(tmp_path / "jtop.sock")
    assert missing is not None
    assert "service is not running" in str(missing)
    assert "systemctl restart jtop" in missing.hint
    (tmp_path / "jtop.sock").touch()
    assert jtop.why_unusable(tmp_path / "jtop.sock") is None


def test_no_other_file_of_the_package_imports_jtop(repository):
    package = repository / "heartvit_edge"
    found = [
        path.relative_to(package)
        for path in package.rglob("*.py")
        if any(line.split()[:2] in (["from", "jtop"], ["import", "jtop"]) for line in path.read_text().splitlines())
    ]
    assert found == [Path("power/jtop.py")]
