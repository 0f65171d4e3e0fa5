"""The processes that share a fine-tune, as ``accelerate launch`` or ``torchrun`` start them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list

from heartvit_edge.errors import HeartViTError, MachineError

T = TypeVar("T")


def choose_precision(wanted: bool | None) -> Literal["fp32", "bf16"]:
    """Return bf16 where there is a GPU that computes in it, else fp32.

    Args:
        wanted: True insists on bf16, False on fp32, None leaves it to the machine.

    Raises:
        MachineError: If bf16 is insisted on and there is no such GPU.
    """
    able = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted and not able:
        found = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU with CUDA"
        raise MachineError(f"--amp needs a GPU that computes in bf16, found {found}", hint="--no-amp")
    return "bf16" if able and wanted is not False else "fp32"


@contextmanager
def join_processes(precision: Literal["fp32", "bf16"], *, gate_has_weights: bool) -> Iterator[Accelerator]:
    """Give what the processes talk through, and leave them at the end.

    Args:
        precision: What matrix products are computed in.
        gate_has_weights: Whether a gate is trained; it may have weights for sites that a plan lacks.
    """
    accelerator = Accelerator(
        mixed_precision="bf16" if precision == "bf16" else "no",
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=gate_has_weights)],
    )
    try:
        yield accelerator
    finally:
        accelerator.end_training()


def first_process(accelerator: Accelerator, act: Callable[[], T]) -> T:
    """Return what the first process gets from ``act``, in every process; the others need not see its files.

    Raises:
        HeartViTError: In every process, if ``act`` raises it.
    """
    held: list[T | HeartViTError] = []
    if accelerator.is_main_process:
        try:
            held = [act()]
        except HeartViTError as err:
            held = [err]
    else:
        held = [HeartViTError("the first process has not answered")]
    broadcast_object_list(held)
    if isinstance(held[0], HeartViTError):
        raise held[0]
    return held[0]
