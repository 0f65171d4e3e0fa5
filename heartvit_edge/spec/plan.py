"""The pruning plan: what each block keeps."""

from __future__ import annotations

from typing import ClassVar

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator
from typing_extensions import Self

from heartvit_edge.spec.base import Artefact, Spec
from heartvit_edge.spec.budget import Budget, Quantity, joint_label
from heartvit_edge.spec.model import ImageSetRef, ModelShape, ModelSource


class BlockPlan(Spec):
    """What one transformer block keeps.

    Attributes:
        kept_heads: Indices into the dense block's heads, ascending, at least one.
        num_tokens: Tokens entering the block's attention, prefix tokens included.
        kept_units: Groups of MLP hidden units that stay, ascending, at least one; None where all units stay.
    """

    kept_heads: tuple[NonNegativeInt, ...]
    num_tokens: PositiveInt
    kept_units: tuple[NonNegativeInt, ...] | None = None

    @field_validator("kept_heads")
    @classmethod
    def _ascending(cls, heads: tuple[int, ...]) -> tuple[int, ...]:
        if not heads or list(heads) != sorted(set(heads)):
            raise ValueError(f"kept_heads must be ascending and not empty, found {heads}")
        return heads

    @field_validator("kept_units")
    @classmethod
    def _some_unit(cls, units: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if units is not None and (not units or list(units) != sorted(set(units))):
            raise ValueError(f"kept_units must be ascending and not empty, found {units}")
        return units


class PlanCheck(Spec):
    """What a plan loses on images that it was neither scored nor improved on.

    Attributes:
        images: The images.
        loss_nats: Mean KL(dense || pruned) per image.
        loss_stderr_nats: Its standard error over images.
        num_agreeing: Images on which the pruned model's first class is the dense model's.
        num_tightenings: How often a loss budget was tightened because a plan broke it on these images; at 0 they had no
            part in the choice.
    """

    images: ImageSetRef
    loss_nats: float
    loss_stderr_nats: NonNegativeFloat
    num_agreeing: NonNegativeInt
    num_tightenings: NonNegativeInt = 0

    @property
    def agreement(self) -> float:
        """Share of images whose first class is the dense model's."""
        return self.num_agreeing / self.images.num_images


class PruningPlan(Artefact):
    """A plan for every block of one model under one budget.

    Tokens never grow from block to block. A block that has fewer tokens than the one before is a *site*: the
    tokens are dropped before it.

    Attributes:
        source: The dense model.
        shape: Its dimensions.
        budgets: What the plan satisfies; empty for the dense plan.
        blocks: One entry a block.
        predicted_loss_nats: Predicted mean KL(dense || pruned) per image, in nats; None where the scorer only ranks and
            nothing was measured. From scores alone it holds where they themselves choose the tokens.
        macs: Multiply-accumulates of one image's forward, gates included.
        dense_macs: The same for the dense model.
        params: Weights of the matrix products; None in plans from before they were counted.
        dense_params: The same for the dense model.
        scorer: Name of the scorer whose scores were used; None for the dense plan.
        sensitivity_sha256: Digest of the sensitivity map; None for the dense plan.
        prune_heads: Whether heads were allowed to go.
        unit_groups: Groups into which each block's MLP hidden units were divided; 0 where units were not scored.
        symmetric: Whether every site had to keep the same share of its tokens and every block as many heads.
        allowed_sites: Sites that were asked for; empty where the choice was left open.
        max_sites: Most sites at which tokens were allowed to go; None for any.
        predicted_loss_stderr_nats: Standard error of the predicted loss over images; None where it is not known.
        refined_on: The images on which the plan was improved by measuring; None where it stems from scores alone. The
            predicted loss is then the loss measured on these, or on those that decided.
        decided_on: The images, others, that decided between the plans found; None where none did.
        chosen_by: What chose the tokens while it was measured: ``scores``, taken again at each site, or the name of a
            gate; None where it was not.
        check: The loss measured on other images; None where none were at hand.
        latency_ms: Predicted latency of one inference of ``device_batch_size`` images by the device table; None
            without a table.
        energy_mj: Predicted energy of such an inference; None without a table or its energy.
        device: Where and how the table was measured, in words; None without one.
        device_batch_size: Images an inference of the table; None without one.
        extrapolated: Whether a block's cost was read outside of what the device table measured.
        device_table_sha256: Digest of the device table; None without one.
        binding: Quantities whose limits stand in the way of a smaller loss, or of a smaller cost.
        nats_per_percent: Predicted loss saved by one more percent of the dense MACs; None where it is not known.
        nested_in_sha256: Digest of the larger plan of whose tokens and heads these are a part; None for no such plan.
    """

    schema_name: ClassVar[str] = "pruning-plan"

    source: ModelSource
    shape: ModelShape
    budgets: tuple[Budget, ...]
    blocks: tuple[BlockPlan, ...]
    predicted_loss_nats: NonNegativeFloat | None
    macs: PositiveInt
    dense_macs: PositiveInt
    params: PositiveInt | None = None
    dense_params: PositiveInt | None = None
    scorer: str | None
    sensitivity_sha256: str | None
    prune_heads: bool = True
    unit_groups: NonNegativeInt = 0
    symmetric: bool = False
    allowed_sites: tuple[PositiveInt, ...] = ()
    max_sites: PositiveInt | None = None
    predicted_loss_stderr_nats: NonNegativeFloat | None = None
    refined_on: ImageSetRef | None = None
    decided_on: ImageSetRef | None = None
    chosen_by: str | None = None
    check: PlanCheck | None = None
    latency_ms: PositiveFloat | None = None
    energy_mj: PositiveFloat | None = None
    device: str | None = None
    device_batch_size: PositiveInt | None = None
    extrapolated: bool = False
    device_table_sha256: str | None = None
    binding: tuple[Quantity, ...] = ()
    nats_per_percent: NonNegativeFloat | None = None
    nested_in_sha256: str | None = None

    @model_validator(mode="after")
    def _fits_the_model(self) -> Self:
        if len(self.blocks) != self.shape.depth:
            raise ValueError(f"plan has {len(self.blocks)} blocks, the model {self.shape.depth}")
        before = self.shape.num_tokens
        for index, block in enumerate(self.blocks):
            if not self.shape.num_prefix_tokens < block.num_tokens <= before:
                raise ValueError(
                    f"block {index} keeps {block.num_tokens} tokens, expected more than the "
                    f"{self.shape.num_prefix_tokens} prefix tokens and at most {before}"
                )
            if block.kept_heads[-1] >= self.shape.num_heads:
                raise ValueError(f"block {index} keeps head {block.kept_heads[-1]} of {self.shape.num_heads}")
            if block.kept_units is not None and block.kept_units[-1] >= self.unit_groups:
                raise ValueError(f"block {index} keeps unit group {block.kept_units[-1]} of {self.unit_groups}")
            before = block.num_tokens
        return self

    @property
    def label(self) -> str:
        """Return a name that is fit for a file: the budgets', or ``dense`` where there are none."""
        return joint_label(self.budgets) or "dense"

    @property
    def sites(self) -> dict[int, int]:
        """Map each block before which tokens are dropped to the tokens it keeps, prefix included."""
        found, before = {}, self.shape.num_tokens
        for index, block in enumerate(self.blocks):
            if block.num_tokens < before:
                found[index] = block.num_tokens
            before = block.num_tokens
        return found

    @property
    def is_dense(self) -> bool:
        """Whether nothing is removed."""
        all_heads = all(len(block.kept_heads) == self.shape.num_heads for block in self.blocks)
        all_units = all(block.kept_units in (None, tuple(range(self.unit_groups))) for block in self.blocks)
        return not self.sites and all_heads and all_units

    @property
    def macs_fraction(self) -> float:
        """MACs as a fraction of the dense model's."""
        return self.macs / self.dense_macs

    @property
    def params_fraction(self) -> float | None:
        """Weights as a fraction of the dense model's; None where they were not counted."""
        return self.params / self.dense_params if self.params and self.dense_params else None
