"""Options that several host commands share, and what they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heartvit_edge.cli.console import progress_bar, say
from heartvit_edge.errors import InputError

if TYPE_CHECKING:
    from heartvit_edge.data.images import ImageSet
    from heartvit_edge.data.listing import Listing
    from heartvit_edge.model.zoo import DenseModel


class ScorerName(str, Enum):
    """Scorers that can be asked for."""

    removal_gate = "removal-gate"
    fisher_mc = "fisher-mc"
    heart_literal = "heart-literal"
    taylor = "taylor"
    class_attention = "class-attention"
    attention_received = "attention-received"
    token_norm = "token-norm"
    magnitude = "magnitude"
    random = "random"


Model = Annotated[
    str, typer.Argument(help="timm name of a plain ViT, such as deit_small_patch16_224.", show_default=False)
]
Weights = Annotated[
    list[Path] | None,
    typer.Option(
        help="safetensors file or checkpoint; repeat to add tensors, later files win.",
        show_default="timm's pretrained weights",
    ),
]
ImgSize = Annotated[
    int | None, typer.Option(help="Side of the square input in pixels.", show_default="the model's own")
]
ModelKwargs = Annotated[
    list[str] | None,
    typer.Option(help="KEY=VALUE for timm.create_model, such as patch_size=8; repeat for more.", show_default="none"),
]
Data = Annotated[
    Path,
    typer.Option(
        help="Image folder (a subfolder a class, or flat and unlabelled), or an .npz with images (N,H,W,3) uint8 and "
        "optional labels.",
        show_default=False,
    ),
]
NumImages = Annotated[int, typer.Option(min=1, help="Images to score; all, where DATA has fewer.")]
HeldOutImages = Annotated[
    int, typer.Option(min=0, help="Further images on which predicted is compared with measured loss; 0: none.")
]
ScorerOption = Annotated[ScorerName, typer.Option(help="What says how much a token or head is worth.")]
Sites = Annotated[
    str,
    typer.Option(
        help="Blocks before which tokens may be dropped, such as 3,6,9.",
        show_default="every block but the first",
    ),
]
Probes = Annotated[
    int | None, typer.Option(help="Random draws an image, for fisher-mc and heart-literal.", show_default="8")
]
UnitGroups = Annotated[
    int, typer.Option(min=0, help="Groups of MLP hidden units a block to score, which plans may then remove; 0: none.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random draw.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images a forward; bounds the memory.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what exists.")]


def parse_sites(text: str) -> tuple[int, ...]:
    """Return the blocks written as ``3,6,9``; none for an empty text.

    Raises:
        InputError: If a part is not a whole number.
    """
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as err:
        raise InputError(f"--sites {text!r} is not a list of blocks", hint="--sites 3,6,9") from err


@dataclass(frozen=True)
class HostInput:
    """What the host commands start from.

    Attributes:
        dense: The dense model.
        scored: Images to score.
        held_out: Images to calibrate on; None for none.
        listing: All images that these were drawn from.
    """

    dense: DenseModel
    scored: ImageSet
    held_out: ImageSet | None
    listing: Listing

    @property
    def num_used(self) -> int:
        """Images that are scored or calibrated on."""
        return len(self.scored) + (len(self.held_out) if self.held_out is not None else 0)


def load_host_input(
    model: str,
    weights: list[Path] | None,
    img_size: int | None,
    model_kwargs: list[str] | None,
    data: Path,
    num_images: int,
    held_out_images: int,
    seed: int,
) -> HostInput:
    """Load the model and draw its images, with messages and a bar on stderr.

    Raises:
        InputError: If the model, its weights or the images cannot be used.
    """
    from heartvit_edge.data.images import check_labels, list_images, subset
    from heartvit_edge.data.split import split
    from heartvit_edge.model.zoo import load_dense

    listing = list_images(data, warn=say)
    dense = load_dense(model, weights=weights or (), img_size=img_size, model_kwargs=model_kwargs or ())
    check_labels(listing, dense.shape.num_classes)
    wanted = min(num_images + held_out_images, listing.num_images)
    with progress_bar("reading images", wanted) as advance:
        draw = wanted if wanted < listing.num_images else None
        images = subset(listing, draw, seed, warn=say, progress=lambda *_: advance(1))
    scored, held_out = split(images, min(num_images, len(images)), seed)
    if held_out_images and held_out is None:
        say(f"{data.name} has {len(images)} images, all are scored: none is left to check the predicted loss on")
    return HostInput(dense, scored, held_out, listing)
