"""Models with random weights, whose speed, memory and MACs are those of trained ones."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from heartvit_edge.model.zoo import DenseModel, load_dense


def load_untrained(name: str, folder: Path) -> DenseModel:
    """Return a timm model with seeded random weights, which are stored in ``folder`` and read from there."""
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    save_file(timm.create_model(name).state_dict(), path)
    return load_dense(name, weights=(path,))
