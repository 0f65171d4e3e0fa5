"""The sampler and the power modes on our side of the process that talks to jtop, which a script stands in for."""

from __future__ import annotations

import os
import sys
import time

import pytest
from fakes.jtop_process import READY, process, readings

from heartvit_edge.errors import MachineError
from heartvit_edge.power import jtop
from heartvit_edge.power.jtop import JtopClient, JtopSampler
from heartvit_edge.power.sampler import PowerLostError

NANO = {"VDD_IN": 4000.0, "VDD_CPU_GPU_CV": 1500.0, "VDD_SOC": 900.0}


def sampler(*script, clock=time.perf_counter):
    return JtopSampler(clock, 0.1, "a test", command=process(*script))


def test_the_trace_holds_the_rails_at_the_time_they_came_on_the_runs_clock():
    origin = time.perf_counter()
    with sampler(READY, readings(**NANO), clock=lambda: time.perf_counter() - origin) as source:
        asked = time.perf_counter() - origin
        trace = source.stop()
    assert source.labels == tuple(NANO)
    assert trace.rails_mw["VDD_CPU_GPU_CV"][0] == 1500.0
    assert trace.times_s[-1] >= asked
    assert trace.times_s[0] < asked
    assert (trace.total_rails, trace.resolution_mw["VDD_IN"]) == (("VDD_IN",), 1.0)


def test_the_trace_tells_the_interval_of_the_service_not_the_one_asked_for():
    slow = ("say", {"ready": {"interval_s": 1.0, "mode": None, "modes": []}})
    with sampler(slow, readings(**NANO)) as source:
        assert source.stop().interval_ms == 1000.0


def test_a_stale_tick_is_dropped_and_counted():
    with sampler(READY, readings(count=5, stamp=7, **NANO), readings(**NANO)) as source:
        trace = source.stop()
        while source._recording.num_dropped < 4:
            time.sleep(0.01)
        trace = source.stop()
    assert trace.num_dropped >= 4


def test_a_service_that_dies_in_mid_run_is_lost_with_its_own_words():
    death = ("say", {"error": "Lost connection with jtop server"})
    with (
        sampler(READY, readings(count=2, **NANO), death) as source,
        pytest.raises(PowerLostError, match=r"lost .* into the run \(2 readings\): Lost connection") as caught,
    ):
        while not source._client.error:
            time.sleep(0.01)
        source.stop()
    assert caught.value.exit_code == 3


def test_a_process_that_dies_in_mid_run_is_lost():
    with (
        sampler(READY, readings(count=2, **NANO), ("exit", 9)) as source,
        pytest.raises(PowerLostError, match="its client ended"),
    ):
        while not source._client.error:
            time.sleep(0.01)
        source.stop()


def test_a_service_that_hangs_is_lost_after_ten_of_its_intervals():
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    source = JtopSampler(lambda: now[0], 0.1, "", sleep=sleep, command=process(READY, readings(count=1, **NANO)))
    with source:
        now[0] = source._recording.last_s + 4.0
        asked = now[0]
        with pytest.raises(PowerLostError, match="no new reading came for 6"):
            source.stop()
    assert now[0] == pytest.approx(asked + 2.0, abs=0.1)


def test_a_process_that_hangs_is_killed_at_the_end_and_costs_no_time():
    source = JtopSampler(time.perf_counter, 0.1, "", command=process(READY, readings(**NANO), modes={"hang": 1}))
    with source:
        child = source._client._process
        source.stop()
    assert child.returncode == -9


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ({"error": "Mismatch version jtop service: [4.2] and client: [7.2]"}, "systemctl restart jtop"),
        ({"error": "jetson-stats cannot be imported: No module", "missing": True}, "heartvit-edge[jetson]"),
    ],
)
def test_a_service_that_refuses_is_a_machine_error_with_its_words_and_the_cure(message, hint):
    with pytest.raises(MachineError, match=r"jtop service cannot be read: (Mismatch|jetson-stats)") as caught:
        sampler(("say", message)).__enter__()
    assert hint in caught.value.hint


def test_a_service_that_does_not_answer_is_a_machine_error(monkeypatch):
    monkeypatch.setattr(jtop, "CONNECT_S", 0.05)
    with pytest.raises(MachineError, match=r"no answer came within 0\.05 s"):
        sampler().__enter__()


def test_a_board_without_a_power_rail_is_a_machine_error():
    with pytest.raises(MachineError, match="no power rail") as caught:
        sampler(READY, readings(count=1)).__enter__()
    assert "--power none" in caught.value.hint


def test_a_mode_is_set_by_name_and_one_that_fails_is_a_machine_error():
    client = JtopClient(0.1, lambda _: None, process(READY, modes={"MAXN": "the board did not take power mode MAXN"}))
    assert client.ready["modes"] == ["MAXN", "15W"]
    client.set_mode("15W", within_s=5)
    with pytest.raises(MachineError, match="did not take power mode MAXN"):
        client.set_mode("MAXN", within_s=5)
    client.close(5)


def test_a_former_mode_that_cannot_be_put_back_is_raised_at_the_end():
    client = JtopClient(0.1, lambda _: None, process(READY, modes={"at the end": "the board is in MAXN"}))
    with pytest.raises(MachineError, match="the board is in MAXN"):
        client.close(5)


def test_the_process_imports_this_package_wherever_it_is_started(monkeypatch, tmp_path):
    (tmp_path / "heartvit_edge.py").write_text("raise AssertionError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    code = "import heartvit_edge, json; print(json.dumps({'ready': heartvit_edge.__file__}), flush=True)"
    client = JtopClient(0.1, lambda _: None, (sys.executable, "-c", code))
    assert os.path.dirname(os.path.dirname(client.ready)) == str(jtop.OURS)
    client.close(5)


def test_without_the_services_socket_the_hint_starts_it(monkeypatch, tmp_path):
    monkeypatch.setattr(jtop.importlib.util, "find_spec", lambda _: object())
    missing = jtop.why_unusable(tmp_path / "jtop.sock")
    assert "service is not running" in str(missing)
    assert "systemctl restart jtop" in missing.hint
    (tmp_path / "jtop.sock").touch()
    assert jtop.why_unusable(tmp_path / "jtop.sock") is None


def test_without_the_package_the_hint_installs_it(monkeypatch, tmp_path):
    monkeypatch.setattr(jtop.importlib.util, "find_spec", lambda _: None)
    assert "heartvit-edge[jetson]" in jtop.why_unusable(tmp_path).hint
