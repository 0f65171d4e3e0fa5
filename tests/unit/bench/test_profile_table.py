"""A device table from real engines of tiny graphs, timed on a clock that only the fake runner moves."""

from __future__ import annotations

import itertools
import sys
import time

import numpy as np
import pytest
from fakes.cuda_double import FakeCuda
from fakes.machines import DESKTOP, orin
from fakes.tensorrt_double import Script, make_tensorrt
from fakes.tiny_pack import SHAPE, make_tiny_pack

from heartvit_edge.bench import profile_table as module
from heartvit_edge.bench.block_cost import Grid
from heartvit_edge.bench.profile_table import Target, profile_table
from heartvit_edge.bench.session import Schedule
from heartvit_edge.engines.fingerprint import detect_machine
from heartvit_edge.errors import MachineError
from heartvit_edge.power.none import NoSampler
from heartvit_edge.power.sampler import PowerLostError
from heartvit_edge.runtime.scratch import Scratch
from heartvit_edge.runtime.tensorrt_runner import TensorRTRunner
from heartvit_edge.spec.measurement import PowerTrace

GRID = Grid(tokens=(8, 17), heads=(1, 2))
ROUNDS = 3


def call_s(tokens):
    return 0.015625 + tokens / 1024


def block_s(tokens, heads):
    return tokens * heads / 256


class Bench:
    """Runs ``profile_table``; a call takes what its engine's name says, on a clock of its own."""

    def __init__(self, folder, monkeypatch):
        self.now = 100.0
        self.open_now, self.opened, self.batches, self.told, self.steps = [], [], [], [], []
        self.pack = make_tiny_pack(folder / "pack").model_copy(update={"shape": SHAPE.model_copy(update={"depth": 9})})
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        monkeypatch.setattr(module, "open_runner", lambda manifest, folder, _choice: FakeRunner(self, manifest, folder))

    def clock(self):
        return self.now

    def run(self, backend="onnxruntime", precision="fp32", machine=DESKTOP, batch_size=2, **changes):
        arguments = {
            "target": Target(self.pack, backend, precision, batch_size, machine),
            "grid": GRID,
            "schedule": Schedule(1.0, ROUNDS),
            "power": "none",
            "interval_s": 0.1,
            "command": "heartvit-edge bench pack --profile-table table.json",
            "scratch": self.scratch,
            "tell": self.told.append,
            "step": self.steps.append,
            "timer": self.clock,
        }
        return profile_table(**arguments | changes)


class FakeRunner:
    """An engine that takes the time of its part."""

    def __init__(self, bench, manifest, folder):
        assert (folder / manifest.file).is_file()
        self.bench, self.part = bench, tuple(map(int, manifest.entry.split("-")))

    def __enter__(self):
        self.bench.opened.append(self.part)
        self.bench.open_now.append(self)
        assert {runner.part for runner in self.bench.open_now} == {self.part}
        return self

    def __exit__(self, *exception):
        self.bench.open_now.remove(self)

    def infer(self, batch):
        self.bench.batches.append((self.part, batch.shape, batch.flat[0], self.bench.open_now.index(self)))
        tokens, heads = self.part
        self.bench.now += 0.25 if self.part == (0, 0) else call_s(tokens) + 4 * block_s(tokens, heads)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def test_every_cell_is_the_block_s_own_time_and_what_is_fixed_holds_the_call(bench):
    table, lost = bench.run()
    assert lost is None
    np.testing.assert_allclose(table.block_ms, [[1000 * block_s(n, h) for h in (1, 2)] for n in (8, 17)])
    assert table.block_low_ms == table.block_ms == table.block_high_ms
    assert table.call_ms == pytest.approx([1000 * call_s(8), 1000 * call_s(17)])
    assert table.fixed_ms == pytest.approx(250.0)
    calls_a_window = np.ceil(1 / (call_s(8) + 4 * block_s(8, 1)))
    assert table.num_samples[0][0] == ROUNDS * calls_a_window


def test_the_table_says_what_it_is_for_and_how_it_was_made(bench):
    table, _ = bench.run()
    assert (table.shape.depth, table.shape.num_tokens) == (9, 17)
    assert (table.machine, table.backend, table.precision) == (DESKTOP, "onnxruntime", "fp32")
    assert (table.num_chained, table.num_copies) == (4, 3)
    assert (table.tokens, table.heads, table.batch_size, table.num_rounds) == ((8, 17), (1, 2), 2, ROUNDS)
    assert dict(table.options)["provider"] == "CPUExecutionProvider"
    assert table.no_energy_reason == "power was not asked for: --power none"


def test_every_round_takes_each_part_once_in_an_order_of_its_own(bench):
    bench.run()
    count = len(GRID.parts)
    windows = [part for part, _ in itertools.groupby(bench.batches, lambda call: call[0])]
    orders = [windows[start : start + count] for start in range(0, len(windows), count)]
    assert len(orders) == ROUNDS
    assert all(sorted(order) == sorted(GRID.parts) for order in orders)
    assert len({tuple(order) for order in orders}) == ROUNDS
    assert len(bench.steps) == count * (1 + ROUNDS)


def test_as_many_chains_as_hold_the_model_s_blocks_are_called_in_turn(bench):
    bench.run(schedule=Schedule(1.0, 1))
    for part in GRID.parts:
        num_copies = 3 if part[1] else 1  # of 9 blocks, in chains of 4
        assert bench.opened.count(part) == num_copies
        turns = [copy for called, _, _, copy in bench.batches if called == part]
        assert turns == [number % num_copies for number in range(len(turns))]


