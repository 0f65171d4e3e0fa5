"""bench measures the engines of a pack, stores every sample and prints what follows from them."""

from __future__ import annotations

import errno
import functools
import importlib.util
import itertools
import json
import os
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from fakes.tiny_engines import make_tiny_engines

from benchmarks.power_trees import NX_SENSORS, write_ina3221
from heartvit_edge.bench import run as bench_run
from heartvit_edge.bench import session as bench_session
from heartvit_edge.bench import stored as bench_stored
from heartvit_edge.bench.energy_figures import energy_figures
from heartvit_edge.bench.figures import latency_figures, ratio_figures
from heartvit_edge.power import choose as power_choose
from heartvit_edge.power.choose import choose
from heartvit_edge.power.none import NoSampler
from heartvit_edge.power.sampler import PowerLostError
from heartvit_edge.spec.measurement import Measurement, PowerTrace

QUICK = ("--duration", "0.02", "--trials", "2", "--idle", "0")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    return folder, make_tiny_engines(folder)


@pytest.fixture
def bench(run_cli, built, tmp_path):
    folder, _ = built

    def run(*args, out=tmp_path / "run"):
        return run_cli("bench", folder / "pack", "--engines", folder / "engines", "--out", out, *args)

    return run


@pytest.fixture
def no_jtop(monkeypatch, tmp_path):
    """jetson-stats is installed and its service is not running, whatever this machine has."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: find("json" if name == "jtop" else name))
    monkeypatch.setattr(bench_run, "choose", functools.partial(choose, root=tmp_path))


class ConstantSampler(NoSampler):
    """Reads 5 W a hundred times a second from the beginning of the run to now."""

    name = "constant"

    def __init__(self, clock):
        super().__init__("a test")
        self.clock = clock

    def stop(self):
        times = np.arange(0.0, self.clock() + 0.02, 0.001)
        return PowerTrace(
            source=self.name,
            times_s=tuple(times.tolist()),
            rails_mw={"VDD_IN": (5000.0,) * len(times)},
            total_rails=("VDD_IN",),
            total_rule="a test",
        )


class LongSampler(ConstantSampler):
    """Knows the power of the next hour too, a reading every 0.1 s."""

    def stop(self):
        times = np.arange(0.0, 3600.0, 0.1)
        return PowerTrace(
            source=self.name,
            times_s=tuple(times.tolist()),
            rails_mw={"VDD_IN": (5000.0,) * len(times)},
            total_rails=("VDD_IN",),
            total_rule="a test",
        )


class DyingSampler(NoSampler):
    """Was reading, and is not at the end."""

    name = "dying"

    def stop(self):
        raise PowerLostError("jtop was lost 1.0 s into the run (9 readings): killed", hint="restart it")


@pytest.mark.usefixtures("no_jtop")
def test_every_entry_is_measured_at_every_batch_size_and_stored(bench, built, tmp_path):
    result = bench("--batch-size", "1,4", "--batch-size", "2", *QUICK)
    assert result.exit_code == 0, result.stderr
    stored = Measurement.read(tmp_path / "run" / "measurement.json")
    assert [(row.entry, row.batch_size) for row in stored.rows] == [
        (entry, size) for size in (1, 4, 2) for entry in ("dense", "macs-0.5")
    ]
    assert all(len(row.trials) == 2 for row in stored.rows)
    assert stored.pack == built[1]
    assert stored.command.startswith("heartvit-edge bench ")
    assert result.stdout.splitlines()[-1] == str(tmp_path / "run" / "measurement.json")
    assert "power: none (no power source was found: " in result.stderr


@pytest.mark.usefixtures("no_jtop")
def test_latencies_fill_their_window_and_windows_never_overlap(bench, tmp_path):
    bench("--batch-size", "1,4", *QUICK)
    rows = Measurement.read(tmp_path / "run" / "measurement.json").rows
    windows = sorted((trial.start_s, trial.end_s, sum(trial.latency_ms) / 1000) for row in rows for trial in row.trials)
    for start, end, busy in windows:
        assert 0.02 <= end - start
        assert busy <= end - start + 1e-6
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(windows))


@pytest.mark.usefixtures("no_jtop")
def test_json_figures_are_those_of_the_stored_samples(bench, tmp_path):
    result = bench("--json", *QUICK)
    printed = json.loads(result.stdout)
    stored = Measurement.read(tmp_path / "run" / "measurement.json")
    for row, shown in zip(stored.rows, printed["rows"], strict=True):
        assert shown["latency"] == latency_figures(row).model_dump(mode="json")
        assert shown["ratio_to_dense"] == ratio_figures(stored, row).model_dump(mode="json")
    assert printed["rows"][1]["macs_fraction"] == 0.5
    assert printed["power"] is None
    assert "jtop service is not running" in printed["no_power_reason"]
    energy = printed["rows"][0]["energy"]["mj_per_inference"]
    assert energy["value"] is None
    assert energy["reason"] == printed["no_power_reason"]


@pytest.mark.usefixtures("no_jtop")
def test_the_table_says_once_why_figures_are_missing_and_has_no_column_of_energy_without_any(bench):
    result = bench("--duration", "0.01", "--trials", "1")
    header, dense, pruned, *notes = result.stdout.splitlines()
    assert header.split()[:3] == ["entry", "batch", "samples"]
    assert (dense.split()[0], pruned.split()[0]) == ("dense", "macs-0.5")
    assert "mJ" not in header
    assert "floor" not in header
    assert [note[:9] for note in notes if "the jtop service is not running" in note] == ["— energy:"]
    lacking = [note for note in notes if "p99 needs at least 500 samples" in note]
    assert len(lacking) == 1
    assert "times as long have them" in lacking[0]


def test_energy_is_the_power_of_the_readings_times_the_time_of_the_calls(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench_run, "choose", lambda asked, *, clock, **_: ConstantSampler(clock))  # noqa: ARG005
    result = bench("--json", "--batch-size", "4", *QUICK)
    assert result.exit_code == 0, result.stderr
    stored = Measurement.read(tmp_path / "run" / "measurement.json")
    printed = json.loads(result.stdout)
    for row, shown in zip(stored.rows, printed["rows"], strict=True):
        seconds = sum(trial.end_s - trial.start_s for trial in row.trials)
        calls = sum(len(trial.latency_ms) for trial in row.trials)
        assert shown["energy"]["mj_per_inference"]["value"] == pytest.approx(5000 * seconds / calls)
        assert shown["energy"]["mj_per_image"]["value"] == pytest.approx(5000 * seconds / calls / 4)
        assert energy_figures(stored, row).mean_mw.value == pytest.approx(5000.0)
    assert printed["power"]["achieved_rate_hz"] == pytest.approx(1000.0)


def test_a_source_that_dies_in_mid_run_costs_the_energy_alone_and_exits_3(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench_run, "choose", lambda asked, **_: DyingSampler("a test"))  # noqa: ARG005
    result = bench("--power", "auto", *QUICK)
    assert result.exit_code == 3
    assert "error: jtop was lost 1.0 s into the run (9 readings): killed\nhint: restart it" in result.stderr
    stored = Measurement.read(tmp_path / "run" / "measurement.json")
    assert stored.power is None
    assert stored.no_power_reason == "jtop was lost 1.0 s into the run (9 readings): killed"
    assert latency_figures(stored.rows[0]).p50_ms.value > 0
    assert result.stdout.splitlines()[-1].endswith("measurement.json")


@pytest.mark.usefixtures("no_jtop")
def test_jtop_that_was_asked_for_and_is_missing_exits_3_with_the_cure_and_no_file(bench, tmp_path):
    result = bench("--power", "jtop", *QUICK)
    assert result.exit_code == 3
    assert "error: the jtop service is not running" in result.stderr
    assert "systemctl restart jtop" in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "run").exists()


def test_power_none_is_said_and_is_the_reason(bench):
    result = bench("--power", "none", *QUICK)
    assert result.exit_code == 0
    assert "power: none (power was not asked for: --power none)" in result.stderr
    assert "power was not asked for: --power none" in result.stdout


def test_a_measurement_that_exists_is_kept_without_force_and_replaced_with_it(bench, tmp_path):
    target = tmp_path / "run" / "measurement.json"
    target.parent.mkdir()
    target.write_text("mine")
    (tmp_path / "run" / "evaluation.json").write_text("evaluate's own")
    refused = bench("--power", "none", *QUICK)
    assert refused.exit_code == 2
    assert f"error: {target} exists already" in refused.stderr
    assert "--force" in refused.stderr
    assert target.read_text() == "mine"
    assert bench("--power", "none", "--force", *QUICK).exit_code == 0
    assert len(Measurement.read(target).rows) == 2
    assert (tmp_path / "run" / "evaluation.json").read_text() == "evaluate's own"


def test_a_run_that_is_a_file_is_refused_before_anything_runs(bench, tmp_path):
    (tmp_path / "run").write_text("a file")
    result = bench("--power", "none", *QUICK)
    assert result.exit_code == 2
    assert "is a file, expected a folder" in result.stderr
    assert "trial" not in result.stderr


def test_a_pack_without_engines_exits_2_with_the_command_that_builds_them(run_cli, built, tmp_path):
    pack = built[0] / "pack"
    result = run_cli("bench", pack, "--engines", tmp_path / "none", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert f"hint: build them with: heartvit-edge build-engine {pack} --engines {tmp_path / 'none'}" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["0", "-1", "two", "1,,2", "1.5"])
def test_a_batch_size_that_is_no_whole_number_exits_2_and_is_named(bench, text):
    result = bench("--batch-size", text)
    assert result.exit_code == 2
    assert f"--batch-size is '{text}', expected whole numbers of at least 1" in result.stderr


def test_a_batch_size_that_no_engine_serves_exits_2(bench):
    result = bench("--batch-size", "9")
    assert result.exit_code == 2
    assert "serves batch sizes 1 to 8, found 9" in result.stderr
    assert "--batch-size 1:1:9" in result.stderr


@pytest.mark.parametrize(
    "args",
    [("--power", "battery"), ("--backend", "openvino"), ("--trials", "0"), ("--duration", "0"), ("--interval-ms", "1")],
)
def test_an_option_value_that_is_unknown_or_out_of_range_exits_2_and_is_named(bench, args):
    result = bench(*args)
    assert result.exit_code == 2
    assert args[0] in result.stderr


def test_a_budget_picks_its_entry_beside_the_dense_one(bench, tmp_path):
    bench("--budget", "1.0", "--power", "none", *QUICK)
    stored = Measurement.read(tmp_path / "run" / "measurement.json")
    assert [row.entry for row in stored.rows] == ["dense"]


def test_an_interrupted_run_leaves_nothing(bench, monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_run, "measure", interrupt)
    result = bench("--power", "none", *QUICK)
    assert result.exit_code == 130
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(monkeypatch):
    """Writing below a folder fails as on a disk that is full, after some bytes."""
    full = []
    write = Path.write_text

    def write_text(path, text, *rest, **options):
        if any(folder in path.parents for folder in full):
            write(path, text[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, text, *rest, **options)

    monkeypatch.setattr(Path, "write_text", write_text)
    return full


def test_a_full_disk_costs_no_measurement_and_leaves_no_partial_file(bench, small_disk, monkeypatch, tmp_path):
    small_disk.append(tmp_path / "run")
    (tmp_path / "spare").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spare"))
    result = bench("--power", "none", *QUICK)
    kept = tmp_path / "spare" / "run-measurement.json"
    assert result.exit_code == 3
    assert f"No space left on device; the measurement is kept in {kept}" in result.stderr
    assert len(Measurement.read(kept).rows) == 2
    assert result.stdout.splitlines()[-1] == str(kept)
    assert list((tmp_path / "run").iterdir()) == []


def test_what_was_kept_of_another_run_is_not_replaced(bench, small_disk, monkeypatch, tmp_path):
    small_disk.append(tmp_path / "run")
    (tmp_path / "spare").mkdir()
    (tmp_path / "spare" / "run-measurement.json").write_text("of another run")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spare"))
    result = bench("--power", "none", *QUICK)
    assert (tmp_path / "spare" / "run-measurement.json").read_text() == "of another run"
    assert len(Measurement.read(tmp_path / "spare" / "run-measurement-2.json").rows) == 2
    assert "run-measurement-2.json" in result.stderr


def test_a_measurement_that_can_be_kept_nowhere_is_printed_whole(bench, small_disk, monkeypatch, tmp_path):
    small_disk.append(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = bench("--power", "none", *QUICK)
    assert result.exit_code == 3
    assert "the measurement itself is printed" in result.stderr
    printed = json.loads(result.stdout)
    assert (printed["schema"], len(printed["rows"])) == ("measurement", 2)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.fixture
def sensors(monkeypatch, tmp_path):
    """Return the currents of an Orin NX's sensors, which are the machine's."""
    monkeypatch.setattr(bench_run, "choose", functools.partial(choose, root=tmp_path))
    check = power_choose.check_power
    monkeypatch.setattr(power_choose, "check_power", lambda asked, root=tmp_path: check(asked, root))
    return write_ina3221(tmp_path / "sys", NX_SENSORS)


def fail_in_the_second_window(monkeypatch, files):
    """Let sensor files answer EIO, as a bus does that hangs, from the second timed window on."""
    windows, opened = itertools.count(), os.open
    measure = bench_session.measure_window

    def measure_window(*args):
        if next(windows):
            monkeypatch.setattr(os, "open", answer_eio)
        return measure(*args)

    def answer_eio(path, *rest, **options):
        if str(path) in map(str, files):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return opened(path, *rest, **options)

    monkeypatch.setattr(bench_session, "measure_window", measure_window)


def test_sensors_that_answer_eio_in_mid_run_cost_the_energy_alone_and_exit_3(bench, sensors, monkeypatch, tmp_path):
    fail_in_the_second_window(monkeypatch, sensors.values())
    result = bench("--power", "ina3221", "--interval-ms", "10", *QUICK, "--duration", "0.2")
    assert result.exit_code == 3
    assert re.search(r"error: ina3221 was lost \d+\.\d s into the run .* reads failed in a row", result.stderr)
    assert "hint: see what the kernel says of it: dmesg | grep ina3221" in result.stderr
    stored = Measurement.read(tmp_path / "run" / "measurement.json")
    assert [len(row.trials) for row in stored.rows] == [2, 2]
    assert stored.power is None
    assert "ina3221 was lost" in stored.no_power_reason


def test_a_channel_that_answers_eio_from_the_start_is_left_out_and_said(bench, sensors, tmp_path):
    sensors["VDD_SOC"].write_text("")  # sysfs gives no number where the bus fails
    result = bench("--power", "ina3221", "--interval-ms", "10", *QUICK, "--duration", "0.2")
    assert result.exit_code == 0, result.stderr
    stored = Measurement.read(tmp_path / "run" / "measurement.json")
    assert list(stored.power.rails_mw) == ["VDD_IN", "VDD_CPU_GPU_CV"]
    assert "energy: VDD_SOC (1-0040 channel 3) is left out" in result.stdout
    assert set(stored.power.total_mw()) == {5000.0}


def test_a_step_of_the_wall_clock_changes_no_latency_and_no_energy(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench_run, "choose", lambda asked, *, clock, **_: ConstantSampler(clock))  # noqa: ARG005
    steps = itertools.cycle([0.0, 3600.0, -7200.0])
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + next(steps))
    assert bench(*QUICK).exit_code == 0
    stored = Measurement.read(tmp_path / "run" / "measurement.json")
    for row in stored.rows:
        assert all(0.02 <= trial.end_s - trial.start_s < 20 for trial in row.trials)
        assert energy_figures(stored, row).mean_mw.value == pytest.approx(5000.0)


def test_an_idle_window_is_measured_before_the_engines_where_power_is_read(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench_run, "choose", lambda asked, *, clock, **_: ConstantSampler(clock))  # noqa: ARG005
    bench("--duration", "0.02", "--idle", "0.05")
    stored = Measurement.read(tmp_path / "run" / "measurement.json")
    assert 0.05 <= stored.idle.end_s - stored.idle.start_s
    assert stored.idle.end_s <= min(trial.start_s for row in stored.rows for trial in row.trials)
    figures = energy_figures(stored, stored.rows[0])
    assert figures.idle_mw.value == pytest.approx(5000.0)
    assert figures.net_mj_per_inference.value == pytest.approx(0.0, abs=1e-6)  # the trace never changes


def test_no_idle_window_is_waited_for_where_no_power_is_read(bench, tmp_path):
    bench("--power", "none", "--duration", "0.02", "--trials", "2", "--idle", "3600")
    assert Measurement.read(tmp_path / "run" / "measurement.json").idle is None


def test_offline_sweeps_batch_sizes_and_names_the_best(bench, tmp_path):
    result = bench("--scenario", "offline", "--power", "none", *QUICK)
    stored = Measurement.read(tmp_path / "run" / "measurement.json")
    assert (stored.scenario, [row.batch_size for row in stored.rows[::2]]) == ("offline", [1, 2, 4, 8])
    assert "offline: most images a second: dense at batch size " in result.stdout


def test_a_scenario_with_another_batch_size_exits_2(bench):
    result = bench("--scenario", "multi-stream", "--batch-size", "4", "--power", "none", *QUICK)
    assert result.exit_code == 2
    assert "multi-stream asks for 8 images at a time" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--scenario", "offline", "--arrival", "poisson:5"), "expected one of the two"),
        (("--yes",), "--yes goes with --power-mode alone"),
        (("--total-rail", "VDD_IN", "--power", "none"), "--total-rail names rails, --power none reads none"),
        (("--power", "replay:nope.json"), "--power is 'replay:nope.json', expected a measurement"),
        (("--duration", "inf"), "--duration"),
    ],
)
def test_an_option_that_can_have_no_effect_exits_2_before_anything_runs(bench, tmp_path, args, message):
    result = bench(*QUICK, *args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "engines:" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_jtop")
def test_a_rail_that_was_named_where_nothing_is_read_exits_3(bench):
    result = bench("--total-rail", "VDD_IN", *QUICK)
    assert result.exit_code == 3
    assert "--total-rail names VDD_IN: no power source was found" in result.stderr


def test_the_preset_with_random_arrivals_claims_no_scenario(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench_run, "choose", lambda asked, **_: NoSampler("a test"))  # noqa: ARG005
    bench("--mlperf", "--arrival", "poisson:50", "--duration", "0.1", "--cool-down", "0", "--trials", "1")
    assert Measurement.read(tmp_path / "run" / "measurement.json").scenario is None


def test_how_long_it_takes_is_told_before_it_begins(bench):
    assert "this takes up to about 1 s" in bench("--power", "none", *QUICK).stderr


def test_requests_that_come_at_random_store_their_waits(bench, tmp_path):
    result = bench("--arrival", "poisson:40", "--power", "none", "--duration", "0.3", "--trials", "1", "--json")
    assert result.exit_code == 0, result.stderr
    stored = Measurement.read(tmp_path / "run" / "measurement.json")
    assert stored.arrival_per_s == 40.0
    trial = stored.rows[0].trials[0]
    assert len(trial.waiting_ms) == len(trial.latency_ms)
    assert json.loads(result.stdout)["rows"][0]["latency"]["waiting_ms"]["value"] >= 0


def test_waiting_is_printed_where_requests_come_at_random_and_the_loop_where_not(bench, tmp_path):
    quick = ("--power", "none", *QUICK)
    assert "loop µs" in bench(*quick).stdout.splitlines()[0]
    result = bench("--arrival", "poisson:40", *quick, out=tmp_path / "random")
    header = result.stdout.splitlines()[0]
    assert "waiting ms" in header
    assert "loop" not in header


def test_limits_that_are_given_print_floors(bench):
    result = bench("--bandwidth", "10", "--peak", "0.001", "--power", "none", "--json", *QUICK)
    printed = json.loads(result.stdout)
    assert printed["limits"]["source"] == "bandwidth was given; peak was given"
    dense, pruned = (row["floors"]["arithmetic_ms"] for row in printed["rows"])
    assert pruned == pytest.approx(dense / 2)


def test_mlperf_sets_the_pace_and_what_is_given_beside_it_wins(bench, monkeypatch):
    seen = {}

    def measure(workloads, img_size, schedule, *rest):  # noqa: ARG001
        seen["schedule"] = schedule
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_run, "measure", measure)
    bench("--mlperf", "--power", "none", "--cool-down", "5")
    assert (seen["schedule"].duration_s, seen["schedule"].num_trials, seen["schedule"].cool_down_s) == (600.0, 3, 5.0)


def test_a_measured_trace_is_replayed(bench, monkeypatch, tmp_path):
    with monkeypatch.context() as patched:
        patched.setattr(bench_run, "choose", lambda asked, *, clock, **_: LongSampler(clock))  # noqa: ARG005
        bench("--duration", "0.02", "--idle", "0")
    result = bench("--power", f"replay:{tmp_path / 'run'}", *QUICK, out=tmp_path / "again")
    assert "power: replay (replays " in result.stderr
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("args", "any_power_mode"), [((), False), (("--any-power-mode",), True), (("--power-mode", "15W", "--yes"), True)]
)
def test_a_sweep_over_modes_takes_engines_that_were_built_in_another(bench, monkeypatch, args, any_power_mode):
    seen = {}

    def find(*_, **options):
        seen.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_stored, "find_engines", find)
    assert bench("--power", "none", *args).exit_code == 130
    assert seen["any_power_mode"] == any_power_mode


def test_a_rail_named_for_the_total_is_the_total(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench_run, "choose", lambda asked, *, clock, **_: ConstantSampler(clock))  # noqa: ARG005
    bench("--total-rail", "VDD_IN", *QUICK)
    stored = Measurement.read(tmp_path / "run" / "measurement.json")
    assert stored.power.total_rule == "these rails were named: --total-rail"
