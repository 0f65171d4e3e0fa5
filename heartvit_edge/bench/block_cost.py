"""What a device table measures, and how the cost of one block follows from the windows.

A *part* is one graph that is built into an engine and timed: a chain of four blocks for each cell of the table, a call
without blocks for each token count, and all of a model that is not a block. With t for the median call,

    block = (t(chain) - t(call without blocks)) / 4        fixed = t(all that is not a block)

so that what a call costs, which a model pays once, is in ``fixed`` alone. The call that is subtracted carries the same
tokens to the device as the chain's does and reads each of them once, as the end of the chain does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from heartvit_edge.errors import MachineError
from heartvit_edge.power.energy import NoEnergyError, integrate_mj
from heartvit_edge.spec.measurement import PowerTrace, Trial
from heartvit_edge.spec.model import ModelShape

NUM_CHAINED = 4
"""Blocks in a chain: enough that a call is small beside them, few enough that the engines are."""

Part = tuple[int, int]
"""Tokens and heads of a chain of blocks; no heads: the call without blocks; neither: all that is not a block."""

FIXED: Part = (0, 0)


@dataclass(frozen=True)
class Grid:
    """Which cells a table has.

    Attributes:
        tokens: Token counts, prefix included, ascending; the last is all of them.
        heads: Head counts, ascending; the last is all of them.
    """

    tokens: tuple[int, ...]
    heads: tuple[int, ...]

    @property
    def parts(self) -> list[Part]:
        """Everything to build and time."""
        return [FIXED, *product(self.tokens, (0, *self.heads))]


def default_grid(shape: ModelShape, max_tokens: int = 12, max_heads: int = 4) -> Grid:
    """Return multiples of 8 (of less in a small image) and all tokens, and a few head counts.

    Args:
        shape: Dimensions of the dense model.
        max_tokens: Most token counts beside all tokens; more are thinned evenly, the first and the last stay.
        max_heads: Most head counts, one and all among them.
    """
    *multiples, every = shape.token_counts()
    return Grid((*_spread(multiples, max_tokens), every), _spread(range(1, shape.num_heads + 1), max_heads))


def _spread(counts: Sequence[int], most: int) -> tuple[int, ...]:
    if len(counts) <= most:
        return tuple(counts)
    return tuple(counts[round(place)] for place in np.linspace(0, len(counts) - 1, most))


def latency_fields(grid: Grid, windows: Mapping[Part, Sequence[Trial]]) -> dict[str, object]:
    """Return the table's latencies and what lies behind them, by field."""
    medians = {part: [float(np.median(trial.latency_ms)) for trial in trials] for part, trials in windows.items()}
    middle = {part: float(np.median(values)) for part, values in medians.items()}
    low = _blocks(grid, {part: min(values) for part, values in medians.items()}, middle)
    if min(map(min, low)) <= 0:
        raise MachineError(
            f"a chain of {NUM_CHAINED} blocks took no longer than a call without blocks: the machine is too unsteady",
            hint="leave the machine to itself and measure longer: --duration 10",
        )
    return {
        "block_ms": _blocks(grid, middle, middle),
        "block_low_ms": low,
        "block_high_ms": _blocks(grid, {part: max(values) for part, values in medians.items()}, middle),
        "call_ms": [middle[count, 0] for count in grid.tokens],
        "fixed_ms": middle[FIXED],
        "num_samples": [
            [sum(len(trial.latency_ms) for trial in windows[tokens, heads]) for heads in grid.heads]
            for tokens in grid.tokens
        ],
        "seconds": [
            [sum(trial.end_s - trial.start_s for trial in windows[tokens, heads]) for heads in grid.heads]
            for tokens in grid.tokens
        ],
    }


def energy_fields(grid: Grid, windows: Mapping[Part, Sequence[Trial]], trace: PowerTrace) -> dict[str, object]:
    """Return the table's gross energies by field, or the reason why the readings give none."""
    try:
        mean_mj = {part: _mean_mj(trials, trace) for part, trials in windows.items()}
        block_mj = _blocks(grid, mean_mj, mean_mj)
        if min(map(min, block_mj)) <= 0:
            raise NoEnergyError(f"a chain of {NUM_CHAINED} blocks took no more energy than a call without blocks")
    except NoEnergyError as err:
        return no_energy_fields(str(err))
    source = f"{trace.source}; {trace.total_rule}"
    return no_energy_fields(None) | {"block_mj": block_mj, "fixed_mj": mean_mj[FIXED], "energy_source": source}


def no_energy_fields(reason: str | None) -> dict[str, object]:
    """Return the table's energies by field where there are none."""
    return {"block_mj": None, "fixed_mj": None, "energy_source": None, "no_energy_reason": reason}


def _blocks(grid: Grid, chains: Mapping[Part, float], calls: Mapping[Part, float]) -> list[list[float]]:
    """Return what one block adds to a call, in the unit of the values, tokens x heads."""
    return [
        [(chains[tokens, heads] - calls[tokens, 0]) / NUM_CHAINED for heads in grid.heads] for tokens in grid.tokens
    ]


def _mean_mj(trials: Sequence[Trial], trace: PowerTrace) -> float:
    """Return the gross energy of one call over all of a part's windows."""
    times_s, total_mw = np.asarray(trace.times_s), np.asarray(trace.total_mw())
    energy = sum(integrate_mj(times_s, total_mw, trial.start_s, trial.end_s) for trial in trials)
    return energy / sum(len(trial.latency_ms) for trial in trials)
