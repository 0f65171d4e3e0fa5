"""The best plan under budgets alone and together, what limits it, and what is reachable where nothing meets them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from fakes.device_tables import make_device_table
from fakes.small_plans import (
    SHAPE,
    SOURCE,
    cost_of,
    drawn_table,
    every_allowed_plan,
    every_plan,
    limited,
    loss_of,
    num_drops,
)

from heartvit_edge.allocation.best import PRICE_STEP, explain, find_best, make_problem
from heartvit_edge.allocation.cost import dense_macs, dense_params
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.plan import PlanOptions, dense_plan, make_plan, starting_losses
from heartvit_edge.errors import InfeasibleError, InputError
from heartvit_edge.spec.budget import SHARES, Budget, parse_joint
from heartvit_edge.spec.plan import BlockPlan

TABLE = make_device_table(
    mj=lambda tokens, heads: 2.0 + tokens * heads, shape=SHAPE, tokens=(4, 8, 12, 16, 17), heads=(1, 2, 3)
)
WITH_TABLE = PlanOptions(table=TABLE)
DENSE = {"macs": dense_macs(SHAPE), "params": dense_params(SHAPE)}


def _problem(text, *, seed=0, unit_groups=0, options=WITH_TABLE):
    """Return the problem of budgets, and what its plans cost."""
    table = drawn_table(seed, unit_groups=unit_groups)
    cost = CostModel(SHAPE, unit_groups, options.table)
    return make_problem(starting_losses(table, options), cost, parse_joint(text), options.max_sites), cost


def _least(quantity):
    """Return what the smallest plan with sites 1 and 3 costs, in the units of the budget."""
    smallest = BlockPlan(kept_heads=(0,), num_tokens=4)
    cost = CostModel(SHAPE, 0, TABLE)
    blocks = [smallest.model_copy(update={"num_tokens": 17}), smallest, smallest, smallest]
    return cost.cost(quantity, blocks) / DENSE.get(quantity, 1)


def _hinted(error):
    return parse_joint(re.search(r"--budget (\S+=[^\s,]+(?:,\S+=[^\s,]+)*)", error.hint)[1])


@pytest.mark.parametrize(
    "text", ["macs=0.6", "params=0.9", "latency-ms=14", "energy-mj=110", "macs=0.8,latency-ms=16,params=0.93"]
)
@pytest.mark.parametrize("seed", range(3))
def test_within_limits_on_costs_no_plan_loses_less(text, seed):
    problem, cost = _problem(text, seed=seed)
    table = drawn_table(seed)
    best = find_best(starting_losses(table, WITH_TABLE), cost, parse_joint(text))
    allowed = every_allowed_plan(problem)
    assert 0 < len(allowed) < len(list(every_plan(problem)))
    assert best.loss == pytest.approx(min(loss_of(problem, plan) for plan in allowed), rel=1e-5)
    for budget in parse_joint(text):
        assert cost.cost(budget.quantity, best.blocks) <= cost.limit(budget)


@pytest.mark.parametrize(
    ("text", "options", "minimised"),
    [
        ("loss-nats=0.3", PlanOptions(), "macs"),
        ("loss-nats=0.3", WITH_TABLE, "latency-ms"),
        ("loss-nats=0.3,energy-mj=140", WITH_TABLE, "latency-ms"),
        ("loss-nats=0.3,params=0.95", PlanOptions(), "macs"),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_within_a_limit_on_the_loss_no_plan_costs_less(text, options, minimised, seed):
    problem, cost = _problem(text, seed=seed, options=options)
    best = find_best(starting_losses(drawn_table(seed), options), cost, parse_joint(text))
    target = problem.resources[problem.minimise]
    assert target.quantity == minimised
    allowed = every_allowed_plan(problem)
    assert 0 < len(allowed) < len(list(every_plan(problem)))
    assert best.loss <= 0.3
    least = min(cost_of(problem, target, plan) for plan in allowed)
    assert cost.cost(minimised, best.blocks) == pytest.approx(least, rel=1e-9)


def test_unit_groups_are_traded_on_the_same_scale():
    text = "macs=0.4"
    problem, cost = _problem(text, unit_groups=2, options=PlanOptions())
    best = find_best(starting_losses(drawn_table(unit_groups=2), PlanOptions()), cost, parse_joint(text))
    assert best.loss == pytest.approx(min(loss_of(problem, plan) for plan in every_allowed_plan(problem)), rel=1e-5)
    assert any(block.kept_units for block in best.blocks)


def test_no_more_sites_drop_tokens_than_allowed():
    options = PlanOptions(max_sites=1)
    problem, cost = _problem("macs=0.5", options=options)
    best = find_best(starting_losses(drawn_table(), options), cost, parse_joint("macs=0.5"), max_sites=1)
    assert len({block.num_tokens for block in best.blocks}) <= 2
    allowed = every_allowed_plan(replace(problem, max_sites=None))
    one_site = [loss_of(problem, plan) for plan in allowed if num_drops(problem, plan) <= 1]
    assert best.loss == pytest.approx(min(one_site), rel=1e-5)
    assert best.loss > min(loss_of(problem, plan) for plan in allowed)


@pytest.mark.parametrize(
    ("quantity", "found"),
    [
        ("macs", "no plan has at most 0.01 of the dense MACs"),
        ("params", "no plan has at most 0.01 of the dense weights"),
        ("latency-ms", "no plan has at most 0.01 latency in ms"),
        ("energy-mj", "no plan has at most 0.01 energy in mj"),
    ],
)
def test_a_cost_that_cannot_be_reached_is_told_the_least_that_can_and_what_limits_it(quantity, found):
    with pytest.raises(InfeasibleError) as caught:
        make_plan(drawn_table(), (Budget(quantity=quantity, limit=0.01),), WITH_TABLE)
    assert caught.value.exit_code == 4
    assert str(caught.value) == (
        f"{found}: with sites 1, 3, at least 4 tokens and 1 of 3 heads a block, {_least(quantity):.4g} is the least"
    )


@pytest.mark.parametrize("quantity", ["macs", "params", "latency-ms", "energy-mj"])
def test_the_hinted_cost_can_be_reached_and_is_hardly_more_than_the_least(quantity):
    with pytest.raises(InfeasibleError) as caught:
        make_plan(drawn_table(), (Budget(quantity=quantity, limit=0.01),), WITH_TABLE)
    (hinted,) = _hinted(caught.value)
    assert hinted.quantity == quantity
    assert _least(quantity) <= hinted.limit <= 1.01 * _least(quantity)
    make_plan(drawn_table(), (hinted,), WITH_TABLE)
    with pytest.raises(InfeasibleError):
        make_plan(drawn_table(), (Budget(quantity=quantity, limit=0.99 * _least(quantity)),), WITH_TABLE)


@pytest.mark.parametrize("tight", ["params=0.01", "latency-ms=0.01"])
def test_of_budgets_together_the_one_that_cannot_be_reached_is_named(tight):
    (budget,) = parse_joint(tight)
    with pytest.raises(InfeasibleError) as caught:
        make_plan(drawn_table(), parse_joint(f"macs=0.9,{tight},loss-nats=5"), WITH_TABLE)
    assert ("weights" if budget.quantity in SHARES else budget.quantity.split("-")[0]) in str(caught.value)
    hinted = {found.quantity: found.limit for found in _hinted(caught.value)}
    assert hinted == {"macs": 0.9, "loss-nats": 5, budget.quantity: pytest.approx(_least(budget.quantity), rel=0.01)}
    make_plan(drawn_table(), _hinted(caught.value), WITH_TABLE)


@pytest.mark.parametrize(("sites", "hinted"), [((2, 3), "--sites 1,3"), ((3,), "--sites 1")])
def test_an_earlier_first_site_is_hinted_at_where_there_is_one_and_tokens_count(sites, hinted):
    table = drawn_table(sites=sites)
    with pytest.raises(InfeasibleError) as caught:
        make_plan(table, (Budget(limit=0.01),))
    assert caught.value.hint.endswith(f", or an earlier first site, which must be scored: {hinted}")
    with pytest.raises(InfeasibleError) as caught:
        make_plan(table, (Budget(quantity="params", limit=0.01),))
    assert "--sites" not in caught.value.hint


@pytest.mark.parametrize("others", ["macs=0.6", "macs=0.65,params=0.85"])
def test_a_loss_that_a_cost_does_not_allow_is_told_the_least_and_its_hint_can_be_reached(others):
    table = drawn_table()
    least = make_plan(table, parse_joint(others)).predicted_loss_nats
    with pytest.raises(InfeasibleError) as caught:
        make_plan(table, parse_joint(f"{others},loss-nats=0.01"))
    assert str(caught.value) == (
        f"no plan within {others.replace(',', ', ')} loses at most 0.01 nats: with sites 1, 3, at least 4 tokens and "
        f"1 of 3 heads a block, {least:.4g} is the least"
    )
    hinted = _hinted(caught.value)
    assert hinted[:-1] == parse_joint(others)
    assert least <= hinted[-1].limit <= 1.01 * least
    assert make_plan(table, hinted).predicted_loss_nats <= hinted[-1].limit
    with pytest.raises(InfeasibleError):
        make_plan(table, (*parse_joint(others), Budget(quantity="loss-nats", limit=0.99 * least)))


def _within(num_tokens, kept_heads=(0, 1, 2)):
    blocks = tuple(BlockPlan(kept_heads=kept_heads, num_tokens=count) for count in num_tokens)
    return PlanOptions(within=dense_plan(SOURCE, SHAPE).model_copy(update={"blocks": blocks}))


def test_a_loss_budget_alone_that_a_larger_plan_has_spent_is_told_so():
    table, options = drawn_table(), _within((17, 12, 12, 8), (0,))
    with pytest.raises(
        InfeasibleError, match=r"^no plan loses at most 0.001 nats: with sites 1, 3, .* is the least$"
    ) as caught:
        make_plan(table, (Budget(quantity="loss-nats", limit=0.001),), options)
    assert caught.value.hint.startswith("--budget loss-nats=")
    make_plan(table, _hinted(caught.value), options)


def test_a_larger_plan_below_every_token_count_leaves_no_plan():
    with pytest.raises(InfeasibleError, match=r"^no plan meets macs=0.9: with sites 1, 3"):
        make_plan(drawn_table(), (Budget(limit=0.9),), _within((17, 2, 2, 2)))


@pytest.mark.parametrize("quantity", ["latency-ms", "energy-mj"])
def test_a_device_budget_without_a_table_is_refused(quantity):
    with pytest.raises(InputError, match=f"a budget of {quantity} needs a table"):
        make_plan(drawn_table(), (Budget(quantity=quantity, limit=1.0),))


@pytest.mark.parametrize(
    "text",
    [
        "macs=0.6",
        "macs=0.6,params=0.95",
        "macs=0.9,params=0.85",
        "macs=0.7,latency-ms=14,energy-mj=140",
        "loss-nats=0.2",
        "loss-nats=9",
        "loss-nats=0.5,params=0.9",
        "loss-nats=0.2,energy-mj=140",
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_a_budget_binds_where_without_it_a_better_plan_exists(text, seed):
    problem, cost = _problem(text, seed=seed)

    def best(changed):
        allowed = every_allowed_plan(changed)
        if problem.minimise is None:
            return min(loss_of(changed, plan) for plan in allowed)
        return min(cost_of(changed, changed.resources[problem.minimise], plan) for plan in allowed)

    expected = []
    for position, resource in enumerate(problem.resources):
        limits = [other.limit for other in problem.resources]
        limits[position] = np.inf
        if best(limited(problem, *limits)) < best(problem) - 1e-6:
            expected.append(resource.quantity)
    if best(replace(problem, max_loss=np.inf)) < best(problem) - 1e-6:
        expected.append("loss-nats")
    binding, _ = explain(problem, cost, dense_macs(SHAPE) // 2)
    assert sorted(binding) == sorted(expected)


def test_some_budgets_bind_and_others_do_not():
    assert explain(*_problem("macs=0.6,params=0.95"), dense_macs(SHAPE))[0] == ("macs",)
    assert explain(*_problem("macs=0.9,params=0.85"), dense_macs(SHAPE))[0] == ("params",)
    assert explain(*_problem("loss-nats=0.2"), dense_macs(SHAPE))[0] == ("loss-nats",)
    assert explain(*_problem("loss-nats=9"), dense_macs(SHAPE))[0] == ()


@pytest.mark.parametrize(
    ("text", "share"), [("macs=0.6", 0.6), ("macs=0.9", 0.9), ("loss-nats=0.2", 0.55), ("macs=1", 0.97)]
)
@pytest.mark.parametrize("seed", range(2))
def test_the_price_is_the_mean_over_what_the_best_plan_with_five_percent_more_macs_adds(text, share, seed):
    problem, cost = _problem(text, seed=seed, options=PlanOptions())
    macs = share * dense_macs(SHAPE)
    free = replace(problem, max_loss=np.inf, minimise=None)
    best = []
    for limit in (macs, macs + PRICE_STEP * dense_macs(SHAPE)):
        within = limited(free, limit)
        plan = min(every_allowed_plan(within), key=lambda plan: loss_of(free, plan))
        best.append((loss_of(free, plan), cost_of(free, free.resources[0], plan)))
    (lossy, less), (mild, more) = best
    _, price = explain(problem, cost, macs)
    assert lossy > mild
    assert price == pytest.approx((lossy - mild) / (100 * (more - less) / dense_macs(SHAPE)), rel=1e-4)


def test_a_problem_without_a_plan_has_nothing_that_binds():
    assert explain(*_problem("macs=0.01"), 1000) == ((), None)


def test_where_nothing_can_be_added_there_is_no_price():
    binding, price = explain(*_problem("macs=1", options=PlanOptions()), dense_macs(SHAPE))
    assert (binding, price) == ((), None)


def test_more_sites_are_hinted_at_where_they_were_limited():
    with pytest.raises(InfeasibleError) as caught:
        make_plan(drawn_table(), (Budget(limit=0.01),), PlanOptions(max_sites=1))
    assert caught.value.hint.endswith(", or more sites than --max-sites 1")
