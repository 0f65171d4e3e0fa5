"""Random draws that belong to an image, so that neither batches nor processes change them."""

from __future__ import annotations

import numpy as np
import torch

SCORING, CALIBRATION, RESCORING = 0, 1, 2


def image_generator(seed: int, purpose: int, index: int) -> torch.Generator:
    """Return the source of one image's draws, on the CPU.

    Args:
        seed: Of the run, at least 0.
        purpose: ``SCORING``, ``CALIBRATION`` or ``RESCORING``, whose draws are unrelated.
        index: Position of the image in its set, at least 0.
    """
    state = np.random.SeedSequence((seed, purpose, index)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
