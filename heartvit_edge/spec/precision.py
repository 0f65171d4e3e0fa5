"""In what precision a graph computes, and how close that comes to FP32."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from typing_extensions import Self

from heartvit_edge.spec.base import Spec

Precision = Literal["fp32", "fp16", "int8"]
"""Element type of the matrix products."""

Calibration = Literal["entropy", "percentile", "minmax"]
"""What decides the range of activations that INT8 covers: the least divergence from their distribution, all but the
outermost of them, or all."""


class Fidelity(Spec):
    """How close a graph comes to the FP32 graph of its entry, both on ONNX Runtime's CPU provider.

    Attributes:
        num_images: Real images compared.
        cosine: Mean cosine of the two graphs' logits of an image.
        same_tokens_cosine: The mean over images that keep the same tokens in both; None where none does.
        kl_nats: Mean KL(FP32 || this).
        num_agreeing: Images given the same class.
        num_other_tokens: Images that keep other tokens than with FP32: rounding decides between scores that are all
            but equal.
        kept_overlap: Share of the kept tokens that are kept with FP32 too, mean over images and sites; 1 without sites.
    """

    num_images: PositiveInt
    cosine: float = Field(ge=-1, le=1)
    same_tokens_cosine: float | None = Field(ge=-1, le=1)
    kl_nats: NonNegativeFloat
    num_agreeing: NonNegativeInt
    num_other_tokens: NonNegativeInt
    kept_overlap: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _counts_are_of_these_images(self) -> Self:
        if max(self.num_agreeing, self.num_other_tokens) > self.num_images:
            raise ValueError(f"{self.num_agreeing} agree and {self.num_other_tokens} differ of {self.num_images}")
        return self

    @property
    def agreement(self) -> float:
        """Share of the images that are given the same class, 0 to 1."""
        return self.num_agreeing / self.num_images


class LayerLoss(Spec):
    """What quantising one matrix product alone loses.

    Attributes:
        name: The layer, such as ``blocks.0.attn.qkv``.
        loss_nats: Mean KL(FP32 || only this layer in INT8) on the first calibration images.
    """

    name: str
    loss_nats: NonNegativeFloat


class Quantization(Spec):
    """How an INT8 graph was made.

    Attributes:
        calibration: What decided the range of each activation.
        num_images: Images that ranges and losses were measured on.
        limit_nats: Most that INT8 might lose on them.
        loss_nats: Mean KL(FP32 || INT8) on them with the layers that are quantised.
        num_quantized: Matrix products, of those with weights, that are in INT8.
        left_out: Those that are not, the most harmful first.
    """

    calibration: Calibration
    num_images: PositiveInt
    limit_nats: NonNegativeFloat
    loss_nats: NonNegativeFloat
    num_quantized: PositiveInt
    left_out: tuple[LayerLoss, ...]


class PrecisionFile(Spec):
    """A file in another precision.

    Attributes:
        onnx: File name of the graph, relative to the pack.
        onnx_sha256: Its hash.
    """

    onnx: str
    onnx_sha256: str


class PrecisionGraph(PrecisionFile):
    """A graph of an entry in another precision than FP32, with the same inputs and outputs.

    Attributes:
        precision: Element type of the matrix products.
        fidelity: How close it comes to the entry's FP32 graph; with tails, the whole to the whole.
        quantization: How it was made, for INT8; None for FP16.
        tails: Under ``adaptive-input`` the tails by bucket, and the graph is the stem's; none for other forms.
    """

    precision: Literal["fp16", "int8"]
    fidelity: Fidelity
    quantization: Quantization | None = None
    tails: tuple[PrecisionFile, ...] = ()

    @model_validator(mode="after")
    def _int8_is_explained(self) -> Self:
        if (self.precision == "int8") != (self.quantization is not None):
            raise ValueError(f"{self.onnx} is {self.precision}, with quantization {self.quantization}")
        return self
