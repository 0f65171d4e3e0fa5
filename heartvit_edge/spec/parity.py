"""What the comparison of a graph with PyTorch found."""

from __future__ import annotations

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from heartvit_edge.spec.base import Spec


class Parity(Spec):
    """How close the exported graph came to PyTorch.

    Attributes:
        num_images: Real images compared.
        max_abs_error: Largest |difference| of a logit.
        logit_scale: Largest |logit| of the PyTorch model, the scale of the tolerance.
        tolerance: Largest allowed max_abs_error / logit_scale.
        kept_token_mismatches: Images that keep other tokens, which ties allow for a few; their logits are not compared.
        batch_sizes: Sizes of the batches compared, ascending; empty where they were not stored.
    """

    num_images: PositiveInt
    max_abs_error: NonNegativeFloat
    logit_scale: NonNegativeFloat
    tolerance: NonNegativeFloat
    kept_token_mismatches: NonNegativeInt
    batch_sizes: tuple[PositiveInt, ...] = ()
