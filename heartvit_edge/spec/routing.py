"""What follows a stem: tails, and what says which image takes which."""

from __future__ import annotations

from typing import Literal

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

Unit = Literal["share of nats", "share of attention", "unlikeness"]
"""What a token is worth: its share of the losses that a learned gate foresees for the image's tokens; its share of the
attention that a gate reads; one less its cosine to the token that is likest to it, where tokens are merged."""


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
