"""Which batch sizes an engine serves."""

from __future__ import annotations

from heartvit_edge.errors import InputError
from heartvit_edge.spec.engine import BatchRange
from heartvit_edge.spec.pack import PackEntry


def pick_batch(entry: PackEntry, asked: BatchRange | None) -> BatchRange:
    """Return the batch sizes that an entry's engine serves: those asked for, or the one that its graph has.

    Args:
        entry: Of the pack.
        asked: None for what the graph has, or the default range where it takes any.

    Raises:
        InputError: If the graph has a constant batch and another is asked for.
    """
    batch = entry.fixed_batch
    if batch is None:
        return asked or BatchRange()
    only = BatchRange(min=batch, opt=batch, max=batch)
    if asked not in (None, only):
        raise InputError(
            f"the graph of {entry.name} has a constant batch of {batch}, found --batch-size "
            f"{asked.min}:{asked.opt}:{asked.max}",
            hint=f"leave --batch-size out, or export the pack again without --fixed-batch {batch}",
        )
    return only