def test_batches_are_distinct_and_of_the_part_s_shape(bench):
    bench.run()
    shapes = {part: shape for part, shape, _, _ in bench.batches}
    images = (2, 3, SHAPE.img_size, SHAPE.img_size)
    assert shapes == {part: (2, part[0], SHAPE.embed_dim) if any(part) else images for part in GRID.parts}
    first = [value for part, _, value, _ in bench.batches if part == (17, 2)]
    assert len(set(first)) > ROUNDS


def test_what_holds_for_the_machine_is_told_once(bench):
    bench.run(schedule=Schedule(20.0, 1))
    assert len(bench.told) == 2
    assert bench.told[1] == "power: none (power was not asked for: --power none)"


def test_windows_whose_warm_up_ended_at_its_cap_are_counted_aloud(bench):
    bench.run(schedule=Schedule(0.1, 1))
    assert "latency had not settled when the warm-up ended at its cap in 7 of 7 windows" in bench.told


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_engines_run_on_onnxruntime_and_leave_nothing_behind(bench, monkeypatch, precision):
    monkeypatch.undo()
    bench.run(precision=precision, machine=detect_machine(), schedule=Schedule(0.01, 1), timer=time.perf_counter)
    assert list(bench.scratch.iterdir()) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("version", ["8.6.1", "10.3.0"])
def test_the_engines_build_and_run_on_tensorrt(bench, monkeypatch, version, precision):
    script = Script()
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(version, script))
    answers = []

    class Timed(FakeRunner):
        """Runs the engine once and then takes the fake's time."""

        def __init__(self, bench, manifest, folder):
            super().__init__(bench, manifest, folder)
            cuda = FakeCuda(script.device)
            self.real = TensorRTRunner(manifest, folder, cuda, Scratch(cuda))

        def infer(self, batch):
            if len(bench.batches) % 50 == 0:
                with self.real as runner:
                    answers.append(next(iter(runner.infer(batch).values())))
            super().infer(batch)

    monkeypatch.setattr(module, "open_runner", lambda manifest, folder, _choice: Timed(bench, manifest, folder))
    table, _ = bench.run("tensorrt", precision, orin(version))
    assert table.block_ms[1][1] == pytest.approx(1000 * block_s(17, 2))
    assert dict(table.options)["typing"] == ("weak" if version == "8.6.1" else "strong")
    assert answers
    assert all(np.isfinite(answer).all() for answer in answers)


class ConstantSampler(NoSampler):
    """Reads 4 W, 128 times a second, from the beginning of the run to now."""

    name = "constant"

    def __init__(self, clock):
        super().__init__("a test")
        self.clock = clock

    def stop(self):
        times = np.arange(0.0, self.clock() + 0.02, 1 / 128)
        return PowerTrace(
            source=self.name,
            times_s=tuple(times.tolist()),
            rails_mw={"VDD_IN": (4000.0,) * len(times)},
            total_rails=("VDD_IN",),
            total_rule="a test",
        )


def test_energy_at_constant_power_is_latency_times_power(bench, monkeypatch):
    monkeypatch.setattr(module, "check_power", lambda asked: None)  # noqa: ARG005
    monkeypatch.setattr(module, "choose", lambda asked, *, clock, **_: ConstantSampler(clock))  # noqa: ARG005
    table, lost = bench.run(power="jtop")
    assert lost is None
    np.testing.assert_allclose(table.block_mj, 4 * np.array(table.block_ms), rtol=1e-6)
    assert table.fixed_mj == pytest.approx(4 * 250.0)
    assert (table.energy_source, table.no_energy_reason) == ("constant; a test", None)


class DyingSampler(NoSampler):
    """Was reading, and is not at the end."""

    def stop(self):
        raise PowerLostError("jtop was lost 1.0 s into the run (9 readings): killed", hint="restart it")


def test_a_source_that_dies_in_mid_run_costs_the_energy_alone_and_is_handed_out(bench, monkeypatch):
    monkeypatch.setattr(module, "check_power", lambda asked: None)  # noqa: ARG005
    monkeypatch.setattr(module, "choose", lambda asked, **_: DyingSampler("a test"))  # noqa: ARG005
    table, lost = bench.run(power="jtop")
    assert str(lost) == table.no_energy_reason == "jtop was lost 1.0 s into the run (9 readings): killed"
    assert table.block_mj is None
    assert table.block_ms[0][0] == pytest.approx(1000 * block_s(8, 1))


def test_a_source_that_was_asked_for_and_is_missing_ends_it_before_anything_is_built(bench, monkeypatch):
    def missing(asked):  # noqa: ARG001
        raise MachineError("the jtop service is not running")

    monkeypatch.setattr(module, "check_power", missing)
    with pytest.raises(MachineError, match="jtop service is not running"):
        bench.run(power="jtop")
    assert bench.steps == []


def test_a_disk_too_small_is_told_before_anything_is_built(bench, monkeypatch):
    class Nearly:
        free = 2000

    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Nearly)
    with pytest.raises(MachineError, match=r"need about 0\.0 GB in .*, 0\.0 GB are free") as caught:
        bench.run()
    assert "--tokens 8 --heads 1" in caught.value.hint
    assert bench.steps == []


def test_an_interrupted_run_leaves_nothing(bench):
    def interrupt(text):
        if text.startswith("round 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(step=interrupt)
    assert list(bench.scratch.iterdir()) == []
