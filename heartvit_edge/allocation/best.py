"""The plan of least predicted loss, or of least cost, within budgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from heartvit_edge.allocation.cost import dense_macs, dense_params
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.losses import Losses
from heartvit_edge.allocation.problem import Choice, Problem
from heartvit_edge.allocation.solve import solve
from heartvit_edge.errors import InfeasibleError
from heartvit_edge.spec.budget import SHARES, Budget, Quantity
from heartvit_edge.spec.plan import BlockPlan

Budgets = Sequence[Budget]

PRICE_STEP = 0.05
"""Share of the dense MACs over which the price of one more percent is averaged."""


@dataclass(frozen=True)
class Best:
    """An optimum.

    Attributes:
        blocks: What each block keeps.
        loss: Predicted loss, in the units of the losses.
    """

    blocks: tuple[BlockPlan, ...]
    loss: float


def find_best(losses: Losses, cost: CostModel, budgets: Budgets, *, max_sites: int | None = None) -> Best:
    """Return the best plan: of least cost where the loss is limited, else of least predicted loss.

    Args:
        losses: What may go, and what that loses.
        cost: What plans cost.
        budgets: Limits that hold together, one a quantity.
        max_sites: Most sites at which tokens go; None: any.

    Raises:
        InputError: If a budget needs a device table that is not there.
        InfeasibleError: If no plan meets the budgets; the message says the least that is reachable.
    """
    problem = make_problem(losses, cost, budgets, max_sites)
    chosen = solve(problem)
    if chosen is None:
        raise _infeasible(problem, losses, cost, budgets)
    return Best(losses.blocks(chosen), problem.loss(chosen))


def make_problem(
    losses: Losses, cost: CostModel, budgets: Budgets, max_sites: int | None = None, *, spent: float = 0.0
) -> Problem:
    """Return the solver's view of losses, costs and budgets, where ``spent`` of a loss budget is used up already."""
    columns = (losses.candidates, losses.heads.shape[1], losses.units.shape[1])
    limits = {budget.quantity: cost.limit(budget) for budget in budgets}
    max_loss = limits.pop("loss-nats", np.inf)
    minimised: Quantity | None = None
    if max_loss < np.inf:
        minimised = cheapest_by(cost)
        limits.setdefault(minimised, np.inf)
    return Problem(
        depth=losses.shape.depth,
        sites=losses.sites,
        candidates=losses.candidates,
        token_loss=losses.tokens,
        head_loss=losses.heads,
        unit_loss=losses.units,
        resources=tuple(cost.resource(quantity, *columns, limit) for quantity, limit in limits.items()),
        max_loss=max_loss - spent,
        minimise=None if minimised is None else list(limits).index(minimised),
        max_sites=max_sites,
    )


def cheapest_by(cost: CostModel) -> Quantity:
    """Return what is minimised where the loss is limited: latency where a device table knows it, else MACs."""
    return "macs" if cost.table is None else "latency-ms"


def explain(problem: Problem, cost: CostModel, macs: float) -> tuple[tuple[Quantity, ...], float | None]:
    """Return which budgets bind, and the predicted loss saved by one more percent of the dense MACs.

    A budget binds where a better plan would be found without it. The price is the mean over what the best plan with
    ``PRICE_STEP`` more really adds, for one percent alone is often less than the least step of a plan; None where
    nothing can be added.

    Args:
        problem: What was solved.
        cost: What plans cost.
        macs: MACs of the solution.
    """

    def goal(choice: Choice) -> float:
        if problem.minimise is None:
            return problem.loss(choice)
        return problem.cost(problem.resources[problem.minimise], choice)

    best = solve(problem)
    if best is None:
        return (), None
    binding: list[Quantity] = []
    for limited in [found.quantity for found in problem.resources if found.limit < np.inf]:
        free = tuple(replace(r, limit=np.inf) if r.quantity == limited else r for r in problem.resources)
        if _better(goal, solve(replace(problem, resources=free)), best):
            binding.append(limited)
    if problem.max_loss < np.inf and _better(goal, solve(replace(problem, max_loss=np.inf)), best):
        binding.append("loss-nats")
    dense = dense_macs(cost.shape)
    columns = (problem.candidates, problem.head_loss.shape[1], problem.unit_loss.shape[1])
    ends = []
    for limit in (macs, min(macs + PRICE_STEP * dense, dense)):
        by_macs = cost.resource("macs", *columns, limit)
        found = solve(replace(problem, resources=(by_macs,), minimise=None, max_loss=np.inf))
        if found is None:
            return tuple(binding), None
        ends.append((problem.loss(found), problem.cost(by_macs, found)))
    (lossy, less), (mild, more) = ends
    percent = 100 * (more - less) / dense
    return tuple(binding), max(lossy - mild, 0.0) / percent if percent > 0 else None


