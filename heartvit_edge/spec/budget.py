"""What a plan must satisfy."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, model_validator
from typing_extensions import Self

from heartvit_edge.errors import InputError
from heartvit_edge.spec.base import Spec

Quantity = Literal["macs"]


class Budget(Spec):
    """An upper limit on one quantity.

    Attributes:
        quantity: ``macs``: multiply-accumulates of one forward, as a fraction of the dense model's.
        limit: Largest value allowed; for ``macs`` in (0, 1].
    """

    quantity: Quantity = "macs"
    limit: PositiveFloat

    @model_validator(mode="after")
    def _fraction(self) -> Self:
        if self.quantity == "macs" and self.limit > 1:
            raise ValueError(f"a macs budget is a fraction in (0, 1], found {self.limit:g}")
        return self

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Return the budget written as ``0.7`` or ``macs=0.7``.

        Raises:
            InputError: If the quantity is unknown, or what follows is no number in (0, 1].
        """
        quantity, sign, number = text.rpartition("=")
        if sign and quantity != "macs":
            raise InputError(f"unknown budget {quantity!r} in {text!r}", hint="write --budget 0.7 or --budget macs=0.7")
        hint = "a macs budget is the share of the dense model's MACs that may stay: --budget 0.7"
        try:
            limit = float(number)
        except ValueError as err:
            raise InputError(f"budget {text!r} has no number, expected one in (0, 1]", hint=hint) from err
        if not 0 < limit <= 1:
            raise InputError(f"budget {text!r} is outside (0, 1]", hint=hint)
        return cls(limit=limit)

    @property
    def label(self) -> str:
        """Return a name that is fit for a file, such as ``macs-0.7``; different budgets have different names."""
        return f"{self.quantity}-{repr(self.limit).removesuffix('.0')}"
