"""Which layers INT8 leaves out: those that lose most, until the rest loses little."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from heartvit_edge.errors import CheckError
from heartvit_edge.export.activation_ranges import Feed
from heartvit_edge.export.fidelity import kl_nats
from heartvit_edge.export.quantize import add_switches
from heartvit_edge.export.sessions import open_graph
from heartvit_edge.spec.precision import LayerLoss

RANKED_ON = 16
"""Images on which each layer is quantised alone, at most; all of them then decide how many layers stay."""


class Choice(NamedTuple):
    """What is quantised.

    Attributes:
        layers: Names of the layers, in the graph's order.
        left_out: The others, the most harmful first.
        loss_nats: Mean KL(FP32 || these layers in INT8) on the calibration images.
    """

    layers: tuple[str, ...]
    left_out: tuple[LayerLoss, ...]
    loss_nats: float


def choose_layers(
    quantized: onnx.ModelProto,
    nodes: Mapping[str, str],
    feeds: Sequence[Feed],
    folder: Path,
    limit_nats: float,
    name: str,
) -> Choice:
    """Return the layers to quantise: all but the fewest of the most harmful, so that the loss stays within a limit.

    Where all of them together lose too much, each is quantised alone, on ``RANKED_ON`` images; layers then go back to
    FP32 in that order, and the loss of all that are left is measured on all images after each.

    Args:
        quantized: The graph with every layer quantised; it gets switches.
        nodes: Name of each layer to the name of its node.
        feeds: Batches of calibration images.
        folder: Where the graph's external data lies, if it has some.
        limit_nats: Most that may be lost, mean KL(FP32 || INT8).
        name: What messages call the graph.

    Raises:
        CheckError: If a logit is not finite, or no layer can be quantised within the limit.
    """
    add_switches(quantized, {node: _switch(layer) for layer, node in nodes.items()})
    loss = _measurer(quantized, list(nodes), folder, name)
    found = loss(nodes, feeds)
    if found <= limit_nats:
        return Choice(tuple(nodes), (), found)
    few = list(_first_images(feeds, RANKED_ON))
    alone = {layer: loss({layer}, few) for layer in nodes}
    ranked = sorted(nodes, key=lambda layer: -alone[layer])  # ties stay in the graph's order
    for count in range(1, len(ranked)):
        kept = set(ranked[count:])
        found = loss(kept, feeds)
        if found <= limit_nats:
            left_out = tuple(LayerLoss(name=layer, loss_nats=alone[layer]) for layer in ranked[:count])
            return Choice(tuple(layer for layer in nodes if layer in kept), left_out, found)
    raise CheckError(
        f"{name}: no layer can be INT8 within {limit_nats:g} nats; {ranked[-1]} alone loses {found:.3g}",
        hint=f"allow more, such as --int8-loss {found * 2:.1g}, or export without --precision int8",
    )


def _switch(layer: str) -> str:
    return f"{layer}.int8"


def _first_images(feeds: Sequence[Feed], count: int) -> Sequence[Feed]:
    """Return the feeds that hold the first ``count`` images, whole batches."""
    sizes = np.cumsum([len(next(iter(feed.values()))) for feed in feeds])
    return list(islice(feeds, int(np.searchsorted(sizes, count)) + 1))


def _measurer(
    switched: onnx.ModelProto, layers: Sequence[str], folder: Path, name: str
) -> Callable[[Collection[str], Sequence[Feed]], float]:
    """Return what measures the mean KL that quantising some layers costs on some batches."""
    session = open_graph(switched, folder)
    output = session.get_outputs()[0].name
    exact: dict[int, np.ndarray] = {}

    def run(chosen: Collection[str], feed: Feed) -> np.ndarray:
        switches = {_switch(layer): np.array(layer in chosen) for layer in layers}
        logits: np.ndarray = session.run([output], dict(feed) | switches)[0]
        if not np.isfinite(logits).all():
            raise CheckError(f"{name}: the logits are not all finite in INT8", hint="check the weights for NaN")
        return logits

    def loss(chosen: Collection[str], feeds: Sequence[Feed]) -> float:
        found = []
        for feed in feeds:
            if id(feed) not in exact:
                exact[id(feed)] = run((), feed)
            found.append(kl_nats(exact[id(feed)], run(chosen, feed)))
        return float(np.concatenate(found).mean())

    return loss
