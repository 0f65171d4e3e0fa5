"""Graphs whose token counts are inputs: the model that is traced, and the counts that such a graph is proven on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from torch import Tensor, nn

from heartvit_edge.errors import InputError
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.model.forward import classify, run_block
from heartvit_edge.spec.reduction import Reduction

BETWEEN = (0.25, 0.5, 0.75)
"""Where between the fewest and the most counts a graph is tried too."""

Counts = tuple[int, ...]
"""Patch tokens that go on from each site, in site order."""


class AnyCountViT(nn.Module):
    """A gated model that is told at each call how many tokens to keep."""

    def __init__(self, model: GatedViT) -> None:
        """Take a model.

        Args:
            model: With sites; its gate has no size of its own, as a random one has.
        """
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, *counts: Tensor) -> tuple[Tensor, ...]:
        """Return what ``GatedViT.forward`` does.

        Args:
            images: Normalised, shape (B, 3, H, W).
            counts: Patch tokens from each site on, 0-d int64, in site order, within ``count_limits``.
        """
        num_keep = dict(zip(self.model.num_keep, counts, strict=True))
        tokens, kept, sizes = self.model.run_blocks(images, partial(run_block, open_length=True), num_keep)
        return (classify(self.model.backbone, tokens, sizes), *kept)


def count_limits(reduction: Reduction, entering: int, later: int = 0) -> tuple[int, int]:
    """Return the fewest and the most patch tokens that such a graph can leave of those that enter a site.

    One token is left to be fused with others, and a graph has one round of merging, in which every second token may
    join another. Where tokens are fused or merged, each of the later sites takes one more.
    """
    limits = {
        "drop": (1, entering),
        "fuse": (2 + later, entering - 1),
        "join": (max(-(-entering // 2), 1 + later), entering - 1),
        "merge": (max(-(-entering // 2), 1 + later), entering - 1),
    }
    return limits[reduction]


def check_counts(
    counts: Sequence[int], sites: Iterable[int], reductions: Iterable[Reduction], num_patches: int
) -> None:
    """Return only if a graph whose counts are inputs can carry out these.

    Args:
        counts: Patch tokens from each site on.
        sites: The sites.
        reductions: What becomes of other tokens, a site.
        num_patches: Patch tokens that enter the first site.

    Raises:
        InputError: If a site leaves fewer than half of its tokens where they merge.
    """
    entering = num_patches
    for site, reduction, count in zip(sites, reductions, counts, strict=True):
        fewest, _ = count_limits(reduction, entering)
        if count < fewest:
            raise InputError(
                f"a plan keeps {count} of {entering} patch tokens at block {site}, and --form adaptive-shape merges in "
                f"one round, which leaves at least {fewest}",
                hint="--form static, or --reduction drop",
            )
        entering = count


def sweep(plans: Iterable[Counts], reductions: Sequence[Reduction], num_patches: int) -> tuple[Counts, ...]:
    """Return the counts that a graph is tried with: those of plans, the fewest, the most, and some between.

    Args:
        plans: The plans' counts, at least one.
        reductions: What becomes of the other tokens, a site.
        num_patches: Patch tokens that enter the first site.
    """
    asked = dict.fromkeys(plans)
    for share in (0.0, *BETWEEN, 1.0):
        counts, entering = [], num_patches
        for later, reduction in zip(reversed(range(len(reductions))), reductions, strict=True):
            fewest, most = count_limits(reduction, entering, later)
            if reductions[-1] != "drop":
                fewest = max(fewest, 1 + later)
            entering = fewest + round(share * (most - fewest))
            counts.append(entering)
        asked[tuple(counts)] = None
    return tuple(asked)
