"""How a batch goes through a stem and, image by image, through the tail of as many tokens as the image needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from typing_extensions import Self

from heartvit_edge.spec.base import Spec
from heartvit_edge.spec.model import ImageSetRef
from heartvit_edge.spec.tensor import TensorInfo

NUM_KEEP = "num_keep"
"""The stem's output (B,) int32: patch tokens that each image needs from the first site on."""
SCORES = "scores"
"""The stem's output (B, P) by which a tail chooses; none where tokens are merged."""
TOKENS = "tokens"
"""The stem's output (B, N, C): what enters the first site."""
NOT_KEPT = -1
"""What fills the rows of ``kept_<block>`` of images that keep fewer patches than others may."""

Unit = Literal["nats", "share of attention", "unlikeness"]
"""What a token is worth: the loss that a learned gate foresees; its share of the attention that a gate reads; one less
its cosine to the token that is likest to it, where tokens are merged."""

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]
"""Runs a graph on its inputs by name and returns its outputs by name."""


class Tail(Spec):
    """A graph that goes on from the stem with constant counts.

    Attributes:
        num_keep: Site to the patch tokens that go on from there; the first site's is the tail's bucket.
        onnx: File name of the graph, relative to the pack.
        onnx_sha256: Its hash.
        outputs: ``logits``, then ``kept_<block>`` for each site.
        macs: Multiply-accumulates of an image that takes this tail: stem, gate and tail.
        share: Share of the images that chose the buckets which take this tail.
    """

    num_keep: dict[int, PositiveInt]
    onnx: str
    onnx_sha256: str
    outputs: tuple[TensorInfo, ...]
    macs: PositiveInt
    share: NonNegativeFloat

    @property
    def bucket(self) -> int:
        """Patch tokens from the first site on."""
        return self.num_keep[min(self.num_keep)]


class RoutingCheck(Spec):
    """What routing loses on images that chose neither its threshold nor its buckets, beside the plan's own counts.

    Attributes:
        images: The images.
        loss_nats: Mean KL(dense || routed) per image, in PyTorch.
        loss_stderr_nats: Its standard error over images.
        mean_macs: Mean multiply-accumulates of an image.
        shares: Share of the images that take each tail.
        num_clipped: Images that need more than the largest bucket, and get that.
        static_loss_nats: Mean KL(dense || plan) per image, every image keeping the plan's counts.
        static_loss_stderr_nats: Its standard error.
    """

    images: ImageSetRef
    loss_nats: float
    loss_stderr_nats: NonNegativeFloat
    mean_macs: PositiveInt
    shares: tuple[NonNegativeFloat, ...]
    num_clipped: NonNegativeInt
    static_loss_nats: float
    static_loss_stderr_nats: NonNegativeFloat


class Routing(Spec):
    """What follows a stem.

    Attributes:
        outputs: The stem's: ``tokens``, ``scores`` unless tokens are merged, and ``num_keep``.
        unit: What a token is worth.
        threshold: Most that all which an image loses at the first site may be worth together, in that unit.
        images: Images that chose threshold and buckets, so that the mean MACs are the plan's.
        counts: (patch tokens needed, images that need so many) on these, ascending: what the buckets were chosen from.
        tails: One a bucket, ascending.
        mean_macs: Mean multiply-accumulates of these images, each rounded up to its bucket.
        check: What it loses on other images; None where none were left.
    """

    outputs: tuple[TensorInfo, ...]
    unit: Unit
    threshold: NonNegativeFloat
    images: ImageSetRef | None
    counts: tuple[tuple[PositiveInt, PositiveInt], ...]
    tails: tuple[Tail, ...]
    mean_macs: PositiveInt
    check: RoutingCheck | None

    @model_validator(mode="after")
    def _buckets_ascend(self) -> Self:
        if not self.tails or list(self.buckets) != sorted(set(self.buckets)):
            raise ValueError(f"buckets must be ascending and not empty, found {self.buckets}")
        return self

    @property
    def buckets(self) -> tuple[int, ...]:
        """Patch tokens from the first site on, by tail."""
        return tuple(tail.bucket for tail in self.tails)

    @property
    def state(self) -> tuple[TensorInfo, ...]:
        """The tails' inputs: what the stem hands on."""
        return tuple(info for info in self.outputs if info.name != NUM_KEEP)


def tails_of(num_keep: NDArray[np.int32], buckets: Sequence[int]) -> NDArray[np.intp]:
    """Return the number of the tail that each image takes: the smallest that keeps enough, or the largest.

    Args:
        num_keep: Patch tokens that each image needs, shape (B,).
        buckets: Those that each tail keeps, ascending.
    """
    places: NDArray[np.intp] = np.searchsorted(np.asarray(buckets), num_keep).clip(max=len(buckets) - 1)
    return places


def route(
    images: Arrays, stem: Run, tails: Sequence[Run], buckets: Sequence[int], outputs: Sequence[TensorInfo]
) -> dict[str, NDArray[Any]]:
    """Return the answers of a batch in the images' order; images that take one tail go through it together.

    Args:
        images: The stem's input.
        stem: Returns ``num_keep`` and what the tails take.
        tails: One a bucket.
        buckets: Ascending.
        outputs: What to return: rows shorter than stated end in ``NOT_KEPT``.
    """
    found = stem(images)
    places = tails_of(found[NUM_KEEP], buckets)
    state = {name: values for name, values in found.items() if name != NUM_KEEP}
    taken = np.unique(places)
    if len(taken) == 1:  # nothing to pick or to put together
        only = tails[taken[0]](state)
        return {info.name: _filled(only[info.name], info) for info in outputs}
    answers: dict[str, NDArray[Any]] = {}
    for place in taken:
        rows = np.flatnonzero(places == place)
        part = tails[place]({name: values[rows] for name, values in state.items()})
        for info in outputs:
            if info.name not in answers:
                size = [len(places) if known is None else known for known in info.shape]
                answers[info.name] = np.full(size, NOT_KEPT, dtype=info.dtype)
            answers[info.name][rows, : part[info.name].shape[1]] = part[info.name]
    return {info.name: answers[info.name] for info in outputs}


def _filled(values: NDArray[Any], info: TensorInfo) -> NDArray[Any]:
    missing = (info.shape[1] or 0) - values.shape[1]
    return np.pad(values, ((0, 0), (0, missing)), constant_values=NOT_KEPT) if missing else values
