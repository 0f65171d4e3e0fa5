"""A folder with what ``heartvit-edge plan`` starts from: weights, images and scores of some of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fakes.small_scores import pictures
from fakes.tiny_vit import load_tiny

from heartvit_edge.data.images import load_images
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.sensitivity.score import make_settings, score
from heartvit_edge.sensitivity.table import ScoreTable
from heartvit_edge.spec.sensitivity import Scorer

NUM_IMAGES = 12
NUM_SCORED = 5


@dataclass(frozen=True)
class Scored:
    """Scores of five of twelve images of noise by the plain tiny model, at every block but the first.

    Attributes:
        folder: The scores' folder.
        data: The images, an npz file.
        weights: The model's weights.
        dense: The model.
        table: The scores.
    """

    folder: Path
    data: Path
    weights: Path
    dense: DenseModel
    table: ScoreTable

    def words(self) -> list[str | Path]:
        """Return the words that follow ``plan SCORES`` where plans are to be measured."""
        return ["--data", self.data, "--weights", self.weights]


def write_scored(folder: Path, *, seed: int = 0, scorer: Scorer = "removal-gate", unit_groups: int = 0) -> Scored:
    """Write everything into a new folder; the seed is that of the noise."""
    folder.mkdir(parents=True)
    data = folder / "noise.npz"
    np.savez(data, images=pictures(NUM_IMAGES, seed))
    dense = load_tiny(folder)
    settings = make_settings(dense.shape.depth, scorer=scorer, unit_groups=unit_groups)
    table = score(dense, load_images(data, num_images=NUM_SCORED), settings, out=folder / "scores")
    (weights,) = folder.glob("*.safetensors")
    return Scored(folder / "scores", data, weights, dense, table)
