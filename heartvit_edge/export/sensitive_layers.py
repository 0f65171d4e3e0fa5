"""Which layers INT8 leaves out: those that lose most, until the rest loses little."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.errors import CheckError
from heartvit_edge.export.activation_ranges import Feed
from heartvit_edge.export.fidelity import kl_nats
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
    run: Callable[[Collection[str], Feed], NDArray[Any]],
    layers: Sequence[str],
    groups: Sequence[Sequence[Feed]],
    limit_nats: float,
    name: str,
) -> Choice:
    """Return the layers to quantise: all but the fewest of the most harmful, so that the loss stays within a limit.

    Where all of them together lose too much, each is quantised alone, on ``RANKED_ON`` images; layers then go back to
    FP32 in that order, and the loss of all that are left is measured on all images after each.

    Args:
        run: Returns the logits (B, C) of a batch with some layers in INT8.
        layers: In the graph's order.
        groups: Batches of calibration images, once for each way of running the graph; the loss is that of the group
            that loses most.
        limit_nats: Most that may be lost, mean KL(FP32 || INT8).
        name: What messages call the graph.

    Raises:
        CheckError: If a logit is not finite, or no layer can be quantised within the limit.
    """
    loss = _measurer(run, name)
    found = loss(layers, groups)
    if found <= limit_nats:
        return Choice(tuple(layers), (), found)
    few = [_first_images(feeds, RANKED_ON) for feeds in groups]
    alone = {layer: loss({layer}, few) for layer in layers}
    ranked = sorted(layers, key=lambda layer: -alone[layer])  # ties stay in the graph's order
    for count in range(1, len(ranked)):
        kept = set(ranked[count:])
        found = loss(kept, groups)
        if found <= limit_nats:
            left_out = tuple(LayerLoss(name=layer, loss_nats=alone[layer]) for layer in ranked[:count])
            return Choice(tuple(layer for layer in layers if layer in kept), left_out, found)
    raise CheckError(
        f"{name}: no layer can be INT8 within {limit_nats:g} nats; {ranked[-1]} alone loses {found:.3g}",
        hint=f"allow more, such as --int8-loss {found * 2:.1g}, or export without --precision int8",
    )


def _first_images(feeds: Sequence[Feed], count: int) -> Sequence[Feed]:
    """Return the feeds that hold the first ``count`` images, whole batches."""
    sizes = np.cumsum([len(next(iter(feed.values()))) for feed in feeds])
    return list(islice(feeds, int(np.searchsorted(sizes, count)) + 1))


def _measurer(
    run: Callable[[Collection[str], Feed], NDArray[Any]], name: str
) -> Callable[[Collection[str], Sequence[Sequence[Feed]]], float]:
    """Return what measures the mean KL that quantising some layers costs, the most over groups of batches."""
    exact: dict[int, NDArray[Any]] = {}

    def logits(chosen: Collection[str], feed: Feed) -> NDArray[Any]:
        found = run(chosen, feed)
        if not np.isfinite(found).all():
            raise CheckError(f"{name}: the logits are not all finite in INT8", hint="check the weights for NaN")
        return found

    def loss(chosen: Collection[str], groups: Sequence[Sequence[Feed]]) -> float:
        means = []
        for feeds in groups:
            found = []
            for feed in feeds:
                if id(feed) not in exact:
                    exact[id(feed)] = logits((), feed)
                found.append(kl_nats(exact[id(feed)], logits(chosen, feed)))
            means.append(float(np.concatenate(found).mean()))
        return max(means)

    return loss
