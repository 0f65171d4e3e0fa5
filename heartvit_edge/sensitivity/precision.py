"""Second derivatives need full precision: what makes sure of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from heartvit_edge.errors import InputError


def check_precision(model: nn.Module) -> None:
    """Return only if every weight is float32 or float64.

    Raises:
        InputError: If one is not; the message names its type.
    """
    for name, weight in model.named_parameters():
        if weight.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"{name} is {str(weight.dtype).removeprefix('torch.')}, scoring needs float32: "
                "second derivatives are lost in fewer bits",
                hint="convert the model with .float() before scoring",
            )


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Switch autocast off on the device and gradients on while the body runs, whatever surrounds it."""
    with torch.autocast(device.type, enabled=False), torch.enable_grad():
        yield
