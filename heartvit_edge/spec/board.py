"""What a board was doing while engines ran: clocks, temperatures, power mode, and what slowed it down."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator
from typing_extensions import Self

from heartvit_edge.spec.base import Spec


class BoardTrace(Spec):
    """State of the machine at each tick of a run.

    Attributes:
        times_s: Seconds since the run began, on the monotonic clock, ascending.
        clocks_mhz: Each clock at those times, in MHz; None where it could not be read.
        locked_mhz: What clocks are locked at whose smallest and largest value are one, in MHz; others are left out.
        temperatures_c: Each sensor in degrees Celsius; None where it was off.
        power_mode: nvpmodel's mode by name; None where there is none.
        throttle_counts: Events of each kind so far, since the machine was started.
        throttle_states: How far each limit of clocks or current was in force; 0 is not at all.
        others_cpu_share: Share of the time of all processor cores that other processes had used since the tick before,
            in [0, 1]; None at the first.
    """

    times_s: tuple[NonNegativeFloat, ...]
    clocks_mhz: dict[str, tuple[NonNegativeFloat | None, ...]] = Field(default_factory=dict)
    locked_mhz: dict[str, PositiveFloat] = Field(default_factory=dict)
    temperatures_c: dict[str, tuple[float | None, ...]] = Field(default_factory=dict)
    power_mode: tuple[str | None, ...] = ()
    throttle_counts: dict[str, tuple[NonNegativeInt | None, ...]] = Field(default_factory=dict)
    throttle_states: dict[str, tuple[NonNegativeInt | None, ...]] = Field(default_factory=dict)
    others_cpu_share: tuple[NonNegativeFloat | None, ...] = ()

    @model_validator(mode="after")
    def _every_tick_is_whole(self) -> Self:
        if list(self.times_s) != sorted(self.times_s):
            raise ValueError("times_s must ascend")
        tables = (self.clocks_mhz, self.temperatures_c, self.throttle_counts, self.throttle_states)
        lengths = {len(values) for table in tables for values in table.values()}
        lengths |= {len(self.power_mode), len(self.others_cpu_share)}
        if not lengths <= {0, len(self.times_s)}:
            raise ValueError(f"expected {len(self.times_s)} values of each, found {sorted(lengths)}")
        return self
