"""The best choice of a problem, exactly, as a mixed-integer linear programme."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from heartvit_edge.allocation.problem import Choice, Problem, Resource

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_SLACK = 1e-13
"""Share by which a cost or loss may pass its limit: rounding of sums of fractions, never a whole MAC."""
_TOLERANCE = 2e-6
"""Twice what HiGHS may miss a scaled limit by."""
_LARGEST = 1e3
"""What the largest coefficient of the objective is scaled to, since HiGHS stops within an absolute gap too."""
_INFEASIBLE = 2
"""The status of scipy's ``milp`` where nothing meets the constraints."""


def solve(problem: Problem) -> Choice | None:
    """Return the choice of least loss, or of least cost, within every limit; None where there is none.

    Of choices that cost the same, such as a head of one block or of the next, it is one of least loss.
    """
    found = _within_limits(problem)
    if found is None or problem.minimise is None:
        return found
    resources = list(problem.resources)
    target = resources[problem.minimise]
    resources[problem.minimise] = replace(target, limit=problem.cost(target, found))
    return _within_limits(replace(problem, resources=tuple(resources), minimise=None)) or found


def _within_limits(problem: Problem) -> Choice | None:
    """Return the best choice within every limit; None where there is none.

    HiGHS keeps limits to about a millionth of their scale, so its answer is counted again; where that passes a limit,
    the limit is lowered by two millionths and the programme solved again.
    """
    tightened = problem
    margin = _TOLERANCE
    while (found := _optimum(tightened)) is not None:
        over = [problem.cost(resource, found) > resource.limit * (1 + _SLACK) for resource in problem.resources]
        too_lossy = problem.loss(found) > problem.max_loss + _SLACK * abs(problem.max_loss)
        if not any(over) and not too_lossy:
            return found
        tightened = replace(
            tightened,
            resources=tuple(
                replace(resource, limit=resource.limit - margin * _cost_scale(resource)) if passed else resource
                for resource, passed in zip(tightened.resources, over, strict=True)
            ),
            max_loss=tightened.max_loss - margin * _loss_scale(tightened) if too_lossy else tightened.max_loss,
        )
        margin *= 2
    return None


def _cost_scale(resource: Resource) -> float:
    """Return what a limited cost is divided by: the most that blocks may cost, or the largest entry."""
    entries = max(np.abs(table).max() for table in (resource.attention, resource.mlp))
    return max(abs(resource.limit - resource.fixed), float(entries), 1e-300)


def _loss_scale(problem: Problem) -> float:
    """Return what a limited loss is divided by: the limit, or a thousandth of the largest entry that is allowed."""
    tables = (problem.token_loss, problem.head_loss, problem.unit_loss)
    largest = max(np.abs(table[np.isfinite(table)]).max(initial=0.0) for table in tables)
    return max(abs(problem.max_loss), 1e-3 * float(largest), 1e-300)


