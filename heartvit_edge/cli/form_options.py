"""Options of ``export`` for the form of its graphs, and what is said of graphs that entries share."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import Enum
from typing import Annotated

import typer

from heartvit_edge.cli.console import say
from heartvit_edge.errors import InputError
from heartvit_edge.spec.pack import BudgetPack, PackEntry


class FormName(str, Enum):
    """How graphs carry out their plans."""

    static = "static"
    adaptive_shape = "adaptive-shape"


FormOption = Annotated[
    FormName,
    typer.Option(
        help="static: a graph for each budget, its token counts constant. adaptive-shape: counts are inputs, so that "
        "budgets share a graph.",
    ),
]
ExternalData = Annotated[
    bool,
    typer.Option(
        "--external-data",
        help="Store weights once, in a file beside the graphs, as adaptive forms and models over 2 GB do.",
    ),
]
ParityBatchSizes = Annotated[
    str, typer.Option(metavar="N,N,...", help="Batch sizes at which graphs are compared with PyTorch.")
]


DIFFERENCES: dict[str, Callable[[PackEntry], Hashable]] = {
    "sites": lambda entry: tuple(entry.plan.sites),
    "heads": lambda entry: tuple(block.kept_heads for block in entry.plan.blocks),
    "MLP units": lambda entry: tuple(block.kept_units for block in entry.plan.blocks),
    "learned gates": lambda entry: entry.gate_weights_sha256,
}
"""What keeps plans from sharing a graph."""
CURES = {
    "sites": "--sites {blocks} --symmetric",
    "heads": "--no-heads",
    "MLP units": "--unit-groups 0",
    "learned gates": "--gate class-attention",
}
"""The options with which it does not."""


def read_sizes(text: str) -> tuple[int, ...]:
    """Return the batch sizes written as ``1,2,8``.

    Raises:
        InputError: If there is none, or one is not a whole number from 1 on.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise InputError(
            f"--parity-batch-sizes is {text!r}, expected whole numbers from 1 on", hint="--parity-batch-sizes 1,2,8"
        )
    return tuple(int(part) for part in parts)


def tell_sharing(pack: BudgetPack) -> None:
    """Say which budgets share a graph, and what would let all of them share one."""
    graphs: dict[str, list[PackEntry]] = {}
    for entry in pack.entries:
        if entry.form == "adaptive-shape":
            graphs.setdefault(entry.onnx, []).append(entry)
    for name, entries in graphs.items():
        names = " and ".join(entry.name for entry in entries)
        ranges = "; ".join(f"block {site}: {low} to {high}" for site, (low, high) in entries[0].num_keep_range.items())
        say(f"{names} {'share' if len(entries) > 1 else 'has'} {name}, proven with patch tokens from {ranges}")
    planned = [entry for entries in graphs.values() for entry in entries if entry.role == "pruned"]
    if len({entry.onnx for entry in planned}) > 1:
        blocks = ",".join(map(str, pack.shape.quarter_blocks))
        cures = {name: cure for name, cure in CURES.items() if len({DIFFERENCES[name](one) for one in planned}) > 1}
        say(f"their {' and '.join(cures)} differ; one graph for all: {' '.join(cures.values()).format(blocks=blocks)}")
