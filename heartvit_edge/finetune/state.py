"""Where a training stands: stored whole or not at all, so that a killed one goes on from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heartvit_edge.errors import InputError
from heartvit_edge.spec.files import new_file

Weights = Mapping[str, Tensor]


@dataclass
class TrainingState:
    """Everything that the rest of a training depends on, beside the recipe and the images.

    No state of a random generator is part of it: every draw is seeded by the epoch and the step that it is for.

    Attributes:
        subject: Digest of what is trained: the plan, and the gate's first weights.
        epoch: Epochs that are complete.
        step: Steps that are complete in the epoch after these.
        loss_sum: Sum of the losses of those steps.
        before: The held-out answers before the first step.
        history: A record for each complete epoch.
        model: Tensors of the gated model.
        optimizer: State of the optimiser.
        ema: Tensors of the moving average; None without one.
        best_epoch: The epoch of the smallest held-out KL so far; 0 before the first.
        best: The tensors after it, where they will be wanted.
    """

    subject: str
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    before: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    model: Weights = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    ema: Weights | None = None
    best_epoch: int = 0
    best: Weights | None = None

    def write(self, path: Path) -> None:
        """Store the state at ``path`` in place of an earlier one."""
        with new_file(path, force=True) as temporary:
            torch.save({name: getattr(self, name) for name in self.__dataclass_fields__}, temporary)


def read_state(path: Path, subject: str) -> TrainingState | None:
    """Return the state stored at ``path``, its tensors on the CPU; None where there is none.

    Raises:
        InputError: If it is of something else that was being trained.
    """
    if not path.exists():
        return None
    state = TrainingState(**torch.load(path, map_location="cpu", weights_only=True))
    if state.subject != subject:
        raise InputError(
            f"{path} is of a training with another plan or gate",
            hint="name another place with --out, or add --force to begin again",
        )
    return state
