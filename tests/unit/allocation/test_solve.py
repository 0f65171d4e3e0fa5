"""The solver's plan is the best that exists, and within the budget to the last multiply-accumulate."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from fakes.small_plans import (
    SHAPE,
    VIT_B,
    every_plan,
    in_units,
    least_loss_by_enumeration,
    loss_of,
    macs_of,
    vit_b_problem,
)

from heartvit_edge.allocation.cost import block_macs, dense_macs, fixed_macs
from heartvit_edge.allocation.solve import Problem, Solution, candidate_tokens, losses_at, solve
from heartvit_edge.errors import InfeasibleError
from heartvit_edge.spec.model import ModelShape


def _problem(max_macs=10**9, *, sites=(1, 3), candidates=(4, 8, 12, 17), heads=3, seed=0):
    random = np.random.default_rng(seed)
    return Problem(
        shape=SHAPE,
        sites=sites,
        candidates=candidates,
        token_loss=random.uniform(0, 1, (len(sites), len(candidates))),
        head_loss=np.cumsum(random.uniform(0, 0.4, (SHAPE.depth, heads)), axis=1) * (np.arange(heads) > 0),
        max_macs=max_macs,
    )


def _least_macs(candidates=(4, 8, 12, 17)):
    """Return the MACs with one head everywhere and the fewest tokens from block 1 on."""
    first = block_macs(SHAPE, SHAPE.num_tokens, 1)
    return fixed_macs(SHAPE) + first + (SHAPE.depth - 1) * block_macs(SHAPE, candidates[0], 1)


@pytest.mark.parametrize("seed", range(6))
def test_no_plan_within_the_budget_loses_less(seed):
    problem = _problem(seed=seed)
    plans = list(every_plan(problem))
    costs = sorted(macs_of(problem, plan) for plan in plans)
    for max_macs in (costs[0], costs[len(costs) // 8], costs[len(costs) // 2], costs[-1]):
        tight = replace(problem, max_macs=max_macs)
        found = solve(tight)
        best = min(plan.loss for plan in plans if macs_of(problem, plan) <= max_macs)
        assert macs_of(tight, found) <= max_macs
        assert found.loss == pytest.approx(best, rel=1e-5, abs=1e-9)


def test_the_loss_is_the_sum_of_what_the_choices_lose():
    problem = _problem(int(0.5 * dense_macs(SHAPE)))
    found = solve(problem)
    assert found.loss == pytest.approx(loss_of(problem, found.num_keep, found.heads_removed), rel=1e-12)


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
    best = min(plan.loss for plan in every_plan(problem) if macs_of(problem, plan) <= problem.max_macs)
    assert found.loss == pytest.approx(best, rel=1e-5)


def test_a_block_before_the_first_site_may_lose_heads_but_no_tokens():
    problem = _problem(int(0.95 * dense_macs(SHAPE)), sites=(3,), candidates=(4, 17))
    free = np.zeros((SHAPE.depth, 3))
    free[1:, 1:] = 10.0
    found = solve(replace(problem, token_loss=np.array([[10.0, 0.0]]), head_loss=free))
    assert found.num_keep == (17,)
    assert found.heads_removed[0] > 0
    assert found.heads_removed[1:] == (0, 0, 0)


def test_a_budget_of_exactly_the_least_gives_the_smallest_plan():
    found = solve(_problem(_least_macs()))
    assert found.num_keep == (4, 4)
    assert found.heads_removed == (2,) * SHAPE.depth


def test_a_budget_of_one_mac_less_than_the_least_is_infeasible():
    with pytest.raises(InfeasibleError):
        solve(_problem(_least_macs() - 1))


def test_an_infeasible_budget_is_told_the_least_that_is_reachable_and_what_limits_it():
    dense, least = dense_macs(SHAPE), _least_macs()
    with pytest.raises(InfeasibleError) as caught:
        solve(_problem(dense // 10))
    assert caught.value.exit_code == 4
    assert str(caught.value) == (
        "no plan has 0.1000 of the dense MACs: with sites 1, 3, at least 4 tokens and 1 of 3 heads a block, "
        f"{least / dense:.4f} is the least"
    )


def test_the_hinted_budget_is_feasible():
    with pytest.raises(InfeasibleError) as caught:
        solve(_problem(dense_macs(SHAPE) // 10))
    option, number = caught.value.hint.split()
    assert option == "--budget"
    assert solve(_problem(int(float(number) * dense_macs(SHAPE)))).num_keep == (4, 4)


@pytest.mark.parametrize(("sites", "hinted"), [((2, 3), "--sites 1,3"), ((3,), "--sites 1")])
def test_an_earlier_first_site_is_hinted_at_where_there_is_one(sites, hinted):
    with pytest.raises(InfeasibleError) as caught:
        solve(_problem(1, sites=sites))
    assert caught.value.hint.endswith(f", or score again with an earlier first site: {hinted}")


@pytest.mark.parametrize(("limit", "token_scale"), [(0.9, 1), (0.7, 100), (0.5, 100), (0.5, 1)])
def test_a_plan_of_vit_b_with_all_candidates_is_the_best_there_is(limit, token_scale):
    problem = vit_b_problem(limit, token_scale=token_scale)
    found = solve(problem)
    assert macs_of(problem, found) <= problem.max_macs
    assert all(after <= before for before, after in pairwise(found.num_keep))
    assert found.loss == pytest.approx(least_loss_by_enumeration(problem), rel=2e-6)


def test_a_plan_that_is_one_mac_over_the_budget_is_not_taken():
    # HiGHS keeps a constraint to one part in a million, which is 17,564 MACs of a ViT-B.
    problem = vit_b_problem(0.7, token_scale=100)
    best = solve(problem)
    just_missed = replace(problem, max_macs=macs_of(problem, best) - 1)
    found = solve(just_missed)
    assert macs_of(just_missed, found) <= just_missed.max_macs
    assert found.loss == pytest.approx(least_loss_by_enumeration(just_missed), rel=2e-6)
    assert found.loss > best.loss


def test_the_smallest_plan_is_found_where_all_that_cost_slightly_more_are_over_the_budget():
    # Of 16,385 tokens a block keeps 8, so that a head more costs a ten-millionth of the dense MACs.
    shape = ModelShape(**SHAPE.model_dump() | {"img_size": 1024})
    wide = replace(_problem(candidates=(8, 16385)), shape=shape)
    smallest = Solution(num_keep=(8, 8), heads_removed=(2,) * SHAPE.depth, loss=0.0)
    found = solve(replace(wide, max_macs=macs_of(wide, smallest) + 1))
    assert (found.num_keep, found.heads_removed) == (smallest.num_keep, smallest.heads_removed)
    assert found.loss == pytest.approx(loss_of(wide, found.num_keep, found.heads_removed), rel=1e-12)


def test_a_classifier_that_outweighs_the_blocks_does_not_blur_the_budget():
    problem = _problem()
    vast = replace(problem, shape=ModelShape(**SHAPE.model_dump() | {"num_classes": 10**9}))
    plans = list(every_plan(vast))
    budget = sorted(macs_of(vast, plan) for plan in plans)[len(plans) // 3]
    found = solve(replace(vast, max_macs=budget))
    assert macs_of(vast, found) <= budget
    assert found.loss == pytest.approx(min(plan.loss for plan in plans if macs_of(vast, plan) <= budget), rel=1e-5)


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_the_plan_does_not_depend_on_the_unit_of_the_losses(unit):
    problem = vit_b_problem(0.7)
    found = solve(in_units(problem, unit))
    assert found.loss * unit == pytest.approx(least_loss_by_enumeration(problem), rel=2e-6)


def test_where_nothing_is_lost_any_plan_within_the_budget_does():
    problem = _problem(int(0.6 * dense_macs(SHAPE)))
    found = solve(replace(problem, token_loss=np.zeros((2, 4)), head_loss=np.zeros((SHAPE.depth, 3))))
    assert found.loss == 0
    assert macs_of(problem, found) <= problem.max_macs


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (8, 16, 24, 32, 40, 48, 56, 64, 65)),
        ({"img_size": 32}, (4, 8, 12, 16, 17)),
        ({"img_size": 16}, (2, 3, 4, 5)),
        ({"img_size": 8}, (2,)),
        ({"num_prefix_tokens": 9}, (16, 24, 32, 40, 48, 56, 64, 72, 73)),
        ({"num_prefix_tokens": 0}, (8, 16, 24, 32, 40, 48, 56, 64)),
    ],
)
def test_candidates_are_multiples_of_the_step_that_keep_a_patch_and_all_tokens(changes, expected):
    shape = ModelShape(**SHAPE.model_dump() | {"img_size": 64} | changes)
    assert candidate_tokens(shape) == expected


def test_candidates_keep_the_fewest_patches_asked_for():
    shape = ModelShape(**SHAPE.model_dump() | {"img_size": 64})
    assert candidate_tokens(shape, step=16, least=16) == (32, 48, 64, 65)


def test_losses_are_read_at_the_tokens_dropped():
    curve = np.arange(17) ** 2.0
    assert losses_at(curve, SHAPE, (4, 12, 17)).tolist() == [13**2, 5**2, 0]


def test_vit_b_has_25_candidates():
    assert len(candidate_tokens(VIT_B)) == 25
