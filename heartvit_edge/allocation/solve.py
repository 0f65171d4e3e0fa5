"""The plan of least predicted loss under a MAC budget, exactly, as a mixed-integer linear programme."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.allocation.cost import block_macs, dense_macs, fixed_macs
from heartvit_edge.allocation.predict import Curve
from heartvit_edge.errors import InfeasibleError
from heartvit_edge.spec.model import ModelShape

_TOLERANCE = 2e-6
"""Twice the share of the blocks' dense MACs by which HiGHS may miss the budget."""
_LARGEST_LOSS = 1e3
"""What the largest loss is scaled to."""
_INFEASIBLE = 2
"""The status of scipy's ``milp`` where no plan meets the constraints."""


@dataclass(frozen=True)
class Problem:
    """What may be chosen, and what each choice is predicted to lose.

    Attributes:
        shape: The dense model.
        sites: Blocks before which tokens may be dropped, ascending, each at least 1.
        candidates: Numbers of tokens that a site may keep, prefix included, ascending; the last is all tokens.
        token_loss: For each site, loss by candidate, shape (sites, candidates); terms as ``predict.site_terms`` gives.
        head_loss: For each block, loss by number of heads removed, shape (depth, columns): column h is h heads
            removed, so one column removes none; at most num_heads columns, for one head always stays.
        max_macs: Budget.
    """

    shape: ModelShape
    sites: tuple[int, ...]
    candidates: tuple[int, ...]
    token_loss: NDArray[np.float64]
    head_loss: NDArray[np.float64]
    max_macs: int


@dataclass(frozen=True)
class Solution:
    """The optimum.

    Attributes:
        num_keep: Tokens kept at each site, prefix included.
        heads_removed: Heads removed from each block.
        loss: Predicted loss, in units of the problem's losses.
    """

    num_keep: tuple[int, ...]
    heads_removed: tuple[int, ...]
    loss: float


def candidate_tokens(shape: ModelShape, step: int = 8, least: int = 1) -> tuple[int, ...]:
    """Return the numbers of tokens a site may keep: multiples of ``step``, prefix included, and all tokens.

    Tensor cores work on tiles of eight, so latency is a staircase in the token count.

    Args:
        shape: The dense model.
        step: Distance of candidates; where the image has too few tokens for four of them it is halved.
        least: Fewest patch tokens to keep.
    """
    while step > 1 and shape.num_tokens // step < 4:
        step //= 2
    floor = shape.num_prefix_tokens + least
    return (*(count for count in range(step, shape.num_tokens, step) if count >= floor), shape.num_tokens)


def losses_at(curve: Curve, shape: ModelShape, candidates: tuple[int, ...]) -> NDArray[np.float64]:
    """Read a site's curve over dropped tokens at the candidates, shape (candidates,)."""
    return curve[[shape.num_tokens - count for count in candidates]]


def solve(problem: Problem) -> Solution:
    """Return the plan of least predicted loss.

    HiGHS keeps the budget to about a millionth of the blocks' dense MACs, so its answer is counted again in whole MACs;
    where that is over the budget, the best plan under a limit that is lower by two millionths is taken.

    Raises:
        InfeasibleError: If even the smallest plan exceeds the budget; the message says the least that is reachable.
    """
    smallest = Solution(
        num_keep=(problem.candidates[0],) * len(problem.sites),
        heads_removed=(problem.head_loss.shape[1] - 1,) * problem.shape.depth,
        loss=float(problem.token_loss[:, 0].sum() + problem.head_loss[:, -1].sum()),
    )
    if _macs(problem, smallest) > problem.max_macs:
        raise _infeasible(problem, _macs(problem, smallest))
    shape, margin = problem.shape, 0
    while (found := _optimum(problem, problem.max_macs - margin)) is not None:
        if _macs(problem, found) <= problem.max_macs:
            return found
        margin = 2 * margin or math.ceil(_TOLERANCE * (dense_macs(shape) - fixed_macs(shape)))
    return smallest  # no other is below the lowered limit


def _macs(problem: Problem, chosen: Solution) -> int:
    """Return the MACs of a plan."""
    shape = problem.shape
    tokens = (shape.num_tokens, *chosen.num_keep)
    return fixed_macs(shape) + sum(
        block_macs(shape, tokens[sum(site <= block for site in problem.sites)], shape.num_heads - removed)
        for block, removed in enumerate(chosen.heads_removed)
    )


