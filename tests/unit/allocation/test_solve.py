"""The solver's plan is the best that exists, and within the budget to the last multiply-accumulate."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import scipy.optimize
from fakes.small_plans import (
    SHAPE,
    VIT_B,
    cost_of,
    every_allowed_plan,
    every_plan,
    in_units,
    least_loss_by_enumeration,
    limited,
    loss_of,
    macs_of,
    macs_problem,
    num_drops,
    vit_b_problem,
)

from heartvit_edge.allocation.cost import block_macs, dense_macs, fixed_macs
from heartvit_edge.allocation.problem import Choice, Problem, Resource
from heartvit_edge.allocation.solve import solve
from heartvit_edge.spec.model import ModelShape


def _problem(max_macs=10**9, *, sites=(1, 3), candidates=(4, 8, 12, 17), heads=3, seed=0, shape=SHAPE):
    random = np.random.default_rng(seed)
    return macs_problem(
        max_macs,
        random.uniform(0, 1, (len(sites), len(candidates))),
        np.cumsum(random.uniform(0, 0.4, (shape.depth, heads)), axis=1) * (np.arange(heads) > 0),
        sites=sites,
        candidates=candidates,
        shape=shape,
    )


def _least_macs(candidates=(4, 8, 12, 17)):
    """Return the MACs with one head everywhere and the fewest tokens from block 1 on."""
    first = block_macs(SHAPE, SHAPE.num_tokens, 1)
    return fixed_macs(SHAPE) + first + (SHAPE.depth - 1) * block_macs(SHAPE, candidates[0], 1)


def _drawn(seed):
    """Return a random problem of any kind: blocks, sites, candidates, heads, unit groups, what is forbidden.

    There is a cost in whole numbers and one in fractions, whose limits some plan may just meet, one cost that nothing
    limits, and perhaps a limit on the loss or on the sites.
    """
    random = np.random.default_rng(seed)
    depth = int(random.integers(2, 5))
    sites = tuple(sorted(random.choice(range(1, depth), random.integers(0, depth), replace=False).tolist()))
    candidates = (3, 8, 12, 17)[-int(random.integers(3, 5)) :]
    heads, units = int(random.integers(1, 4)), int(random.integers(1, 3)) if depth < 4 else 1
    sizes = {"token_loss": (len(sites), len(candidates)), "head_loss": (depth, heads), "unit_loss": (depth, units)}
    losses = {name: random.normal(0.3, 0.5, size) for name, size in sizes.items()}
    if seed % 3 == 0:
        losses = {name: np.where(random.random(loss.shape) < 0.25, np.inf, loss) for name, loss in losses.items()}
    whole = Resource(
        "macs",
        float(random.integers(0, 500)),
        np.cumsum(random.integers(1, 9, (len(candidates), heads)), axis=0)[:, ::-1].astype(float),
        np.cumsum(random.integers(1, 9, (len(candidates), units)), axis=0)[:, ::-1].astype(float),
    )
    fractions = Resource(
        "latency-ms",
        random.uniform(0, 1),
        np.sort(random.uniform(0, 1, (len(candidates), heads)), axis=0),
        np.zeros((len(candidates), units)),
    )
    free = Problem(
        depth=depth,
        sites=sites,
        candidates=candidates,
        resources=(whole, fractions, replace(whole, quantity="params")),
        max_sites=int(random.integers(0, 3)) if seed % 4 == 1 else None,
        **losses,
    )
    plans = list(every_plan(free))
    own = plans[random.integers(len(plans))]
    quantiles = [np.quantile([cost_of(free, resource, plan) for plan in plans], 0.6) for resource in free.resources]
    limits = [
        (np.inf, quantiles[0], cost_of(free, whole, own), cost_of(free, whole, own) - 1)[seed % 4],
        (np.inf, quantiles[1], cost_of(free, fractions, own) + 1e-9)[seed % 3],
        np.inf,
    ]
    bounded = limited(free, *limits)
    if seed % 2:
        return bounded
    most = loss_of(free, own)
    return replace(bounded, max_loss=most + 1e-9 if np.isfinite(most) else 0.5, minimise=int(random.choice([0, 1, 2])))


@pytest.mark.parametrize("seed", range(72))
def test_of_all_plans_of_a_random_problem_the_best_is_found_or_none_where_there_is_none(seed):
    problem = _drawn(seed)
    allowed = every_allowed_plan(problem)
    found = solve(problem)
    if not allowed:
        assert found is None
        return
    assert found in allowed
    losses = [loss_of(problem, plan) for plan in allowed]
    if problem.minimise is None:
        assert loss_of(problem, found) == pytest.approx(min(losses), rel=1e-5, abs=1e-8)
        return
    target = problem.resources[problem.minimise]
    costs = [cost_of(problem, target, plan) for plan in allowed]
    assert cost_of(problem, target, found) == pytest.approx(min(costs), rel=1e-6)


def test_random_problems_are_of_every_kind():
    problems = [_drawn(seed) for seed in range(72)]
    allowed = [bool(every_allowed_plan(problem)) for problem in problems]
    assert 10 < sum(allowed) < 66
    kinds = {
        "minimised, feasible": lambda problem, feasible: problem.minimise is not None and feasible,
        "units and no site": lambda problem, _: problem.unit_loss.shape[1] > 1 and not problem.sites,
        "three sites": lambda problem, _: len(problem.sites) == 3,
        "some forbidden, feasible": lambda problem, feasible: np.isinf(problem.head_loss).any() and feasible,
        "few sites, feasible": lambda problem, feasible: problem.max_sites == 1 and len(problem.sites) > 1 and feasible,
        "two limits, infeasible": lambda problem, feasible: (
            sum(resource.limit < np.inf for resource in problem.resources) > 1 and not feasible
        ),
    }
    for name, is_kind in kinds.items():
        assert any(map(is_kind, problems, allowed)), name


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("dear_heads", [True, False])
def test_of_plans_that_cost_the_same_one_of_least_loss_is_found(dear_heads, seed):
    # Heads of all blocks cost the same, or nothing, so many plans share the least cost.
    problem = _problem(np.inf, sites=(2,), candidates=(8, 12, 17), seed=seed)
    cost = problem.resources[0]
    if not dear_heads:
        cost = replace(cost, attention=np.repeat(cost.attention[:, :1], 3, axis=1))
    most = float(np.random.default_rng(seed).uniform(0.2, 3))
    problem = replace(problem, resources=(cost,), max_loss=most, minimise=0)
    found = solve(problem)
    allowed = every_allowed_plan(problem)
    least = min(cost_of(problem, cost, plan) for plan in allowed)
    cheapest = [plan for plan in allowed if cost_of(problem, cost, plan) == least]
    assert cost_of(problem, cost, found) == least
    assert loss_of(problem, found) == pytest.approx(min(loss_of(problem, plan) for plan in cheapest), rel=1e-5)


@pytest.mark.parametrize("gap", [1e-12, 1e-7, 1e-6])
@pytest.mark.parametrize("seed", range(3))
def test_a_limit_on_the_loss_below_zero_or_just_missed_is_kept(seed, gap):
    random = np.random.default_rng(seed)
    free = replace(_problem(np.inf, heads=2), token_loss=random.normal(-1, 1, (2, 4)), minimise=0)
    losses = sorted(loss_of(free, plan) for plan in every_plan(free))
    assert losses[0] < 0
    for limit in (losses[0] + gap, losses[0] - gap, losses[5] - gap, losses[9] + gap, 0.0):
        problem = replace(free, max_loss=limit)
        allowed = every_allowed_plan(problem)
        found = solve(problem)
        if not allowed:
            assert found is None
        else:
            assert loss_of(problem, found) <= limit
            assert macs_of(problem, found) == min(macs_of(problem, plan) for plan in allowed)


@pytest.mark.parametrize("seed", range(6))
def test_no_plan_within_the_budget_loses_less(seed):
    problem = _problem(seed=seed)
    plans = [(macs_of(problem, plan), loss_of(problem, plan)) for plan in every_plan(problem)]
    costs = sorted(macs for macs, _ in plans)
    for max_macs in (costs[0], costs[len(costs) // 8], costs[len(costs) // 2], costs[-1]):
        found = solve(limited(problem, max_macs))
        assert macs_of(problem, found) <= max_macs
        assert loss_of(problem, found) == pytest.approx(
            min(loss for macs, loss in plans if macs <= max_macs), rel=1e-5, abs=1e-9
        )


def test_the_problem_adds_up_what_the_choices_cost_and_lose():
    problem = _problem(int(0.5 * dense_macs(SHAPE)))
    for plan in list(every_plan(problem))[::50]:
        assert problem.cost(problem.resources[0], plan) == macs_of(problem, plan)
        assert problem.loss(plan) == pytest.approx(loss_of(problem, plan), rel=1e-12)


def test_without_a_need_to_save_nothing_goes():
    problem = _problem(dense_macs(SHAPE))
    falling = replace(problem, token_loss=np.sort(problem.token_loss)[:, ::-1])
    found = solve(falling)
    assert found.num_keep == (17, 17)
    assert found.heads_removed == (0,) * SHAPE.depth


def test_tokens_never_grow_though_more_would_lose_less():
    problem = _problem(sites=(1, 2), candidates=(4, 17))
    wished = replace(problem, token_loss=np.array([[0.0, 0.1], [5.0, 0.0]]))  # few at block 1, all at block 2
    assert solve(wished).num_keep == (17, 17)


def test_a_problem_without_heads_to_remove_keeps_them_all():
    problem = _problem(int(0.6 * dense_macs(SHAPE)), heads=1)
    found = solve(problem)
    assert found.heads_removed == (0,) * SHAPE.depth
    best = min(loss_of(problem, plan) for plan in every_allowed_plan(problem))
    assert loss_of(problem, found) == pytest.approx(best, rel=1e-5)


def test_a_block_before_the_first_site_may_lose_heads_but_no_tokens():
    problem = _problem(int(0.95 * dense_macs(SHAPE)), sites=(3,), candidates=(4, 17))
    free = np.zeros((SHAPE.depth, 3))
    free[1:, 1:] = 10.0
    found = solve(replace(problem, token_loss=np.array([[10.0, 0.0]]), head_loss=free))
    assert found.num_keep == (17,)
    assert found.heads_removed[0] > 0
    assert found.heads_removed[1:] == (0, 0, 0)


@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_tokens_go_at_no_more_sites_than_allowed(most):
    # Each site alone would best drop one candidate more than the one before.
    problem = _problem(sites=(1, 2, 3))
    losses = np.array([[9.0, 9.0, 0.0, 1.0], [9.0, 0.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0]])
    found = solve(replace(problem, token_loss=losses, max_sites=most))
    assert num_drops(problem, found) == most
    assert solve(replace(problem, token_loss=losses)).num_keep == (12, 8, 4)


def test_a_budget_of_exactly_the_least_gives_the_smallest_plan():
    found = solve(_problem(_least_macs()))
    assert found.num_keep == (4, 4)
    assert found.heads_removed == (2,) * SHAPE.depth


def test_a_budget_of_one_mac_less_than_the_least_has_no_plan():
    assert solve(_problem(_least_macs() - 1)) is None


@pytest.mark.parametrize(("limit", "token_scale"), [(0.9, 1), (0.7, 100), (0.5, 100), (0.5, 1)])
def test_a_plan_of_vit_b_with_all_candidates_is_the_best_there_is(limit, token_scale):
    problem = vit_b_problem(limit, token_scale=token_scale)
    found = solve(problem)
    assert macs_of(problem, found, VIT_B) <= problem.resources[0].limit
    assert all(after <= before for before, after in pairwise(found.num_keep))
    assert loss_of(problem, found) == pytest.approx(least_loss_by_enumeration(problem), rel=2e-6)


def test_the_cheapest_plan_of_vit_b_that_loses_no_more_than_the_best_at_a_budget_costs_no_more():
    problem = vit_b_problem(0.6, token_scale=100)
    best = solve(problem)
    found = solve(replace(limited(problem, np.inf), max_loss=loss_of(problem, best), minimise=0))
    assert loss_of(problem, found) <= loss_of(problem, best)
    cost = macs_of(problem, found, VIT_B)
    assert cost <= macs_of(problem, best, VIT_B)
    # Nothing is cheaper: within one MAC less, the least loss is over the limit.
    assert least_loss_by_enumeration(limited(problem, cost - 1)) > loss_of(problem, best) * (1 - 2e-6)


def test_a_plan_that_is_one_mac_over_the_budget_is_not_taken():
    # HiGHS keeps a constraint to one part in a million, which is 17,564 MACs of a ViT-B.
    problem = vit_b_problem(0.7, token_scale=100)
    best = solve(problem)
    just_missed = limited(problem, macs_of(problem, best, VIT_B) - 1)
    found = solve(just_missed)
    assert macs_of(just_missed, found, VIT_B) <= just_missed.resources[0].limit
    assert loss_of(problem, found) == pytest.approx(least_loss_by_enumeration(just_missed), rel=2e-6)
    assert loss_of(problem, found) > loss_of(problem, best)


def test_the_smallest_plan_is_found_where_all_that_cost_slightly_more_are_over_the_budget():
    # Of 16,385 tokens a block keeps 8, so that a head more costs a ten-millionth of the dense MACs.
    shape = ModelShape(**SHAPE.model_dump() | {"img_size": 1024})
    wide = _problem(candidates=(8, 16385), shape=shape)
    smallest = Choice(num_keep=(8, 8), heads_removed=(2,) * SHAPE.depth, units_removed=(0,) * SHAPE.depth)
    assert solve(limited(wide, macs_of(wide, smallest, shape) + 1)) == smallest


def test_a_classifier_that_outweighs_the_blocks_does_not_blur_the_budget():
    vast = ModelShape(**SHAPE.model_dump() | {"num_classes": 10**9})
    problem = _problem(shape=vast)
    plans = list(every_plan(problem))
    budget = sorted(macs_of(problem, plan, vast) for plan in plans)[len(plans) // 3]
    found = solve(limited(problem, budget))
    assert macs_of(problem, found, vast) <= budget
    best = min(loss_of(problem, plan) for plan in plans if macs_of(problem, plan, vast) <= budget)
    assert loss_of(problem, found) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_the_plan_does_not_depend_on_the_unit_of_the_losses(unit):
    problem = vit_b_problem(0.7)
    found = solve(in_units(problem, unit))
    assert loss_of(problem, found) == pytest.approx(least_loss_by_enumeration(problem), rel=2e-6)


def test_where_nothing_is_lost_any_plan_within_the_budget_does():
    problem = _problem(int(0.6 * dense_macs(SHAPE)))
    found = solve(replace(problem, token_loss=np.zeros((2, 4)), head_loss=np.zeros((SHAPE.depth, 3))))
    assert macs_of(problem, found) <= problem.resources[0].limit


def test_what_the_solver_prints_does_not_reach_standard_output(monkeypatch, capfd):
    def talkative(*args, **kwargs):
        os.write(1, b"a trace of the solver's own\n")
        return milp(*args, **kwargs)

    milp = scipy.optimize.milp
    monkeypatch.setattr(scipy.optimize, "milp", talkative)
    sys.stdout.write("before\n")
    solve(_problem(int(0.6 * dense_macs(SHAPE))))
    os.write(1, b"after\n")
    out, err = capfd.readouterr()
    assert out == "before\nafter\n"
    assert "a trace of the solver's own" in err


def test_standard_output_is_given_back_where_the_solver_fails(monkeypatch, capfd):
    def fails(*_, **__):
        raise RuntimeError("no memory")

    monkeypatch.setattr(scipy.optimize, "milp", fails)
    with pytest.raises(RuntimeError, match="no memory"):
        solve(_problem())
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "after\n"


def test_an_end_without_an_answer_is_no_infeasible_problem(monkeypatch):
    ended = scipy.optimize.OptimizeResult(status=1, x=None, message="out of time")
    monkeypatch.setattr(scipy.optimize, "milp", lambda *_, **__: ended)
    with pytest.raises(RuntimeError, match="HiGHS ended without a plan: out of time"):
        solve(_problem())
