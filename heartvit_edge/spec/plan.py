"""The pruning plan: what each block keeps."""

from __future__ import annotations

from typing import ClassVar

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator, model_validator
from typing_extensions import Self

from heartvit_edge.spec.base import Artefact, Spec
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.model import ModelShape, ModelSource


class BlockPlan(Spec):
    """What one transformer block keeps.

    Attributes:
        kept_heads: Indices into the dense block's heads, ascending, at least one.
        num_tokens: Tokens entering the block's attention, prefix tokens included.
    """

    kept_heads: tuple[NonNegativeInt, ...]
    num_tokens: PositiveInt

    @field_validator("kept_heads")
    @classmethod
    def _ascending(cls, heads: tuple[int, ...]) -> tuple[int, ...]:
        if not heads or list(heads) != sorted(set(heads)):
            raise ValueError(f"kept_heads must be ascending and not empty, found {heads}")
        return heads


class PruningPlan(Artefact):
    """A plan for every block of one model under one budget.

    Tokens never grow from block to block. A block that has fewer tokens than the one before is a *site*: the
    tokens are dropped before it.

    Attributes:
        source: The dense model.
        shape: Its dimensions.
        budgets: What the plan satisfies; empty for the dense plan.
        blocks: One entry a block.
        predicted_loss_nats: Predicted mean KL(dense || pruned) per image, in nats, where the scores themselves choose
            the tokens; None where the scorer only ranks.
        macs: Multiply-accumulates of one image's forward, gates included.
        dense_macs: The same for the dense model.
        scorer: Name of the scorer whose scores were used; None for the dense plan.
        sensitivity_sha256: Digest of the sensitivity map; None for the dense plan.
        prune_heads: Whether heads were allowed to go.
    """

    schema_name: ClassVar[str] = "pruning-plan"

    source: ModelSource
    shape: ModelShape
    budgets: tuple[Budget, ...]
    blocks: tuple[BlockPlan, ...]
    predicted_loss_nats: NonNegativeFloat | None
    macs: PositiveInt
    dense_macs: PositiveInt
    scorer: str | None
    sensitivity_sha256: str | None
    prune_heads: bool = True

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
            before = block.num_tokens
        return self

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
        return not self.sites and all_heads

    @property
    def macs_fraction(self) -> float:
        """MACs as a fraction of the dense model's."""
        return self.macs / self.dense_macs
