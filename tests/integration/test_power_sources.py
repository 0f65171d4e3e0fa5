"""The real service of jetson-stats, and the INA3221 sampler, over a tree into which known power is played."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from fakes.tiny_engines import make_tiny_engines

from benchmarks.jtop_daemon import orin_board, why_not
from benchmarks.power_player import Player
from benchmarks.power_trees import AGX_SENSORS, NX_SENSORS, write_in_place, write_ina3221
from heartvit_edge.errors import MachineError
from heartvit_edge.power.ina3221 import Ina3221
from heartvit_edge.power.jtop import JtopSampler
from heartvit_edge.power.modes import PowerModes
from heartvit_edge.power.polling import PollingSampler
from heartvit_edge.power.sampler import PowerLostError
from heartvit_edge.spec.measurement import Measurement

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

PATIENCE_S = 120


@pytest.fixture
def orin(tmp_path):
    with orin_board(tmp_path / "orin") as daemon:
        yield daemon


def ramps(now):
    """Return 4 to 16 W: half a period of a triangle of 3 s, then a step."""
    phase = now % 6.0
    return 4000 + 4000 * (phase if phase < 3 else 0.5)


def measured_energy(sampler, player, seconds):
    """Return the energy of a window by the sampler's trace, and the exact one.

    Integrated here: our own integral refuses gaps, which a machine that has other things to do may well have.
    """
    start = time.perf_counter()
    time.sleep(seconds)
    end = time.perf_counter()
    trace = sampler.stop()
    power = np.interp(np.linspace(start, end, 100_001), trace.times_s, trace.total_mw())
    return power.mean() * (end - start), player.energy_mj(start, end)


def test_the_real_service_gives_the_joules_that_were_played_into_its_sensors(orin):
    orin.start()
    with (
        Player(orin.currents["VDD_IN"], ramps) as player,
        JtopSampler(time.perf_counter, 0.1, "", command=orin.client) as sampler,
    ):
        assert sampler.labels == ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
        found, exact = measured_energy(sampler, player, 10.0)
    assert found == pytest.approx(exact, rel=0.03)


def test_a_service_that_is_killed_in_mid_run_is_lost(orin):
    orin.start()
    with JtopSampler(time.perf_counter, 0.1, "", command=orin.client) as sampler:
        time.sleep(1)
        orin.send(signal.SIGKILL)
        with pytest.raises(PowerLostError, match="jtop was lost"):
            sampler.stop()


def test_a_service_that_is_stopped_hangs_neither_the_run_nor_its_end(orin):
    orin.start()
    with JtopSampler(time.perf_counter, 0.1, "", command=orin.client) as sampler:
        time.sleep(1)
        orin.send(signal.SIGSTOP)
        with pytest.raises(PowerLostError, match="no new reading came"):
            sampler.stop()


def test_another_client_that_came_first_sets_the_rate_and_the_trace_tells_it(orin):
    orin.start()
    with (
        JtopSampler(time.perf_counter, 1.0, "", command=orin.client),
        JtopSampler(time.perf_counter, 0.1, "", command=orin.client) as second,
    ):
        time.sleep(3)
        trace = second.stop()
    assert trace.interval_ms == 1000.0
    assert np.diff(trace.times_s)[1:].min() > 0.5  # the first is what the service had when we came


def test_a_service_of_another_version_is_refused_in_its_own_words(orin):
    orin.start(version="4.2.12")
    with pytest.raises(MachineError, match="Mismatch version jtop service"):
        JtopSampler(time.perf_counter, 0.1, "", command=orin.client).__enter__()


def test_power_modes_are_set_through_the_real_service_and_put_back(orin):
    orin.start()
    with PowerModes(lambda _: None, command=orin.client) as modes:
        assert (modes.former, modes.names) == ("30W", ("MAXN", "15W", "30W"))
        modes.set("15W")
        assert orin.board.read_text() == "15W"
    assert orin.board.read_text() == "30W"


def test_bench_keeps_its_latency_where_the_service_is_killed_in_mid_run(orin, repository, tmp_path):
    orin.start()
    make_tiny_engines(tmp_path)
    target = tmp_path / "run" / "measurement.json"
    command = [sys.executable, "-m", "heartvit_edge", "bench", str(tmp_path / "pack"), "--engines"]
    command += [str(tmp_path / "engines"), "--out", str(target.parent), "--power", "jtop", "--duration", "1", "--json"]
    run = subprocess.Popen(
        [*orin.inside, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(repository)},
    )
    assert "power: jtop" in next(line for line in run.stderr if line.startswith("power: "))
    time.sleep(4)  # the idle window takes three seconds of them
    orin.send(signal.SIGKILL)
    out, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 3, err
    assert "error: jtop was lost" in err
    rows = json.loads(out)["rows"]
    assert all(row["latency"]["p50_ms"]["value"] > 0 for row in rows)
    assert all("jtop was lost" in row["energy"]["mj_per_inference"]["reason"] for row in rows)
    assert Measurement.read(target).power is None


def test_of_an_agx_without_an_input_rail_the_service_gives_the_joules_of_all_rails_together(tmp_path):
    with orin_board(tmp_path / "orin", AGX_SENSORS) as agx:
        agx.start()
        for rail in ("VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"):
            write_in_place(agx.currents[rail], 400)  # 2 W
        with (
            Player(agx.currents["VDD_GPU_SOC"], ramps) as player,
            JtopSampler(time.perf_counter, 0.1, "", command=agx.client) as sampler,
        ):
            found, exact = measured_energy(sampler, player, 5.0)
            trace = sampler.stop()
    assert trace.total_rule.startswith("the board has no input rail")
    assert sorted(trace.total_rails) == ["VDDQ_VDD2_1V8AO", "VDD_CPU_CV", "VDD_GPU_SOC", "VIN_SYS_5V0"]
    assert found == pytest.approx(exact + 3 * 2000 * 5, rel=0.03)


@pytest.mark.parametrize(
    ("sensors", "played", "failing", "rails"),
    [
        (NX_SENSORS, "VDD_IN", "VDD_SOC", ["VDD_IN", "VDD_CPU_GPU_CV"]),
        (AGX_SENSORS, "VDD_GPU_SOC", "VDDQ_VDD2_1V8AO", ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]),
    ],
    ids=["nx", "agx"],
)
def test_the_sensors_themselves_give_the_joules_that_were_played_into_them(tmp_path, sensors, played, failing, rails):
    currents = write_ina3221(tmp_path, sensors)
    currents[failing].write_text("")  # sysfs gives no number where a channel answers EIO
    for label in set(rails) - {played}:
        write_in_place(currents[label], 0)
    with (
        Player(currents[played], ramps) as player,
        PollingSampler(lambda: Ina3221(tmp_path), time.perf_counter, 0.01, "") as sampler,
    ):
        found, exact = measured_energy(sampler, player, 5.0)
        trace = sampler.stop()
    assert list(trace.rails_mw) == rails  # and none that is labelled NC
    assert any(note.startswith(f"{failing} ") and "is left out" in note for note in trace.notes)
    assert found == pytest.approx(exact, rel=0.01)
