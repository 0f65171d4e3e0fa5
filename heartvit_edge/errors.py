"""The errors that end a command, and the exit code that each stands for.

HeartViTError            anything that the user or the machine can put right
├── InputError           2: a file, value or option that cannot be used
├── MachineError         3: TensorRT, a power sensor or a device is missing or unfit
├── InfeasibleError      4: no plan meets the budget
└── CheckError           5: a check ran and failed: parity, lint, hash

``heartvit_edge.cli.app.main`` alone catches these. Any other exception is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class HeartViTError(Exception):
    """Base of every error that the user or the machine can put right.

    Attributes:
        exit_code: What the process exits with.
        hint: A next step that can be typed, or None.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep the message (value found, value expected) and the hint (what to type next)."""
        super().__init__(message)
        self.hint = hint


class InputError(HeartViTError):
    """A file, value or option that cannot be used."""

    exit_code = 2


class MachineError(HeartViTError):
    """This machine lacks what the command was asked to use."""

    exit_code = 3


class InfeasibleError(HeartViTError):
    """No plan meets the budget."""

    exit_code = 4


class CheckError(HeartViTError):
    """A check of our own output, or of a stored artefact, ran and failed."""

    exit_code = 5
