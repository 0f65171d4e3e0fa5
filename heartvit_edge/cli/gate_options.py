"""Options of ``heartvit-edge export`` on what chooses tokens, and what becomes of the others."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from heartvit_edge.cli import host_options as options
from heartvit_edge.errors import InputError

if TYPE_CHECKING:
    from heartvit_edge.gating.gate import GateName
    from heartvit_edge.spec.pack import Form
    from heartvit_edge.spec.reduction import Reduction


class ExportGate(str, Enum):
    """Gates that graphs can carry."""

    class_attention = "class-attention"
    attention_received = "attention-received"
    learned = "learned"


class ReductionOption(Enum):
    """What can become of tokens that are not kept; no ``str``, which has a ``join`` of its own."""

    drop = "drop"
    fuse = "fuse"
    join = "join"
    merge = "merge"


class BaselineOption(str, Enum):
    """Other ways to carry out a plan."""

    random = "random"
    class_attention = "class-attention"
    merge = "merge"


def learns_gates(
    gate: ExportGate | None, gate_images: int | None, reduction: ReductionOption, scorer: options.ScorerName | None
) -> bool:
    """Return whether gates are to learn; ``scorer`` is the one whose scores choose while plans are measured, if any.

    Raises:
        InputError: If there would be nothing for them to choose, the scores cannot choose before they have learnt, or
            images are given for no gate.
    """
    from heartvit_edge.sensitivity.plan_images import RESCORERS

    if gate is not ExportGate.learned:
        if gate_images is not None:
            raise InputError("--gate-images teach a gate, and none is to learn", hint="--gate learned")
        if reduction is ReductionOption.join:
            raise InputError(
                "--reduction join weighs nats against likeness, which only a gate that learns foresees",
                hint="--gate learned --reduction join, or --reduction merge",
            )
        return False
    if reduction is ReductionOption.merge:
        raise InputError(
            "--reduction merge goes by likeness, so that a learned gate would choose nothing",
            hint="leave --gate learned out, or take --reduction drop --baseline merge",
        )
    if scorer is not None and scorer.value not in RESCORERS:
        raise InputError(
            f"--gate learned has plans measured with the scores choosing, and those of {scorer.value} cannot be taken "
            f"again on the tokens left, only {' and '.join(RESCORERS)} can",
            hint=f"--scorer {RESCORERS[0]}, or --plan-images 0",
        )
    return True


def taught_for(reduction: ReductionOption) -> Reduction:
    """Return what becomes of tokens while a gate learns: fusing changes too little to teach another one for it."""
    return "join" if reduction is ReductionOption.join else "drop"


def fits_counts(asked: bool | None, *, learns: bool, symmetric: bool, nested: bool, form: Form) -> bool:
    """Return whether token counts are fitted to the gates that learn: where it can be, unless asked otherwise.

    Raises:
        InputError: If it is asked for where it cannot be.
    """
    reasons = {
        "counts are fitted to a gate that learns": not learns,
        "a symmetric plan keeps the same share at every site": symmetric,
        "a nested plan keeps what a smaller one keeps": nested,
        f"--form {form} has its counts set as it runs": form != "static",
    }
    reason = next((text for text, holds in reasons.items() if holds), None)
    if asked and reason is not None:
        raise InputError(
            f"--fit-counts cannot be: {reason}", hint="leave it out" if learns else "--gate learned --fit-counts"
        )
    return reason is None if asked is None else asked


def gate_name(gate: ExportGate | None) -> GateName | None:
    """Return the name of a gate without weights, or None."""
    return None if gate is None or gate is ExportGate.learned else gate.value
