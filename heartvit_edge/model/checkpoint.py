"""Weight files: reading them safely, and loading them with every misfit named."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor, nn

from heartvit_edge.errors import InputError
from heartvit_edge.spec.files import sha256_bytes

_NAMED_AT_MOST = 6
_SAVE_HINT = "save the state dict alone: torch.save(model.state_dict(), FILE)"

# What torch's and safetensors' readers raise on damaged bytes.
_READ_ERRORS = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AssertionError,
    struct.error,
    pickle.UnpicklingError,
    SafetensorError,
)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or checkpoint by name, floating ones as float32 on the CPU.

    A checkpoint may hold them under ``state_dict``, ``model``, ``model_ema`` or ``state_dict_ema`` and with the
    prefixes of DDP and torch.compile, as timm reads them.

    Raises:
        InputError: If the file is missing, unreadable, unsafe to unpickle, or holds anything but tensors.
    """
    if not path.is_file():
        raise InputError(f"weights file {path} " + ("is a folder" if path.is_dir() else "does not exist"))
    try:
        found = load_state_dict(str(path), device="cpu", weights_only=True)
    except _READ_ERRORS as err:
        reason = str(err).partition("\n")[0].partition(" No automatic unsafe")[0]  # timm goes on with unsafe advice
        raise InputError(
            f"cannot read weights from {path}: {type(err).__name__}: {reason}".rstrip(": "),
            hint="expected a .safetensors file, or a checkpoint that torch.load(weights_only=True) accepts",
        ) from err
    except AttributeError as err:  # timm takes whatever the file holds for a dict with names
        raise InputError(f"{path} does not hold tensors by name", hint=_SAVE_HINT) from err
    others = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if others or not found:
        raise InputError(
            f"{path} holds {', '.join(map(str, others[:_NAMED_AT_MOST])) or 'nothing'}, expected tensors by name",
            hint=_SAVE_HINT,
        )
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}


def head_classes(files: Sequence[Mapping[str, Tensor]]) -> int | None:
    """Return the rows of the last matrix ``head.weight`` among the files; None where there is none."""
    heads = [found["head.weight"] for found in files if "head.weight" in found]
    return (heads[-1].shape[0] or None) if heads and heads[-1].ndim == 2 else None


def load_weights(model: nn.Module, files: Sequence[Mapping[str, Tensor]], label: str) -> None:
    """Load the files' tensors into the model, later files over earlier ones; every tensor must fit.

    Raises:
        InputError: If a tensor is missing, unknown, of another shape or type, or holds NaN or infinity; the message
            names the first few of each.
    """
    merged: dict[str, Tensor] = {}
    for found in files:
        merged |= found
    expected = model.state_dict()
    missing = [name for name in expected if name not in merged]
    unknown = [name for name in merged if name not in expected]
    misshapen = [
        f"{name} is {tuple(merged[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in merged and merged[name].shape != tensor.shape
    ]
    mistyped = [
        f"{name} is {merged[name].dtype}, expected {tensor.dtype}"
        for name, tensor in expected.items()
        if name in merged and merged[name].dtype != tensor.dtype
    ]
    wild = [name for name, tensor in merged.items() if name in expected and not tensor.isfinite().all()]
    found_wrong = {"missing:": missing, "unknown:": unknown, "wrong shape:": misshapen, "wrong type:": mistyped}
    problems = [
        f"{word} {', '.join(names[:_NAMED_AT_MOST])}"
        + (f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else "")
        for word, names in (found_wrong | {"NaN or infinity in": wild}).items()
        if names
    ]
    if problems:
        hint = (
            "add a file with the missing tensors: --weights A --weights B" if missing and len(problems) == 1 else None
        )
        raise InputError(f"the weights in {label} do not fit the model; {'; '.join(problems)}", hint=hint)
    model.load_state_dict(merged)


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Return a hash over the names, shapes and float32 values of a state dict, independent of file format and order."""
    chunks: list[bytes] = []
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        chunks.append(f"{name}{tuple(tensor.shape)}".encode())
        chunks.append(sha256_bytes(tensor.numpy().tobytes()).encode())
    return sha256_bytes(*chunks)
