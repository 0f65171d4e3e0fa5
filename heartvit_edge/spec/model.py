"""What is known of a dense model without loading it."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from heartvit_edge.spec.base import Spec

Pool = Literal["token", "token+distillation", "avg"]


class ModelShape(Spec):
    """The dimensions of a plain ViT, as the cost model and the graph need them.

    Attributes:
        img_size: Side of the square input in pixels.
        patch_size: Side of a square patch in pixels.
        in_chans: Input channels.
        embed_dim: Width of a token.
        depth: Blocks.
        num_heads: Attention heads of a dense block.
        head_dim: Width of one head; num_heads * head_dim need not be embed_dim.
        mlp_in_dim: Output width of the MLP's first linear layer (twice mlp_hidden_dim where it is gated).
        mlp_hidden_dim: Input width of the MLP's second linear layer.
        num_classes: Width of the logits.
        num_prefix_tokens: Class, distillation and register tokens, which are never dropped.
        pool: What the classifier reads.
    """

    img_size: PositiveInt
    patch_size: PositiveInt
    in_chans: PositiveInt = 3
    embed_dim: PositiveInt
    depth: PositiveInt
    num_heads: PositiveInt
    head_dim: PositiveInt
    mlp_in_dim: PositiveInt
    mlp_hidden_dim: PositiveInt
    num_classes: PositiveInt
    num_prefix_tokens: int
    pool: Pool

    @model_validator(mode="after")
    def _patches_tile_the_image(self) -> Self:
        if self.img_size % self.patch_size:
            raise ValueError(f"img_size {self.img_size} is not a multiple of patch_size {self.patch_size}")
        if self.num_prefix_tokens < 0:
            raise ValueError(f"num_prefix_tokens must not be negative, found {self.num_prefix_tokens}")
        return self

    @property
    def grid_size(self) -> int:
        """Patches along one side of the image."""
        return self.img_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patch tokens of a dense forward."""
        return self.grid_size**2

    @property
    def num_tokens(self) -> int:
        """All tokens of a dense forward, prefix included."""
        return self.num_prefix_tokens + self.num_patches

    @property
    def quarter_blocks(self) -> tuple[int, ...]:
        """Blocks at a quarter, half and three quarters of the depth, 3, 6 and 9 of 12; block 0 is never one."""
        blocks = {max(1, round(self.depth * part / 4)) for part in (1, 2, 3)}
        return tuple(sorted(blocks & set(range(1, self.depth))))

    def token_counts(self, step: int = 8) -> tuple[int, ...]:
        """Return the multiples of ``step``, prefix included, that leave a patch, and all tokens.

        Tensor cores work on tiles of eight, so latency is a staircase in the token count.

        Args:
            step: Distance of the counts; it is halved until the image has tokens for four of them.
        """
        while step > 1 and self.num_tokens // step < 4:
            step //= 2
        return (*range(step * (self.num_prefix_tokens // step + 1), self.num_tokens, step), self.num_tokens)


class ModelSource(Spec):
    """Which dense model an artefact was made from.

    Attributes:
        name: The timm name, such as ``deit_small_patch16_224``.
        model_kwargs: Arguments given to ``timm.create_model`` beside the name, in the user's order.
        weights: Names (not paths) of the weight files in order; empty for timm's pretrained weights.
        weights_sha256: Hash over every tensor of the loaded state dict, so a renamed file is the same model.
    """

    name: str
    model_kwargs: tuple[tuple[str, str], ...] = ()
    weights: tuple[str, ...] = ()
    weights_sha256: str


class Preprocessing(Spec):
    """How an RGB image becomes the model's input; the terms and meaning are timm's data config.

    Attributes:
        img_size: Side of the square input in pixels.
        interpolation: Resampling filter.
        crop_pct: The short side is resized to floor(img_size / crop_pct) before the crop, in (0, 1].
        crop_mode: ``center``: resize the short side, crop the middle. ``squash``: resize both sides, crop the middle.
            ``border``: resize the long side, pad with the mean colour.
        mean: Per channel, in units of pixel value / 255.
        std: Per channel, in units of pixel value / 255.
    """

    img_size: PositiveInt
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
    crop_pct: PositiveFloat
    crop_mode: Literal["center", "squash", "border"]
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class ImageSetRef(Spec):
    """Which images an artefact was made from.

    Attributes:
        name: Last part of the path that the user gave.
        num_images: Images used.
        sha256: Hash over the decoded pixels used, in order.
        labelled: Whether labels were present.
        seed: Seed of the subset draw; None where every image was used in order.
    """

    name: str
    num_images: PositiveInt
    sha256: str
    labelled: bool
    seed: int | None = None
