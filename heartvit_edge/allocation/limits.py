"""Budgets as limits on costs that add up over the blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from heartvit_edge.allocation.cost import (
    attention_macs,
    attention_params,
    dense_macs,
    dense_params,
    fixed_macs,
    fixed_params,
    kept_share,
    mlp_macs,
    mlp_params,
)
from heartvit_edge.allocation.device_cost import block_costs, check_table, fixed_cost
from heartvit_edge.allocation.problem import Resource
from heartvit_edge.errors import InputError
from heartvit_edge.spec.budget import Budget, Quantity
from heartvit_edge.spec.device_table import DeviceTable
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.plan import BlockPlan


@dataclass(frozen=True)
class CostModel:
    """What plans of one model cost.

    Attributes:
        shape: The dense model.
        unit_groups: Groups into which each block's MLP hidden units are divided; 0: whole MLPs.
        table: What blocks cost on a device; None: latency and energy are not known.
    """

    shape: ModelShape
    unit_groups: int = 0
    table: DeviceTable | None = None

    def __post_init__(self) -> None:
        """Refuse a table of another model, and one beside MLP units, whose share of a block it does not know.

        Raises:
            InputError: In either case.
        """
        if self.table is None:
            return
        check_table(self.table, self.shape)
        if self.unit_groups:
            raise InputError(
                "a device table does not know what a part of an MLP costs, and the scores offer MLP units",
                hint="score without --unit-groups, or plan without --device-table",
            )

    def resource(
        self,
        quantity: Quantity,
        tokens: Sequence[int],
        head_columns: int,
        unit_columns: int,
        limit: float = np.inf,
    ) -> Resource:
        """Return one cost by tokens, heads removed and unit groups removed, in absolute units.

        Args:
            quantity: Anything but ``loss-nats``.
            tokens: Token counts, prefix included.
            head_columns: Columns are 0 .. head_columns - 1 heads removed.
            unit_columns: Columns are 0 .. unit_columns - 1 unit groups removed.
            limit: Most that is allowed, in the cost's units.

        Raises:
            InputError: If the quantity needs a device table and there is none, or its table has no energy.
        """
        shape = self.shape
        heads = [shape.num_heads - removed for removed in range(head_columns)]
        shares = [Fraction(self.unit_groups - u, self.unit_groups) if u else Fraction(1) for u in range(unit_columns)]
        fixed: float
        if quantity == "macs":
            fixed = fixed_macs(shape)
            attention = [[attention_macs(shape, count, h) for h in heads] for count in tokens]
            mlp = [[mlp_macs(shape, count, share) for share in shares] for count in tokens]
        elif quantity == "params":
            fixed = fixed_params(shape)
            attention = [[attention_params(shape, h) for h in heads]] * len(tokens)
            mlp = [[mlp_params(shape, share) for share in shares]] * len(tokens)
        elif quantity == "loss-nats":
            raise ValueError("a loss does not add up over blocks as a cost does")
        else:
            if self.table is None:
                raise needs_table(quantity)
            fixed = fixed_cost(self.table, quantity)
            costs, _ = block_costs(self.table, quantity, tokens, heads)
            return Resource(quantity, fixed, costs, np.zeros((len(tokens), unit_columns)), limit)
        return Resource(quantity, float(fixed), np.array(attention, float), np.array(mlp, float), limit)

    def limit(self, budget: Budget) -> float:
        """Return a budget's limit in absolute units."""
        if budget.quantity == "macs":
            return most_of(budget.limit, dense_macs(self.shape))
        if budget.quantity == "params":
            return most_of(budget.limit, dense_params(self.shape))
        return budget.limit

    def share(self, quantity: Quantity, value: float) -> float:
        """Return a cost as its budget states it: MACs and params as a share of the dense model's."""
        if quantity == "macs":
            return value / dense_macs(self.shape)
        return value / dense_params(self.shape) if quantity == "params" else value

    def cost(self, quantity: Quantity, blocks: Sequence[BlockPlan]) -> float:
        """Return a plan's cost in absolute units; as ``resource`` has it."""
        counts = [block.num_tokens for block in blocks]
        found = self.resource(quantity, counts, self.shape.num_heads, max(self.unit_groups, 1))
        total = found.fixed
        for row, block in enumerate(blocks):
            gone = round((1 - kept_share(block, self.unit_groups)) * self.unit_groups)
            total += found.attention[row, self.shape.num_heads - len(block.kept_heads)] + found.mlp[row, gone]
        return float(total)

    def extrapolates(self, blocks: Sequence[BlockPlan]) -> bool:
        """Return whether a block's tokens or heads lie outside of what the device table measured."""
        if self.table is None:
            return False
        return any(
            not self.table.tokens[0] <= block.num_tokens <= self.table.tokens[-1]
            or not self.table.heads[0] <= len(block.kept_heads) <= self.table.heads[-1]
            for block in blocks
        )


def needs_table(quantity: Quantity) -> InputError:
    """Return the error of a budget on a device's cost where there is no device table."""
    return InputError(
        f"a budget of {quantity} needs a table of what blocks cost on the device",
        hint="measure one there with heartvit-edge bench PACK --profile-table TABLE.json, and give "
        "--device-table TABLE.json",
    )


def most_of(limit: float, dense: int) -> int:
    """Return the largest count whose share of ``dense``, as a float division has it, is within the limit.

    Flooring limit * dense alone would refuse 29 of 100 under 0.29, since that product is 28.999999999999996.
    """
    count = int(limit * dense) + 1
    while count / dense > limit:
        count -= 1
    return count