def _infeasible(problem: Problem, least: int) -> InfeasibleError:
    """Return the error that says the least that is reachable, and what limits it."""
    shape, sites = problem.shape, problem.sites
    dense = dense_macs(shape)
    hint = f"--budget {math.ceil(1000 * least / dense) / 1000:g}"
    if sites[0] > 1:
        hint += f", or score again with an earlier first site: --sites {','.join(map(str, (1, *sites[1:])))}"
    return InfeasibleError(
        f"no plan has {problem.max_macs / dense:.4f} of the dense MACs: with sites {', '.join(map(str, sites))}, "
        f"at least {problem.candidates[0]} tokens and {shape.num_heads - problem.head_loss.shape[1] + 1} of "
        f"{shape.num_heads} heads a block, {least / dense:.4f} is the least",
        hint=hint,
    )


def _optimum(problem: Problem, max_macs: int) -> Solution | None:
    """Return the plan of least predicted loss, with at most about ``max_macs``; None where there is none.

    One binary a (site, candidate) chooses tokens and one a (block, heads removed) chooses heads; their product, which
    the MACs of a block need, is a continuous variable that the constraints hold at the product's value. Tokens never
    grow from site to site.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    shape, sites, candidates = problem.shape, problem.sites, problem.candidates
    heads = problem.head_loss.shape[1]
    tokens_at = len(sites) * len(candidates)
    heads_at = shape.depth * heads
    index = _Index(len(sites), len(candidates), shape.depth, heads)
    objective = np.zeros(index.total)
    objective[:tokens_at] = problem.token_loss.ravel()
    objective[tokens_at : tokens_at + heads_at] = problem.head_loss.ravel()
    rows: list[tuple[dict[int, float], float, float]] = []
    for s in range(len(sites)):
        rows.append(({index.token(s, k): 1.0 for k in range(len(candidates))}, 1, 1))
        if s:
            here = {index.token(s, k): float(c) for k, c in enumerate(candidates)}
            before = {index.token(s - 1, k): -float(c) for k, c in enumerate(candidates)}
            rows.append((here | before, -np.inf, 0))
    macs: dict[int, float] = {}
    base = fixed_macs(shape)
    scale = float(dense_macs(shape) - base)
    for block in range(shape.depth):
        rows.append(({index.head(block, h): 1.0 for h in range(heads)}, 1, 1))
        segment = sum(site <= block for site in sites) - 1
        if segment < 0:
            for h in range(heads):
                macs[index.head(block, h)] = block_macs(shape, shape.num_tokens, shape.num_heads - h) / scale
            continue
        for h in range(heads):
            of_head = {index.both(block, k, h): 1.0 for k in range(len(candidates))}
            rows.append((of_head | {index.head(block, h): -1.0}, 0, 0))
        for k, count in enumerate(candidates):
            of_count = {index.both(block, k, h): 1.0 for h in range(heads)}
            rows.append((of_count | {index.token(segment, k): -1.0}, 0, 0))
            for h in range(heads):
                macs[index.both(block, k, h)] = block_macs(shape, count, shape.num_heads - h) / scale
    rows.append((macs, -np.inf, (max_macs - base) / scale))
    matrix = csr_array(
        (
            [value for row, _, _ in rows for value in row.values()],
            (
                [at for at, (row, _, _) in enumerate(rows) for _ in row],
                [column for row, _, _ in rows for column in row],
            ),
        ),
        shape=(len(rows), index.total),
    )
    largest = np.abs(objective).max()
    result = milp(
        # HiGHS stops within 1e-6 of the optimum in absolute terms too, which must be little whatever the losses' unit.
        objective * (_LARGEST_LOSS / largest if largest else 1.0),
        constraints=LinearConstraint(matrix, [low for _, low, _ in rows], [high for _, _, high in rows]),
        integrality=(np.arange(index.total) < tokens_at + heads_at).astype(np.int64),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-6},
    )
    if result.status == _INFEASIBLE:
        return None
    if result.x is None:
        raise RuntimeError(f"HiGHS found no plan where one exists: {result.message}")
    chosen = result.x > 0.5
    token_choice = chosen[:tokens_at].reshape(len(sites), len(candidates)).argmax(axis=1)
    head_choice = chosen[tokens_at : tokens_at + heads_at].reshape(shape.depth, heads).argmax(axis=1)
    return Solution(
        num_keep=tuple(candidates[k] for k in token_choice),
        heads_removed=tuple(int(h) for h in head_choice),
        loss=float(objective[chosen].sum()),
    )


@dataclass(frozen=True)
class _Index:
    """Columns of the programme: token choices, head choices, then their products."""

    sites: int
    candidates: int
    depth: int
    heads: int

    @property
    def total(self) -> int:
        return self.sites * self.candidates + self.depth * self.heads + self.depth * self.candidates * self.heads

    def token(self, site: int, candidate: int) -> int:
        return site * self.candidates + candidate

    def head(self, block: int, removed: int) -> int:
        return self.sites * self.candidates + block * self.heads + removed

    def both(self, block: int, candidate: int, removed: int) -> int:
        products = self.sites * self.candidates + self.depth * self.heads
        return products + (block * self.candidates + candidate) * self.heads + removed
