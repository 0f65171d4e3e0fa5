"""What a solver chooses from: losses and costs by the tokens, heads and MLP units that stay."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.spec.budget import Quantity

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Resource:
    """A cost that adds up over the blocks.

    Attributes:
        quantity: What is counted.
        fixed: What no plan moves, in the units of ``limit``.
        attention: Cost of one block's attention, or of the whole block where it cannot be told apart, by tokens and by
            heads removed, shape (candidates, head columns).
        mlp: Cost of one block's MLP by tokens and by unit groups removed, shape (candidates, unit columns).
        limit: Most that is allowed; infinity where there is no limit.
    """

    quantity: Quantity
    fixed: float
    attention: Table
    mlp: Table
    limit: float = np.inf


@dataclass(frozen=True)
class Problem:
    """What may be chosen, and what each choice is predicted to lose.

    The predicted loss is the sum of one entry of ``token_loss`` a site and one of ``head_loss`` and ``unit_loss`` a
    block; an infinite entry is a choice that is not allowed.

    Attributes:
        depth: Blocks.
        sites: Blocks before which tokens may be dropped, ascending, each at least 1; may be empty.
        candidates: Numbers of tokens, prefix included, ascending; the last is all tokens.
        token_loss: Shape (sites, candidates); terms as ``predict.site_terms`` gives them.
        head_loss: Shape (depth, columns): column h is h heads removed, at most num_heads columns, for one stays.
        unit_loss: Shape (depth, columns): column u is u unit groups removed; one column where units stay.
        resources: Costs, each with its limit.
        max_loss: Largest predicted loss allowed, in the units of the losses.
        minimise: Position of the resource to minimise; None: the loss.
        max_sites: Most sites at which tokens are dropped; None: any.
    """

    depth: int
    sites: tuple[int, ...]
    candidates: tuple[int, ...]
    token_loss: Table
    head_loss: Table
    unit_loss: Table
    resources: tuple[Resource, ...]
    max_loss: float = np.inf
    minimise: int | None = None
    max_sites: int | None = None

    @cached_property
    def segments(self) -> tuple[int, ...]:
        """For each block the position of the last site at or before it, -1 where there is none."""
        return tuple(sum(site <= block for site in self.sites) - 1 for block in range(self.depth))

    def candidate_of(self, num_keep: tuple[int, ...]) -> tuple[int, ...]:
        """Return for each block the position of its number of tokens among the candidates."""
        last = len(self.candidates) - 1
        return tuple(last if s < 0 else self.candidates.index(num_keep[s]) for s in self.segments)

    def cost(self, resource: Resource, chosen: Choice) -> float:
        """Return a choice's cost, exactly where the tables hold whole numbers below 2^53."""
        return resource.fixed + sum(
            float(resource.attention[k, h] + resource.mlp[k, u])
            for k, h, u in zip(
                self.candidate_of(chosen.num_keep), chosen.heads_removed, chosen.units_removed, strict=True
            )
        )

    def loss(self, chosen: Choice) -> float:
        """Return a choice's predicted loss."""
        at = [self.candidates.index(count) for count in chosen.num_keep]
        return float(
            sum(self.token_loss[s, k] for s, k in enumerate(at))
            + sum(self.head_loss[b, h] for b, h in enumerate(chosen.heads_removed))
            + sum(self.unit_loss[b, u] for b, u in enumerate(chosen.units_removed))
        )


@dataclass(frozen=True)
class Choice:
    """One plan of a problem.

    Attributes:
        num_keep: Tokens kept at each site, prefix included; not growing.
        heads_removed: Heads removed from each block.
        units_removed: Unit groups removed from each block.
    """

    num_keep: tuple[int, ...]
    heads_removed: tuple[int, ...]
    units_removed: tuple[int, ...]
