"""What `bench` measured: raw samples, from which every figure is computed when it is asked for."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from heartvit_edge.spec.base import Artefact, Spec
from heartvit_edge.spec.board import BoardTrace
from heartvit_edge.spec.engine import Backend, Precision
from heartvit_edge.spec.layers import EngineLayers
from heartvit_edge.spec.machine import Machine
from heartvit_edge.spec.pack import BudgetPack

Scenario = Literal["single-stream", "multi-stream", "offline"]
"""MLPerf's ways to ask: one image after the other, eight at a time, or as many as the engine takes."""


class PowerTrace(Spec):
    """Every power reading of a run.

    Attributes:
        source: Name of the sampler, such as ``jtop``.
        times_s: Seconds since the run began, on the monotonic clock, ascending.
        rails_mw: Power of each rail at those times, in milliwatt, under the label that the board gives it; a sensor's
            offset can make a reading slightly negative.
        total_rails: The rails that add up to the total.
        total_rule: Why those, in words for the report.
        interval_ms: Time between readings that the source announces; None where it announces none.
        num_dropped: Readings left out because they repeated the one before or lacked a rail.
        resolution_mw: Smallest step of each rail's readings in milliwatt. Left out are rails whose step is not known,
            and counters, whose steps cancel out between readings.
        notes: What a reader of the figures must know, such as a channel that cannot be read.
    """

    source: str
    times_s: tuple[NonNegativeFloat, ...]
    rails_mw: dict[str, tuple[float, ...]]
    total_rails: tuple[str, ...]
    total_rule: str
    interval_ms: PositiveFloat | None = None
    num_dropped: NonNegativeInt = 0
    resolution_mw: dict[str, PositiveFloat] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _rails_are_complete(self) -> Self:
        if list(self.times_s) != sorted(set(self.times_s)):
            raise ValueError("times_s must ascend without repeats")
        for name, readings in self.rails_mw.items():
            if len(readings) != len(self.times_s):
                raise ValueError(f"rail {name} has {len(readings)} readings for {len(self.times_s)} times")
        unknown = set(self.total_rails) - set(self.rails_mw)
        if unknown or not self.total_rails:
            raise ValueError(f"total_rails must name known rails, found {self.total_rails}")
        return self

    def total_mw(self) -> tuple[float, ...]:
        """Return the sum over ``total_rails`` at each time, in milliwatt."""
        columns = [self.rails_mw[name] for name in self.total_rails]
        return tuple(sum(values) for values in zip(*columns, strict=True))


class Window(Spec):
    """A stretch of the run.

    Attributes:
        start_s: When it began, in seconds since the run began.
        end_s: When it ended.
    """

    start_s: NonNegativeFloat
    end_s: NonNegativeFloat


class MachineLimits(Spec):
    """What a machine can do at the most: no engine can be faster than these allow.

    Attributes:
        bandwidth_gb_s: Memory bandwidth in GB/s; None where it is not known.
        peak_tmac_s: Multiply-accumulates of the engines' precision in 10^12 a second; None where it is not known.
        source: Where the figures are from.
    """

    bandwidth_gb_s: PositiveFloat | None
    peak_tmac_s: PositiveFloat | None
    source: str


class Trial(Spec):
    """One steady window of work.

    Attributes:
        start_s: When the first inference began, in seconds since the run began.
        end_s: When the last had ended, device synchronised.
        latency_ms: Wall time of each inference call, host array in to host array out, in order; at least one.
        waiting_ms: How long each request had waited for its call, where requests come when they will; empty where each
            call begins as the one before ends.
    """

    start_s: NonNegativeFloat
    end_s: NonNegativeFloat
    latency_ms: tuple[NonNegativeFloat, ...]
    waiting_ms: tuple[NonNegativeFloat, ...] = ()

    @model_validator(mode="after")
    def _holds_its_calls(self) -> Self:
        if self.waiting_ms and len(self.waiting_ms) != len(self.latency_ms):
            raise ValueError(f"{len(self.waiting_ms)} waits for {len(self.latency_ms)} calls, expected one each")
        if not self.latency_ms:
            raise ValueError("a trial needs at least one inference")
        if not self.start_s < self.end_s:
            raise ValueError(f"a trial must end after it began, found {self.start_s} s to {self.end_s} s")
        return self


class EntryMeasurement(Spec):
    """One engine at one batch size.

    Attributes:
        entry: Name of the pack's entry.
        batch_size: Images an inference.
        engine_sha256: Hash of the engine that ran.
        warm_up_count: Inferences before the first trial, not timed.
        warm_up_stable: Whether latency had settled when the warm-up ended; False where it ended at its cap.
        trials: The steady windows, at least one.
    """

    entry: str
    batch_size: PositiveInt
    engine_sha256: str
    warm_up_count: PositiveInt
    warm_up_stable: bool
    trials: tuple[Trial, ...]

    @model_validator(mode="after")
    def _was_measured(self) -> Self:
        if not self.trials:
            raise ValueError(f"{self.entry} at batch size {self.batch_size} has no trial")
        return self


class Measurement(Artefact):
    """One `bench` run: ``<run>/measurement.json``.

    Attributes:
        pack: The whole manifest of the pack, so that a report needs nothing else.
        machine: Where it ran.
        backend: What ran the engines.
        precision: Precision of the engines.
        variant: Batch sizes and settings that the engines were built for, where they are not the default ones.
        created: UTC time at the start, ISO 8601.
        command: What measures this again.
        rows: One an (entry, batch size).
        power: Every reading; None where there was no power source.
        no_power_reason: Why there is no power trace; None where there is one.
        scenario: How requests came, by MLPerf's name; None where no scenario was asked for.
        arrival_per_s: Mean rate of requests that came at random times; None where each came as the one before ended.
        idle: When nothing ran and no engine was loaded, for the power of an idle machine; None where none was measured.
        board: Clocks, temperatures and throttling over the run; None where nothing of it can be read.
        limits: What the machine can do at the most; None where it is not in the table.
        layers: What engines are made of, for those whose builder told it; a row's is the one with its engine's hash.
    """

    schema_name: ClassVar[str] = "measurement"

    pack: BudgetPack
    machine: Machine
    backend: Backend
    precision: Precision
    created: str
    command: str
    rows: tuple[EntryMeasurement, ...]
    power: PowerTrace | None
    no_power_reason: str | None
    scenario: Scenario | None = None
    arrival_per_s: PositiveFloat | None = None
    idle: Window | None = None
    board: BoardTrace | None = None
    limits: MachineLimits | None = None
    layers: tuple[EngineLayers, ...] = ()
    variant: str = "default"

    @model_validator(mode="after")
    def _power_or_a_reason(self) -> Self:
        if (self.power is None) == (self.no_power_reason is None):
            raise ValueError("exactly one of power and no_power_reason must be given")
        return self
