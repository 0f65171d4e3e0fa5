"""A gate that learnt from scores: what it learnt from, what it costs, and how well it chooses."""

from __future__ import annotations

from typing import ClassVar

from pydantic import NonNegativeFloat, PositiveInt, model_validator
from typing_extensions import Self

from heartvit_edge.spec.base import Artefact, Spec
from heartvit_edge.spec.finetune import Answers
from heartvit_edge.spec.model import ImageSetRef, ModelShape, ModelSource
from heartvit_edge.spec.reduction import Reduction

LEARNED = "learned"
"""What packs and runs call a gate that learnt from scores."""


class GateSite(Spec):
    """How well a gate ranks at one site, on images that it did not learn from.

    Attributes:
        block: Block before which tokens go.
        num_keep: Patch tokens that stay.
        mass_kept: Share of the scores' sum that the patches kept by the gate hold, mean over images.
        best_mass_kept: The same for the patches of the largest scores: the most there is.
    """

    block: PositiveInt
    num_keep: PositiveInt
    mass_kept: NonNegativeFloat
    best_mass_kept: NonNegativeFloat


class TrainedGate(Artefact):
    """A gate of one plan: ``<label>.json``, beside its tensors and that plan.

    Attributes:
        source: The dense model.
        shape: Its dimensions.
        plan_label: Label of the plan whose tokens it chooses.
        plan_sha256: That plan's digest.
        fitted_from_sha256: Digest of the plan that a gate was asked for: the same, or one with other token counts.
        images: The images it learnt from; counts were fitted on half of them.
        held_out: Other images, on which it was measured; they decided whether fitted counts were taken.
        settings: How it learnt: names and values of ``gating.distil.DistilSettings``.
        reduction: What became of tokens that were not kept, while it learnt and was measured.
        hidden_units: Hidden units of each site's network.
        macs: Multiply-accumulates of the gate for one image, over all sites.
        dense_macs: Those of the dense model, without a gate.
        sites: How well it ranks at each site.
        answers: What the plan answers on the held-out images with this gate choosing, beside the dense model.
        scoring_s: Seconds that taking the scores took.
        training_s: Seconds that learning from them took.
        fitting_s: Seconds that fitting token counts to it took.
        plan: File of the plan, beside this one.
        weights: File of the gate's tensors, beside this one.
        weights_sha256: Its hash.
        tool_version: heartvit-edge's own version.
    """

    schema_name: ClassVar[str] = "trained-gate"
    schema_version: ClassVar[int] = 4  # 1: gates read attention too; 2: no plan lay beside them; 3: all dropped tokens

    source: ModelSource
    shape: ModelShape
    plan_label: str
    plan_sha256: str
    fitted_from_sha256: str
    images: ImageSetRef
    held_out: ImageSetRef
    settings: tuple[tuple[str, int | float | str], ...]
    reduction: Reduction
    hidden_units: PositiveInt
    macs: PositiveInt
    dense_macs: PositiveInt
    sites: tuple[GateSite, ...]
    answers: Answers
    scoring_s: NonNegativeFloat
    training_s: NonNegativeFloat
    fitting_s: NonNegativeFloat
    plan: str
    weights: str
    weights_sha256: str
    tool_version: str

    @model_validator(mode="after")
    def _has_sites(self) -> Self:
        blocks = [site.block for site in self.sites]
        if not blocks or blocks != sorted(set(blocks)):
            raise ValueError(f"sites must be ascending and not empty, found {blocks}")
        return self

    @property
    def macs_fraction(self) -> float:
        """MACs as a share of the dense model's."""
        return self.macs / self.dense_macs