def _optimum(problem: Problem) -> Choice | None:
    """Return the best choice, with limits kept to about a millionth; None where there is none.

    One binary a (site, candidate) chooses tokens, one a (block, heads removed) heads, one a (block, groups removed)
    units. The products that a block's cost needs are continuous variables which the constraints hold at the product's
    value. That tokens never grow is said cumulatively - at most c tokens at a site implies at most c at the next - so
    that the relaxation stays tight.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    index = _Index(problem)
    losses = index.losses()
    allowed = np.isfinite(losses)
    losses = np.where(allowed, losses, 0.0)
    rows = _Rows()
    _add_choices(rows, index)
    for resource in problem.resources:
        if resource.limit < np.inf:
            at, values = index.costs(resource.attention, resource.mlp)
            scale = _cost_scale(resource)
            rows.add(at, values / scale, -np.inf, (resource.limit - resource.fixed) / scale)
    if problem.max_loss < np.inf:
        scale = _loss_scale(problem)
        at = np.flatnonzero(losses)
        rows.add(at, losses[at] / scale, -np.inf, problem.max_loss / scale)
    objective = losses
    if problem.minimise is not None:
        target = problem.resources[problem.minimise]
        at, values = index.costs(target.attention, target.mlp)
        objective = np.zeros(index.total)
        np.add.at(objective, at, values)
    largest = np.abs(objective).max()
    with _stdout_to_stderr():
        result = milp(
            objective * (_LARGEST / largest if largest else 1.0),
            constraints=LinearConstraint(rows.matrix(index.total), rows.low, rows.high),
            integrality=index.integrality(),
            bounds=Bounds(0, allowed.astype(np.float64)),
            options={"mip_rel_gap": 1e-6},
        )
    if result.status == _INFEASIBLE:
        return None
    if result.x is None:
        raise RuntimeError(f"HiGHS ended without a plan: {result.message}")
    return index.choice(result.x)


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send the process's standard output elsewhere: HiGHS prints traces of its own there, whatever it is told."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@dataclass
class _Rows:
    """Constraints, row by row."""

    columns: list[np.ndarray] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def add(self, columns: np.ndarray, values: np.ndarray, low: float, high: float) -> None:
        self.columns.append(columns)
        self.values.append(values)
        self.low.append(low)
        self.high.append(high)

    def matrix(self, width: int) -> csr_array:
        from scipy.sparse import csr_array

        at = np.repeat(np.arange(len(self.columns)), [len(row) for row in self.columns])
        return csr_array(
            (np.concatenate(self.values), (at, np.concatenate(self.columns))), shape=(len(self.columns), width)
        )


def _add_choices(rows: _Rows, index: _Index) -> None:
    """Say that each site, block and MLP makes one choice, that tokens never grow, and what the products are."""
    problem = index.problem
    count = len(problem.candidates)
    ones = np.ones

    for s in range(len(problem.sites)):
        rows.add(index.tokens[s], ones(count), 1, 1)
        if s:
            for k in range(count - 1):
                both = np.concatenate([index.tokens[s - 1, : k + 1], index.tokens[s, : k + 1]])
                signs = np.concatenate([ones(k + 1), -ones(k + 1)])
                rows.add(both, signs, -np.inf, 0)
    if problem.max_sites is not None:
        for s in range(len(problem.sites)):
            for k in range(count - 1):
                here = index.tokens[s, : k + 1]
                before = index.tokens[s - 1, : k + 1] if s else here[:0]
                at = np.concatenate([here, before, index.active[s : s + 1]])
                rows.add(at, np.concatenate([ones(len(here)), -ones(len(before) + 1)]), -np.inf, 0)
        rows.add(index.active, ones(len(index.active)), 0, problem.max_sites)
    for single, product in ((index.heads, index.token_heads), (index.units, index.token_units)):
        for b, segment in enumerate(problem.segments):
            rows.add(single[b], ones(single.shape[1]), 1, 1)
            if segment < 0:
                continue
            for h in range(single.shape[1]):
                rows.add(np.append(product[b, :, h], single[b, h]), np.append(ones(count), -1), 0, 0)
            for k in range(count):
                at = np.append(product[b, k], index.tokens[segment, k])
                rows.add(at, np.append(ones(single.shape[1]), -1), 0, 0)


class _Index:
    """Columns of the programme: token, head and unit choices, dropping sites, then the products.

    Attributes:
        problem: What is chosen from.
        tokens: Shape (sites, candidates).
        heads: Shape (depth, head columns).
        units: Shape (depth, unit columns).
        active: Shape (sites,); empty where any number of sites may drop.
        token_heads: Shape (depth, candidates, head columns).
        token_units: Shape (depth, candidates, unit columns).
        total: Number of columns.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.total = 0
        sites, candidates = len(problem.sites), len(problem.candidates)
        depth, heads, units = problem.depth, problem.head_loss.shape[1], problem.unit_loss.shape[1]
        self.tokens = self._columns(sites, candidates)
        self.heads = self._columns(depth, heads)
        self.units = self._columns(depth, units)
        self._num_binary = self.total
        self.active = self._columns(0 if problem.max_sites is None else sites)
        self.token_heads = self._columns(depth, candidates, heads)
        self.token_units = self._columns(depth, candidates, units)

    def _columns(self, *shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        self.total += count
        return np.arange(self.total - count, self.total).reshape(shape)

    def integrality(self) -> np.ndarray:
        return (np.arange(self.total) < self._num_binary).astype(np.int64)

    def losses(self) -> np.ndarray:
        found = np.zeros(self.total)
        found[self.tokens] = self.problem.token_loss
        found[self.heads] = self.problem.head_loss
        found[self.units] = self.problem.unit_loss
        return found

    def costs(self, attention: np.ndarray, mlp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return columns and coefficients of the sum over blocks of a cost by tokens and heads, and by units."""
        at, values = [], []
        for table, single, product in (
            (attention, self.heads, self.token_heads),
            (mlp, self.units, self.token_units),
        ):
            for b, segment in enumerate(self.problem.segments):
                at.append(single[b] if segment < 0 else product[b].ravel())
                values.append(table[-1] if segment < 0 else table.ravel())
        return np.concatenate(at), np.concatenate(values)

    def choice(self, x: np.ndarray) -> Choice:
        return Choice(
            num_keep=tuple(self.problem.candidates[k] for k in x[self.tokens].argmax(axis=1)),
            heads_removed=tuple(int(h) for h in x[self.heads].argmax(axis=1)),
            units_removed=tuple(int(u) for u in x[self.units].argmax(axis=1)),
        )
