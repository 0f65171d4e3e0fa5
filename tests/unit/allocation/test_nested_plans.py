"""What a plan within a larger one keeps, the larger one keeps."""

from __future__ import annotations

import pytest
from fakes.small_plans import SHAPE, SOURCE, drawn_table

from heartvit_edge.allocation.plan import PlanOptions, dense_plan, make_plan
from heartvit_edge.spec.budget import Budget, parse_joint

LIMITS = (0.85, 0.7, 0.55, 0.45, 0.4)


def _is_part(smaller, larger):
    groups = tuple(range(larger.unit_groups))
    return all(
        own.num_tokens <= most.num_tokens
        and set(own.kept_heads) <= set(most.kept_heads)
        and set(groups if own.kept_units is None else own.kept_units)
        <= set(groups if most.kept_units is None else most.kept_units)
        for own, most in zip(smaller.blocks, larger.blocks, strict=True)
    )


def _family(seed, unit_groups, **options):
    table, within, family = drawn_table(seed, unit_groups=unit_groups, sites=(1, 2, 3)), None, []
    for limit in LIMITS:
        within = make_plan(table, (Budget(limit=limit),), PlanOptions(within=within, **options))
        family.append(within)
    return family


@pytest.mark.parametrize("unit_groups", [0, 4])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("seed", [0, 2])
def test_each_plan_of_a_nested_family_is_a_part_of_the_larger_ones(seed, symmetric, unit_groups):
    family = _family(seed, unit_groups, symmetric=symmetric)
    for position, larger in enumerate(family):
        for smaller in family[position + 1 :]:
            assert _is_part(smaller, larger)
    for plan, limit in zip(family, LIMITS, strict=True):
        assert plan.macs_fraction <= limit
    assert [plan.nested_in_sha256 for plan in family] == [None, *(plan.digest() for plan in family[:-1])]


def test_plans_that_are_not_nested_need_not_be_parts_of_each_other():
    def family(seed, **options):
        return [
            make_plan(drawn_table(seed, sites=(1, 2, 3)), (Budget(limit=limit),), PlanOptions(**options))
            for limit in LIMITS
        ]

    for options in ({}, {"symmetric": True}):
        families = [family(seed, **options) for seed in (0, 2)]
        assert not all(_is_part(plans[at + 1], plans[at]) for plans in families for at in range(len(plans) - 1))


def test_a_plan_within_a_larger_one_loses_no_less_than_without():
    for nested, limit in zip(_family(0, 0), LIMITS, strict=True):
        free = make_plan(drawn_table(0, sites=(1, 2, 3)), (Budget(limit=limit),))
        assert nested.predicted_loss_nats >= free.predicted_loss_nats * (1 - 1e-6)


def test_a_plan_within_a_smaller_one_is_a_part_of_it_though_the_dense_model_meets_the_budget():
    table = drawn_table()
    larger = make_plan(table, (Budget(limit=0.5),))
    found = make_plan(table, (Budget(limit=1.0),), PlanOptions(within=larger))
    assert _is_part(found, larger)
    assert not found.is_dense


def test_within_the_dense_plan_the_dense_plan_is_found():
    found = make_plan(drawn_table(head_scale=0), (Budget(limit=1.0),), PlanOptions(within=dense_plan(SOURCE, SHAPE)))
    assert found.is_dense


def test_plans_of_growing_loss_budgets_are_nested_from_the_one_that_loses_least():
    table, within = drawn_table(sites=(1, 2, 3)), None
    for limit in (0.05, 0.1, 0.3, 1.0):
        found = make_plan(table, parse_joint(f"loss-nats={limit}"), PlanOptions(within=within))
        assert found.predicted_loss_nats <= limit
        assert within is None or _is_part(found, within)
        within = found
    assert within.macs_fraction < 0.5
