"""Latency and energy of blocks between the cells of a device table.

Measured cells are first made non-decreasing in tokens and in heads, since fewer of either is never more work: a solver
would else pay for removals that a noisy cell makes look dear. It is the least-squares fit to the logarithms, for
timings err by shares: where two cells stand in the wrong order they meet in the middle, so that one slow cell does not
lift every larger one, as a running maximum would. Between cells the fit is bilinear; outside of them the line through
the nearest two goes on, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.errors import InputError
from heartvit_edge.spec.device_table import DeviceTable
from heartvit_edge.spec.model import ModelShape

DeviceQuantity = Literal["latency-ms", "energy-mj"]

NO_DEARER = 0.01
"""Share by which a larger token count may cost more and still counts as free."""

MAX_SWEEPS = 1000
TOLERANCE = 1e-10
"""Of the monotone fit: change of a logarithm in one sweep below which it has converged, and most sweeps."""

MEASURE = "measure one: heartvit-edge bench PACK --profile-table TABLE.json"

Values = NDArray[np.float64]


def check_table(table: DeviceTable, shape: ModelShape) -> None:
    """Return only if the table is of this model's dimensions; the number of blocks is free.

    Raises:
        InputError: If a dimension differs; the message names each.
    """
    differences = [
        f"{name} is {getattr(table.shape, name)}, the model's {getattr(shape, name)}"
        for name in ModelShape.model_fields
        if name != "depth" and getattr(table.shape, name) != getattr(shape, name)
    ]
    if differences:
        raise InputError(f"the device table is of another model: {'; '.join(differences)}", hint=MEASURE)


def block_costs(
    table: DeviceTable, quantity: DeviceQuantity, tokens: Sequence[int], heads: Sequence[int]
) -> tuple[Values, NDArray[np.bool_]]:
    """Return what one block costs, and where the table was left for it.

    Args:
        table: Measured cells.
        quantity: ``latency-ms`` or ``energy-mj``, of one inference at the table's batch size.
        tokens: Token counts, prefix included.
        heads: Head counts.

    Returns:
        Costs in ms or mJ, and whether each was extrapolated, both of shape (len(tokens), len(heads)). No cost is
        negative, and between the measured counts none falls where tokens or heads grow.

    Raises:
        InputError: If energy is asked for and the table has none; the message says why.
    """
    fit = _non_decreasing(_measured(table, quantity))
    by_tokens, beyond_tokens = _weights(table.tokens, tokens)
    by_heads, beyond_heads = _weights(table.heads, heads)
    return np.maximum(by_tokens @ fit @ by_heads.T, 0), beyond_tokens[:, None] | beyond_heads[None, :]


def fixed_cost(table: DeviceTable, quantity: DeviceQuantity) -> float:
    """Return what all but the blocks costs, in ms or mJ.

    Raises:
        InputError: If energy is asked for and the table has none; the message says why.
    """
    if quantity == "latency-ms":
        return table.fixed_ms
    if table.fixed_mj is None:
        raise _no_energy(table)
    return table.fixed_mj


def staircase(table: DeviceTable, num_heads: int) -> tuple[int, ...]:
    """Return the measured token counts worth keeping: each saves more than 1 % over every larger one that is kept.

    Where a larger count costs at most 1 % more, keeping more tokens is free, and the smaller count is left out. So is
    one that leaves no patch beside the prefix.

    Args:
        table: Measured cells, which are read as they are.
        num_heads: Heads of the block; between measured head counts latency is linear.

    Returns:
        Ascending; the last is all tokens.
    """
    by_heads, _ = _weights(table.heads, [num_heads])
    cost = _measured(table, "latency-ms") @ by_heads[0]
    kept, cheapest = [], np.inf
    for count, own in zip(table.tokens[::-1], cost[::-1], strict=True):
        if cheapest > (1 + NO_DEARER) * own and count > table.shape.num_prefix_tokens:
            kept.append(count)
            cheapest = own
    return tuple(kept[::-1])


def _measured(table: DeviceTable, quantity: DeviceQuantity) -> Values:
    cells = table.block_ms if quantity == "latency-ms" else table.block_mj
    if cells is None:
        raise _no_energy(table)
    return np.array(cells, dtype=np.float64)


def _no_energy(table: DeviceTable) -> InputError:
    return InputError(
        f"the device table has no energy: {table.no_energy_reason}",
        hint="measure it on a board whose power can be read: heartvit-edge bench PACK --profile-table TABLE.json "
        "--power jtop",
    )


def _weights(grid: Sequence[int], counts: Sequence[int]) -> tuple[Values, NDArray[np.bool_]]:
    """Return what each measured count bears on each wanted one, shape (counts, grid), and which lie outside the grid.

    Of one measured count alone, every other has its cost.
    """
    at, wanted = np.array(grid, dtype=np.float64), np.array(counts, dtype=np.float64)
    outside = (wanted < at[0]) | (wanted > at[-1])
    weights = np.zeros((len(wanted), len(at)))
    if len(at) == 1:
        return weights + 1, outside
    left = np.clip(np.searchsorted(at, wanted, side="right") - 1, 0, len(at) - 2)
    share = (wanted - at[left]) / (at[left + 1] - at[left])
    rows = np.arange(len(wanted))
    weights[rows, left], weights[rows, left + 1] = 1 - share, share
    return weights, outside


def _non_decreasing(values: Values) -> Values:
    """Return those values nearest in logarithm, by least squares, that fall along neither axis.

    Args:
        values: Positive, shape (tokens, heads).

    Source:
        Dykstra and Robertson (1982), An algorithm for isotonic regression for two or more independent variables.
    """
    from scipy.optimize import isotonic_regression

    fit = np.log(values)
    left_by_columns = left_by_rows = np.zeros_like(fit)
    for _ in range(MAX_SWEEPS):
        before = fit
        raised = before + left_by_columns
        along_tokens = np.stack([isotonic_regression(column).x for column in raised.T], axis=1)
        left_by_columns = raised - along_tokens
        raised = along_tokens + left_by_rows
        fit = np.stack([isotonic_regression(row).x for row in raised])
        left_by_rows = raised - fit
        if np.abs(fit - along_tokens).max() < TOLERANCE and np.abs(fit - before).max() < TOLERANCE:
            break
    return np.maximum.accumulate(np.exp(fit), axis=0)
