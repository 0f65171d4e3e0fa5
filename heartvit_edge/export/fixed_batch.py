"""Graphs whose batch is a constant, for runtimes and tools that take no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from heartvit_edge.errors import InputError
from heartvit_edge.export.graph import Traceable
from heartvit_edge.spec.pack import Form, TensorInfo


def check_batch(form: Form, batch: int | None) -> None:
    """Return only if graphs of the form can have a constant batch.

    Args:
        form: How the graphs carry out their plans.
        batch: Images of every batch; None where any number is taken.

    Raises:
        InputError: If a tail would have a constant batch of several images.
    """
    if form == "adaptive-input" and batch not in (None, 1):
        raise InputError(
            f"a tail of --form adaptive-input takes as many images of a batch as need it, which no constant batch of "
            f"{batch} can",
            hint="--fixed-batch 1, or leave --fixed-batch out",
        )


def with_batch(infos: Sequence[TensorInfo], batch: int | None) -> tuple[TensorInfo, ...]:
    """Return inputs or outputs with this batch, the first of their sizes, where it was open."""
    return tuple(
        info.model_copy(update={"shape": (batch, *info.shape[1:])}) if info.shape and info.shape[0] is None else info
        for info in infos
    )


def fix(source: Traceable, batch: int | None) -> Traceable:
    """Return what a graph with this batch is traced from; None leaves the batch open."""
    if batch is None:
        return source
    example = (
        argument if info.shape[:1] != (None,) else _of_batch(argument, batch)
        for argument, info in zip(source.example, source.inputs, strict=True)
    )
    return replace(
        source,
        example=tuple(example),
        inputs=with_batch(source.inputs, batch),
        outputs=with_batch(source.outputs, batch),
    )


def _of_batch(argument: Tensor, batch: int) -> Tensor:
    return argument.new_zeros((batch, *argument.shape[1:]))


def count_images(wanted: int, available: int, batch: int | None) -> int:
    """Return how many images fill whole batches: at least those wanted, or as many as there are.

    Args:
        wanted: Images that are enough.
        available: Images at hand.
        batch: Images of every batch; None where the last may be smaller.

    Raises:
        InputError: If there are too few for one batch.
    """
    size = batch or 1
    if available < size:
        raise InputError(
            f"a graph with a batch of {size} runs on no fewer images, found {available} scored",
            hint=f"score more with --num-images {size}, or leave --fixed-batch out",
        )
    return min(-(-wanted // size), available // size) * size
