"""Which rails of a board add up to its total."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.errors import InputError
from heartvit_edge.spec.measurement import PowerTrace

INPUT_RAILS = ("VIN", "VDD_IN", "POM_5V_IN")
"""Labels of a rail that carries the whole input: of the carrier board (VIN) or of the module."""


def total_rule(labels: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Return the rails of a Jetson that add up to its total, and why those, in words for the report."""
    for label in INPUT_RAILS:
        if label in labels:
            what = "the carrier board" if label == "VIN" else "the whole module"
            return (label,), f"{label} carries the input of {what}, so it alone is the total"
    rails = " + ".join(labels)
    return labels, f"the board has no input rail ({', '.join(INPUT_RAILS)}), so the total is the sum {rails}"


def check_rails(wanted: Sequence[str], labels: Sequence[str], source: str) -> None:
    """Return only if the source reads every rail that was named for the total.

    Raises:
        InputError: If one is not among its labels.
    """
    unknown = [label for label in wanted if label not in labels]
    if unknown:
        raise InputError(
            f"--total-rail names {', '.join(unknown)}, {source} reads {', '.join(labels) or 'none'}",
            hint=" ".join(f"--total-rail {label}" for label in labels) or "leave --total-rail out",
        )


def with_total(trace: PowerTrace, rails: Sequence[str]) -> PowerTrace:
    """Return the trace with these rails as its total; unchanged where none are named."""
    if not rails:
        return trace
    fields = trace.model_dump() | {"total_rails": tuple(rails), "total_rule": "these rails were named: --total-rail"}
    return PowerTrace.model_validate(fields)
