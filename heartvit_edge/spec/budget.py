"""What a plan must satisfy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from pydantic import Field, model_validator
from typing_extensions import Self

from heartvit_edge.errors import InputError
from heartvit_edge.spec.base import Spec

Quantity = Literal["macs", "params", "latency-ms", "energy-mj", "loss-nats"]

QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
SHARES: tuple[Quantity, ...] = ("macs", "params")
"""Quantities whose limit is a share of the dense model's."""


class Budget(Spec):
    """An upper limit on one quantity.

    Attributes:
        quantity: ``macs``: multiply-accumulates of one forward. ``params``: weights of the matrix products.
            ``latency-ms``, ``energy-mj``: of one inference, by a device table. ``loss-nats``: mean KL(dense || pruned).
        limit: Largest value allowed; for ``macs`` and ``params`` a share of the dense model's, in (0, 1].
    """

    quantity: Quantity = "macs"
    limit: float = Field(gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _share(self) -> Self:
        if self.quantity in SHARES and self.limit > 1:
            raise ValueError(f"a {self.quantity} budget is a share in (0, 1], found {self.limit:g}")
        return self

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Return the budget written as ``0.7`` or ``latency-ms=4``.

        Raises:
            InputError: If the quantity is unknown, or what follows is no number that it allows.
        """
        name, sign, number = text.strip().rpartition("=")
        quantity = next((known for known in QUANTITIES if known == (name.strip() if sign else "macs")), None)
        if quantity is None:
            raise InputError(
                f"unknown budget {name!r} in {text!r}, expected one of {', '.join(QUANTITIES)}",
                hint="for example --budget 0.7, --budget latency-ms=4 or --budget macs=0.7,loss-nats=0.1",
            )
        share = quantity in SHARES
        if share:
            allowed = "in (0, 1]"
            hint = f"a {quantity} budget is the share of the dense model's that may stay: --budget {quantity}=0.7"
        else:
            allowed = "above 0"
            hint = f"for example --budget {quantity}=4"
        try:
            limit = float(number)
        except ValueError as err:
            raise InputError(f"budget {text!r} has no number, expected one {allowed}", hint=hint) from err
        if not 0 < limit < float("inf") or (share and limit > 1):
            raise InputError(f"budget {text!r} is not {allowed}", hint=hint)
        return cls(quantity=quantity, limit=limit)

    @property
    def label(self) -> str:
        """Return a name that is fit for a file, such as ``macs-0.7``; different budgets have different names."""
        return f"{self.quantity}-{repr(self.limit).removesuffix('.0')}"


def parse_joint(text: str) -> tuple[Budget, ...]:
    """Return the budgets that one plan must meet together, written as ``macs=0.5,latency-ms=4``.

    Returns:
        One budget a quantity, in the order of ``QUANTITIES``.

    Raises:
        InputError: If one cannot be read, or a quantity comes twice.
    """
    budgets = sorted((Budget.parse(part) for part in text.split(",")), key=lambda b: QUANTITIES.index(b.quantity))
    if len({budget.quantity for budget in budgets}) < len(budgets):
        raise InputError(
            f"budget {text!r} limits one quantity twice",
            hint="repeat --budget for a plan each: --budget 0.7 --budget 0.5",
        )
    return tuple(budgets)


def joint_label(budgets: Iterable[Budget]) -> str:
    """Return a name of budgets met together that is fit for a file, such as ``macs-0.7+loss-nats-0.1``."""
    return "+".join(budget.label for budget in budgets)
