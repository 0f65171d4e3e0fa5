"""Options of ``export`` for the form of its graphs, and what is said of graphs that entries share."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from heartvit_edge.cli.console import say
from heartvit_edge.cli.host_options import HostInput
from heartvit_edge.cli.plan_options import draw_checks
from heartvit_edge.errors import InputError
from heartvit_edge.spec.pack import BudgetPack, PackEntry
from heartvit_edge.spec.routing import Routing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from heartvit_edge.export.routing_images import RoutingImages


class FormName(str, Enum):
    """How graphs carry out their plans."""

    static = "static"
    adaptive_shape = "adaptive-shape"
    adaptive_input = "adaptive-input"


FormOption = Annotated[
    FormName,
    typer.Option(
        help="static: a graph for each budget, its token counts constant. adaptive-shape: counts are inputs, so that "
        "budgets share a graph. adaptive-input: a stem finds how many tokens each image needs, and a tail for each of "
        "a few counts goes on.",
    ),
]
Buckets = Annotated[
    int | None,
    typer.Option(min=1, help="Tails of --form adaptive-input, at most.", show_default="4"),
]
ExternalData = Annotated[
    bool,
    typer.Option(
        "--external-data",
        help="Store weights once, in a file beside the graphs, as adaptive forms and models over 2 GB do.",
    ),
]
FixedBatch = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Write graphs whose batch is always N, for what takes no open one (trtexec's static shapes, optimum's "
        "--no-dynamic-axes); with --form adaptive-input, 1 alone.",
        show_default="any number",
    ),
]
ParityBatchSizes = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,...",
        help="Batch sizes at which graphs are compared with PyTorch.",
        show_default="1,2,8, or the fixed batch",
    ),
]
PARITY_BATCH_SIZES = (1, 2, 8)


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


def read_sizes(text: str | None, fixed: int | None = None) -> tuple[int, ...]:
    """Return the batch sizes written as ``1,2,8``; without a text, the fixed batch or the default ones.

    Args:
        text: From the command line.
        fixed: The batch of the graphs, where it is a constant.

    Raises:
        InputError: If there is none, one is not a whole number from 1 on, or one is not the fixed batch.
    """
    if text is None:
        return PARITY_BATCH_SIZES if fixed is None else (fixed,)
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise InputError(
            f"--parity-batch-sizes is {text!r}, expected whole numbers from 1 on", hint="--parity-batch-sizes 1,2,8"
        )
    sizes = tuple(int(part) for part in parts)
    if fixed is not None and set(sizes) != {fixed}:
        raise InputError(
            f"--parity-batch-sizes is {text!r}, and the graphs have a fixed batch of {fixed}",
            hint="leave --parity-batch-sizes or --fixed-batch out",
        )
    return sizes


def check_buckets(form: FormName, buckets: int | None) -> None:
    """Return only if there are tails where their number is given.

    Raises:
        InputError: If there are none.
    """
    if buckets is not None and form is not FormName.adaptive_input:
        raise InputError(f"--buckets are of tails, and --form {form.value} has none", hint="--form adaptive-input")


def check_dynamo(form: FormName, *, fuses: bool) -> None:
    """Return only if torch's newer exporter can write the form's graphs.

    Raises:
        InputError: If it cannot.
    """
    if form is FormName.adaptive_shape and fuses:
        raise InputError(
            "torch's newer exporter recurses without end where as many tokens are fused as an input says",
            hint="leave --dynamo out, or --reduction drop",
        )


def draw_routing(
    given: HostInput, form: FormName, buckets: int | None, check_images: int, seed: int, batch_size: int
) -> RoutingImages | None:
    """Return the scored images, which choose thresholds and buckets, and further ones to measure on; None for no tails.

    Args:
        given: Model and images.
        form: How graphs carry out their plans.
        buckets: Most tails; None for the default.
        check_images: Further images to measure on, where as many are left.
        seed: Of the draw.
        batch_size: Images a batch.
    """
    from heartvit_edge.data.preprocess import preprocess
    from heartvit_edge.export.routing_images import NUM_BUCKETS, RoutingImages

    if form is not FormName.adaptive_input:
        return None
    checks = draw_checks(given.listing, given.num_used, check_images, seed)
    checking: list[NDArray[np.float32]] = []
    if checks is not None and len(checks) > 1:
        checking = list(preprocess(checks, given.dense.preprocessing, batch_size))
    return RoutingImages(
        choosing=list(preprocess(given.scored, given.dense.preprocessing, batch_size)),
        chosen_on=given.scored.ref(),
        checking=checking,
        checked_on=checks.ref() if checks is not None and checking else None,
        num_buckets=buckets or NUM_BUCKETS,
    )


def tell_forms(pack: BudgetPack) -> None:
    """Say what adapts in a pack: which budgets share a graph, and how images are divided among tails."""
    _tell_sharing(pack)
    for entry in pack.entries:
        if entry.routing is not None:
            _tell_routing(entry.name, entry.routing)


def _tell_routing(name: str, routing: Routing) -> None:
    tails = ", ".join(f"{tail.bucket} tokens {tail.share:.0%}" for tail in routing.tails)
    say(f"{name}: tails by the share of scored images that need them: {tails}")
    if (check := routing.check) is None:
        say(f"{name}: no image is left to measure what that loses")
        return
    say(
        f"{name}: on {check.images.num_images} other images it loses {check.loss_nats:.4g} ± "
        f"{check.loss_stderr_nats:.2g} nats at {check.mean_macs / 1e9:.3g} GMACs; with the plan's counts for all "
        f"{check.static_loss_nats:.4g} ± {check.static_loss_stderr_nats:.2g}"
    )


def _tell_sharing(pack: BudgetPack) -> None:
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
