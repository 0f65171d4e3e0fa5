"""Images on which plans run, loaded once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from heartvit_edge.data.images import ImageSet
from heartvit_edge.data.preprocess import preprocess
from heartvit_edge.model.forward import forward
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.spec.sensitivity import ScoreSettings

Gate = Callable[[Tensor, int], Tensor]
Watch = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

RESCORERS = ("removal-gate", "fisher-mc")
"""Scorers that can be taken again on the tokens left."""


def unwatched(_description: str, _total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Return a watch that tells nobody."""
    return nullcontext(lambda _: None)


@dataclass(frozen=True)
class PlanImages:
    """Images on which plans are measured.

    Attributes:
        dense: The dense model, on its device.
        batches: Normalised images (B, 3, H, W), on the model's device.
        logits: The dense model's answers (B, C), one tensor a batch.
        settings: The scorer, its draws and its seed, and the groups of MLP hidden units a block.
        gate: Orders the patch tokens (B, N - prefix) by the attention weights (B, heads, N, N) of the block before and
            the number of prefix tokens, as a gate does in the engine; None: the scores do.
        watch: Opens, for what is done and its number of steps, what is told of steps done.
    """

    dense: DenseModel
    batches: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]
    settings: ScoreSettings
    gate: Gate | None = None
    watch: Watch = unwatched

    @property
    def num_images(self) -> int:
        """Images in all batches."""
        return sum(map(len, self.batches))

    def parts(self, count: int) -> tuple[PlanImages, ...]:
        """Return the images in that many parts of nearly equal size, or fewer where there are fewer batches."""
        edges = np.linspace(0, len(self.batches), min(count, len(self.batches)) + 1).round().astype(int)
        return tuple(
            replace(self, batches=self.batches[start:end], logits=self.logits[start:end])
            for start, end in pairwise(edges)
        )

    @property
    def unit_groups(self) -> int:
        """Groups of MLP hidden units a block; 0: whole MLPs."""
        return self.settings.unit_groups


@torch.no_grad()
def load_plan_images(
    dense: DenseModel,
    images: ImageSet,
    settings: ScoreSettings,
    *,
    gate: Gate | None = None,
    batch_size: int = 16,
    watch: Watch = unwatched,
) -> PlanImages:
    """Run the dense model on the images and return both; they stay in memory, so take some hundreds at most.

    Raises:
        ValueError: If no gate is given and the scorer is none of ``RESCORERS``.
    """
    if gate is None and settings.scorer not in RESCORERS:
        raise ValueError(f"scorer {settings.scorer} cannot be taken again on the tokens left")
    device = next(dense.module.parameters()).device
    batches = tuple(torch.from_numpy(batch).to(device) for batch in preprocess(images, dense.preprocessing, batch_size))
    answers = tuple(forward(dense.module, batch) for batch in batches)
    return PlanImages(dense, batches, answers, settings, gate, watch)
