"""From scores and budgets to pruning plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heartvit_edge.allocation.best import Best, Budgets, explain, find_best, make_problem
from heartvit_edge.allocation.cost import dense_macs, dense_params, plan_macs, plan_params
from heartvit_edge.allocation.device_cost import staircase
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.losses import Losses, dense_losses
from heartvit_edge.allocation.predict import corrected_curves, loss_stderr, site_terms
from heartvit_edge.allocation.symmetric import find_symmetric
from heartvit_edge.errors import InputError
from heartvit_edge.sensitivity.table import ScoreTable
from heartvit_edge.spec.budget import Quantity
from heartvit_edge.spec.device_table import DeviceTable
from heartvit_edge.spec.model import ModelShape, ModelSource
from heartvit_edge.spec.plan import BlockPlan, PruningPlan
from heartvit_edge.spec.sensitivity import SensitivityMap


@dataclass(frozen=True)
class PlanOptions:
    """What a plan may look like.

    Attributes:
        prune_heads: Whether heads may go, where the scorer scores them.
        symmetric: Whether every site keeps the same share of the tokens left and every block as many heads.
        sites: Blocks before which tokens may go; empty: for a symmetric plan a quarter, half and three quarters of the
            depth where they are scored, else every scored one.
        max_sites: Most sites at which tokens go; None: any.
        table: What blocks cost on a device; None: latency and energy are not known.
        within: A larger plan of which this one keeps a part; None: anything may be kept.
    """

    prune_heads: bool = True
    symmetric: bool = False
    sites: tuple[int, ...] = ()
    max_sites: int | None = None
    table: DeviceTable | None = None
    within: PruningPlan | None = None


ANYTHING = PlanOptions()


def dense_plan(source: ModelSource, shape: ModelShape) -> PruningPlan:
    """Return the plan that removes nothing."""
    macs, params = dense_macs(shape), dense_params(shape)
    return PruningPlan(
        source=source,
        shape=shape,
        budgets=(),
        blocks=dense_blocks(shape),
        predicted_loss_nats=0.0,
        macs=macs,
        dense_macs=macs,
        params=params,
        dense_params=params,
        scorer=None,
        sensitivity_sha256=None,
    )


def dense_blocks(shape: ModelShape) -> tuple[BlockPlan, ...]:
    """Return what each block keeps where nothing is removed."""
    return (BlockPlan(kept_heads=tuple(range(shape.num_heads)), num_tokens=shape.num_tokens),) * shape.depth


def make_plan(table: ScoreTable, budgets: Budgets, options: PlanOptions = ANYTHING) -> PruningPlan:
    """Return the best plan within the budgets, as far as scores at the dense model can tell.

    That is the plan of least predicted loss or, where the loss is limited, of least cost.

    Args:
        table: Scores of the model.
        budgets: Limits that hold together, one a quantity.
        options: What the plan may look like.

    Raises:
        InputError: If the scorer scores no tokens, a site is not scored, or a budget needs what is not there: losses in
            nats, or a device table.
        InfeasibleError: If no plan meets the budgets.
    """
    info = table.info
    check_budgets(info, budgets)
    cost = CostModel(info.shape, info.settings.unit_groups, options.table)
    if meets_dense(cost, budgets, options):
        return finish(info, Best(dense_blocks(info.shape), 0.0), cost, budgets, options)
    losses = starting_losses(table, options)
    if options.symmetric:
        curves = corrected_curves(table)
        terms = site_terms({site: curves[site] for site in losses.sites})
        best = find_symmetric(losses, terms, cost, budgets, within=options.within)
        return finish(info, best, cost, budgets, options, stderr=loss_stderr(table, best.blocks))
    best = find_best(losses, cost, budgets, max_sites=options.max_sites)
    problem = make_problem(losses, cost, budgets, options.max_sites)
    binding, price = explain(problem, cost, cost.cost("macs", best.blocks))
    stderr = loss_stderr(table, best.blocks)
    return finish(info, best, cost, budgets, options, stderr=stderr, binding=binding, price=price)


def check_budgets(info: SensitivityMap, budgets: Budgets) -> None:
    """Return only if the scores can serve the budgets.

    Raises:
        InputError: If the scorer scores no tokens, or a loss is limited and it does not score in nats.
    """
    scorer = info.settings.scorer
    if scorer == "magnitude":
        raise InputError(
            f"scorer {scorer} scores no tokens, which a plan needs", hint="score with --scorer removal-gate"
        )
    if not info.in_nats and any(budget.quantity == "loss-nats" for budget in budgets):
        raise InputError(
            f"scorer {scorer} only ranks, and a loss budget needs losses in nats",
            hint="score with --scorer removal-gate",
        )


def meets_dense(cost: CostModel, budgets: Budgets, options: PlanOptions) -> bool:
    """Return whether nothing need go: the dense model may be kept, meets every budget, and none is on the loss."""
    return (options.within is None or options.within.is_dense) and all(
        budget.quantity != "loss-nats" and cost.cost(budget.quantity, dense_blocks(cost.shape)) <= cost.limit(budget)
        for budget in budgets
    )


def starting_losses(table: ScoreTable, options: PlanOptions) -> Losses:
    """Return what may go under the options, and what the scores at the dense model say that it loses.

    Raises:
        InputError: If a site is not scored.
    """
    shape = table.info.shape
    return dense_losses(
        table,
        staircase(options.table, shape.num_heads) if options.table else shape.token_counts(),
        sites=_chosen_sites(table, options),
        prune_heads=options.prune_heads,
        within=options.within,
    )


def _chosen_sites(table: ScoreTable, options: PlanOptions) -> tuple[int, ...]:
    scored = sorted(table.tokens)
    missing = sorted(set(options.sites) - set(scored))
    if missing:
        raise InputError(
            f"site {missing[0]} is not scored, only {', '.join(map(str, scored))}",
            hint=f"choose among those, or score again with --sites {','.join(map(str, sorted({*scored, *missing})))}",
        )
    if options.sites:
        return tuple(sorted(set(options.sites)))
    quarters = table.info.shape.quarter_blocks
    return quarters if options.symmetric and set(quarters) <= set(scored) else tuple(scored)


def finish(
    info: SensitivityMap,
    best: Best,
    cost: CostModel,
    budgets: Budgets,
    options: PlanOptions,
    *,
    stderr: float | None = None,
    binding: Sequence[Quantity] = (),
    price: float | None = None,
) -> PruningPlan:
    """Return the plan of a choice, with its costs.

    Args:
        info: The scores' map.
        best: What each block keeps, and the predicted loss.
        cost: What plans cost.
        budgets: What it meets.
        options: What was asked of it.
        stderr: Standard error of the predicted loss over images; None where it is not known.
        binding: Budgets without which it would be better.
        price: Predicted loss saved by one more percent of the dense MACs; None where it is not known.
    """
    shape, table = info.shape, cost.table
    with_energy = table is not None and table.block_mj is not None
    return PruningPlan(
        source=info.source,
        shape=shape,
        budgets=tuple(budgets),
        blocks=best.blocks,
        predicted_loss_nats=max(best.loss, 0.0) if info.in_nats else None,
        macs=plan_macs(shape, best.blocks, cost.unit_groups),
        dense_macs=dense_macs(shape),
        params=plan_params(shape, best.blocks, cost.unit_groups),
        dense_params=dense_params(shape),
        scorer=info.settings.scorer,
        sensitivity_sha256=info.digest(),
        prune_heads=options.prune_heads,
        unit_groups=cost.unit_groups,
        symmetric=options.symmetric,
        allowed_sites=options.sites,
        max_sites=options.max_sites,
        predicted_loss_stderr_nats=stderr if info.in_nats else None,
        latency_ms=cost.cost("latency-ms", best.blocks) if table else None,
        energy_mj=cost.cost("energy-mj", best.blocks) if with_energy else None,
        device=f"{table.backend} {table.precision} on {table.machine.board or table.machine.gpu or table.machine.cpu}"
        if table
        else None,
        device_batch_size=table.batch_size if table else None,
        extrapolated=cost.extrapolates(best.blocks),
        device_table_sha256=table.digest() if table else None,
        binding=tuple(binding),
        nats_per_percent=price if info.in_nats else None,
        nested_in_sha256=options.within.digest() if options.within else None,
    )