def _better(goal: Callable[[Choice], float], other: Choice | None, best: Choice) -> bool:
    return other is not None and goal(other) < goal(best) - 1e-6 * abs(goal(best))


def _infeasible(problem: Problem, losses: Losses, cost: CostModel, budgets: Budgets) -> InfeasibleError:
    """Return the error that says the least that is reachable, and what limits it."""
    free = tuple(replace(resource, limit=np.inf) for resource in problem.resources)
    offer = _offer(losses)
    for budget in budgets:
        if budget.quantity == "loss-nats":
            continue
        at = next(i for i, resource in enumerate(free) if resource.quantity == budget.quantity)
        smallest = solve(replace(problem, resources=free, max_loss=np.inf, minimise=at))
        if smallest is None:
            continue
        least = problem.cost(free[at], smallest)
        if least > cost.limit(budget):
            return _too_small(budget, least, losses, offer, budgets, problem)
    limits = {budget.quantity: f"{budget.quantity}={budget.limit}" for budget in budgets}
    mildest = solve(replace(problem, max_loss=np.inf, minimise=None))
    if mildest is None or "loss-nats" not in limits:
        return InfeasibleError(f"no plan meets {', '.join(limits.values())}: {offer}", hint="allow more of one of them")
    least, allowed = problem.loss(mildest), limits.pop("loss-nats").split("=")[1]
    within = f" within {', '.join(limits.values())}" if limits else ""
    hint = f"--budget {','.join([*limits.values(), f'loss-nats={_ceil(least):g}'])}"
    return InfeasibleError(
        f"no plan{within} loses at most {allowed} nats: {offer}, {least:.4g} is the least",
        hint=f"allow more loss, {hint}, or a larger cost" if limits else hint,
    )


def _too_small(
    budget: Budget, least: float, losses: Losses, offer: str, budgets: Budgets, problem: Problem
) -> InfeasibleError:
    shape, unit = losses.shape, budget.quantity
    if unit in SHARES:
        dense = dense_macs(shape) if unit == "macs" else dense_params(shape)
        least /= dense
        limit = f"at most {budget.limit:g} of the dense {'MACs' if unit == 'macs' else 'weights'}"
    else:
        limit = f"at most {budget.limit:g} {unit.replace('-', ' in ')}"
    wanted = [f"{b.quantity}={_ceil(least) if b is budget else b.limit:g}" for b in budgets]
    hint = f"--budget {','.join(wanted)}"
    if unit != "params" and losses.sites and losses.sites[0] > 1:
        sites = ",".join(map(str, (1, *losses.sites[1:])))
        hint += f", or an earlier first site, which must be scored: --sites {sites}"
    if problem.max_sites is not None and unit != "params":
        hint += f", or more sites than --max-sites {problem.max_sites}"
    return InfeasibleError(f"no plan has {limit}: {offer}, {least:.4g} is the least", hint=hint)


def _offer(losses: Losses) -> str:
    """Return what may go, in words."""
    shape = losses.shape
    fewest = (
        losses.candidates[int(np.isfinite(losses.tokens).any(axis=0).argmax())] if losses.sites else shape.num_tokens
    )
    heads = shape.num_heads - int(np.isfinite(losses.heads).nonzero()[1].max())
    sites = f"sites {', '.join(map(str, losses.sites))}" if losses.sites else "no site"
    return f"with {sites}, at least {fewest} tokens and {heads} of {shape.num_heads} heads a block"


def _ceil(value: float) -> float:
    """Return a number of three digits that is not below the value."""
    digits = 10.0 ** (2 - math.floor(math.log10(value))) if value > 0 else 1.0
    return math.ceil(value * digits) / digits
