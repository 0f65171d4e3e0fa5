"""Graphs for as many tokens as each image needs: a stem and tails, what divides the images, and what that loses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from heartvit_edge.allocation.routing import Chosen, Counts, choose_threshold, macs_of_counts
from heartvit_edge.export.entries import Entry
from heartvit_edge.export.graph import Traceable, graph_inputs, graph_outputs
from heartvit_edge.export.routing_images import RoutingImages
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.learn import hidden_units
from heartvit_edge.gating.reduce import num_listed
from heartvit_edge.gating.routed import Stem, Tail
from heartvit_edge.gating.token_gate import TokenGate, gate_macs
from heartvit_edge.model.forward import forward
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.spec.pack import TensorInfo
from heartvit_edge.spec.plan import PruningPlan
from heartvit_edge.spec.route import Arrays, Run, route, tails_of
from heartvit_edge.spec.routing import NUM_KEEP, SCORES, TOKENS, RoutingCheck


@dataclass(frozen=True)
class Routed:
    """A model in PyTorch that gives each image as many tokens as it needs.

    Attributes:
        plan: What it was made from.
        model: The gated model.
        stem: Its stem.
        tails: One a bucket, ascending.
        chosen: What chose threshold and buckets.
    """

    plan: PruningPlan
    model: GatedViT
    stem: Stem
    tails: tuple[Tail, ...]
    chosen: Chosen

    @property
    def buckets(self) -> tuple[int, ...]:
        """Patch tokens from the first site on, by tail."""
        return tuple(counts[self.model.first_site] for counts in self.chosen.tails)

    def listed(self, counts: Counts) -> dict[int, int]:
        """Return site to the patches in its output."""
        return {site: num_listed(self.model.reduction, count) for site, count in counts.items()}

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """What comes out in the end: as many patches as the largest tail keeps."""
        return graph_outputs(self.plan.shape, self.listed(self.chosen.tails[-1]))

    @property
    def stem_outputs(self) -> tuple[TensorInfo, ...]:
        """What comes out of the stem."""
        shape = self.plan.shape
        found = [TensorInfo(name=TOKENS, dtype="float32", shape=(None, shape.num_tokens, shape.embed_dim))]
        if self.model.gate is not None:
            found.append(TensorInfo(name=SCORES, dtype="float32", shape=(None, shape.num_patches)))
        return (*found, TensorInfo(name=NUM_KEEP, dtype="int32", shape=(None,)))

    @property
    def state(self) -> tuple[TensorInfo, ...]:
        """What goes into a tail."""
        return self.stem_outputs[:-1]

    def macs(self, counts: Counts) -> int:
        """Return the multiply-accumulates of an image that keeps these counts, a learned gate's included."""
        return macs_of_counts(self.plan, counts) + _gate_macs(self.plan, self.model, counts)


def divide(entry: Entry, model: GatedViT, images: RoutingImages) -> Routed:
    """Return the model in parts whose mean multiply-accumulates on the images are the plan's.

    Args:
        entry: With sites.
        model: The entry's.
        images: What chooses.
    """
    unlimited = Stem(model, 0.0, (1, entry.plan.shape.num_patches))
    spent = []
    with torch.no_grad():
        for batch in images.choosing:
            spent.append(unlimited.spent(*model.run_stem(torch.from_numpy(batch))).numpy())
    chosen = choose_threshold(entry.plan, np.concatenate(spent), entry.reduction, images.num_buckets)
    stem = Stem(model, chosen.threshold, unlimited.limits).eval()
    return Routed(entry.plan, model, stem, tuple(Tail(model, counts).eval() for counts in chosen.tails), chosen)


def stem_source(routed: Routed) -> Traceable:
    """Return what the stem's graph is traced from."""
    shape = routed.plan.shape
    images = torch.zeros(2, shape.in_chans, shape.img_size, shape.img_size)
    return Traceable(routed.stem, (images,), graph_inputs(shape), routed.stem_outputs, shape.embed_dim)


def tail_source(routed: Routed, tail: Tail) -> Traceable:
    """Return what a tail's graph is traced from."""
    example = tuple(torch.zeros(2, *(size for size in info.shape if size)) for info in routed.state)
    shape = routed.plan.shape
    outputs = graph_outputs(shape, routed.listed(tail.num_keep))
    return Traceable(tail, example, routed.state, outputs, shape.embed_dim)


def in_pytorch(module: nn.Module, outputs: Sequence[TensorInfo]) -> Run:
    """Return what runs a stem or a tail on arrays."""

    def run(given: Arrays) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            found = module(*(torch.from_numpy(values) for values in given.values()))
        return {info.name: values.numpy() for info, values in zip(outputs, found, strict=True)}

    return run


def answers(
    stem: Run, tails: Sequence[Run], buckets: Sequence[int], outputs: Sequence[TensorInfo]
) -> Callable[[NDArray[np.float32]], list[NDArray[Any]]]:
    """Return what answers batches by a stem and tails, its outputs in order."""

    def answer(images: NDArray[np.float32]) -> list[NDArray[Any]]:
        return list(route({"images": images}, stem, tails, buckets, outputs).values())

    return answer


def whole(routed: Routed) -> Callable[[NDArray[np.float32]], list[NDArray[Any]]]:
    """Return what answers batches in PyTorch."""
    tails = [in_pytorch(tail, graph_outputs(routed.plan.shape, routed.listed(tail.num_keep))) for tail in routed.tails]
    return answers(in_pytorch(routed.stem, routed.stem_outputs), tails, routed.buckets, routed.outputs)


def check_loss(routed: Routed, dense: nn.Module, images: RoutingImages) -> RoutingCheck | None:
    """Return what routing loses on images that it was not chosen on, beside the plan; None without such images.

    Args:
        routed: The model in parts.
        dense: The dense model, on the CPU.
        images: At least two to check on, or none.
    """
    if images.checked_on is None:
        return None
    answer, losses, static, needed = whole(routed), [], [], []
    for batch in images.checking:
        inputs = torch.from_numpy(batch)
        with torch.no_grad():
            expected = forward(dense, inputs)
            static.append(kl_to_dense(expected, routed.model(inputs)[0]).double().numpy())
            needed.append(routed.stem(inputs)[-1].numpy())
        losses.append(kl_to_dense(expected, torch.from_numpy(answer(batch)[0])).double().numpy())
    (loss, error), (static_loss, static_error) = (_mean(np.concatenate(found)) for found in (losses, static))
    places = tails_of(np.concatenate(needed), routed.buckets)
    costs = np.array([routed.macs(counts) for counts in routed.chosen.tails])
    return RoutingCheck(
        images=images.checked_on,
        loss_nats=loss,
        loss_stderr_nats=error,
        mean_macs=round(float(costs[places].mean())),
        shares=tuple(float((places == number).mean()) for number in range(len(costs))),
        num_clipped=int((np.concatenate(needed) > routed.buckets[-1]).sum()),
        static_loss_nats=static_loss,
        static_loss_stderr_nats=static_error,
    )


def _mean(losses: NDArray[np.float64]) -> tuple[float, float]:
    return float(losses.mean()), float(losses.std(ddof=1) / np.sqrt(len(losses)))


def _gate_macs(plan: PruningPlan, model: GatedViT, counts: Counts) -> int:
    if not isinstance(model.gate, TokenGate):
        return 0
    entering = [plan.shape.num_patches, *counts.values()][:-1]
    return gate_macs(plan.shape, entering, hidden_units(model.gate))
