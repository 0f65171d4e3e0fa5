"""Each budget's cost, as a table over the blocks, is what the whole plan costs."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from fakes.device_tables import NO_ENERGY, make_device_table, product_ms
from fakes.small_plans import SHAPE

from heartvit_edge.allocation.cost import dense_macs, dense_params, plan_macs, plan_params
from heartvit_edge.allocation.limits import CostModel, most_of
from heartvit_edge.errors import InputError
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.plan import BlockPlan

GROUPS = 4
TOKENS = (4, 8, 12, 16, 17)


def _energy(tokens, heads):
    return 3.0 + tokens * heads


def _table(**changes):
    return make_device_table(shape=SHAPE, tokens=TOKENS, heads=(1, 2, 3), **changes)


def _plan(random, *, units=False):
    """Return four blocks of falling tokens, with random heads and unit groups."""
    counts = sorted(random.integers(2, 18, 4).tolist(), reverse=True)
    blocks = []
    for count in counts:
        heads = np.flatnonzero(random.permutation([1, *random.integers(0, 2, 2)])).tolist()
        groups = np.flatnonzero(random.permutation([1, *random.integers(0, 2, GROUPS - 1)])).tolist()
        blocks.append(BlockPlan(kept_heads=heads, num_tokens=count, kept_units=groups if units else None))
    return blocks


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_macs_and_weights_of_a_plan_are_those_of_the_cost_model(seed, units):
    blocks = _plan(np.random.default_rng(seed), units=units)
    groups = GROUPS if units else 0
    cost = CostModel(SHAPE, groups)
    assert cost.cost("macs", blocks) == plan_macs(SHAPE, blocks, groups)
    assert cost.cost("params", blocks) == plan_params(SHAPE, blocks, groups)


@pytest.mark.parametrize("seed", range(5))
def test_latency_and_energy_of_a_plan_are_the_sums_over_its_blocks_in_the_device_table(seed):
    blocks = _plan(np.random.default_rng(seed))
    cost = CostModel(SHAPE, 0, _table(mj=_energy))
    sizes = [(block.num_tokens, len(block.kept_heads)) for block in blocks]
    assert cost.cost("latency-ms", blocks) == pytest.approx(0.25 + sum(product_ms(*size) for size in sizes))
    assert cost.cost("energy-mj", blocks) == pytest.approx(2.0 + sum(_energy(*size) for size in sizes))


def test_the_table_of_a_cost_is_that_of_plans_whose_blocks_are_alike():
    cost = CostModel(SHAPE, GROUPS)
    for quantity, whole in (("macs", plan_macs), ("params", plan_params)):
        found = cost.resource(quantity, TOKENS, 3, GROUPS)
        assert found.limit == np.inf
        for (row, count), heads_gone, units_gone in product(enumerate(TOKENS), range(3), range(GROUPS)):
            block = BlockPlan(kept_heads=range(3 - heads_gone), num_tokens=count, kept_units=range(GROUPS - units_gone))
            alike = found.attention[row, heads_gone] + found.mlp[row, units_gone]
            assert found.fixed + SHAPE.depth * alike == whole(SHAPE, [block] * SHAPE.depth, GROUPS)


def test_a_device_quantity_is_told_of_whole_blocks():
    found = CostModel(SHAPE, 0, _table()).resource("latency-ms", (8, 17), 2, 1, 4.0)
    np.testing.assert_allclose(
        found.attention, [[product_ms(8, 3), product_ms(8, 2)], [product_ms(17, 3), product_ms(17, 2)]]
    )
    assert not found.mlp.any()
    assert (found.fixed, found.limit) == (0.25, 4.0)


@pytest.mark.parametrize(("quantity", "dense"), [("macs", dense_macs(SHAPE)), ("params", dense_params(SHAPE))])
def test_a_share_allows_the_largest_whole_number_within_it(quantity, dense):
    cost = CostModel(SHAPE)
    assert cost.limit(Budget(quantity=quantity, limit=1.0)) == dense
    for share in np.random.default_rng(0).uniform(0.01, 1, 50).tolist():
        assert cost.limit(Budget(quantity=quantity, limit=share)) == int(Fraction(share) * dense)


def test_a_share_that_a_count_just_has_is_not_lost_to_rounding():
    # 0.29 * 100 is 28.999999999999996, yet 29 / 100 is 0.29.
    assert int(0.29 * 100) == 28
    assert most_of(0.29, 100) == 29
    for dense in (7, 100, 4_600_000_000, 17_563_828_224):
        for count in np.random.default_rng(1).integers(1, dense, 200).tolist():
            assert most_of(count / dense, dense) == count
            assert most_of(np.nextafter(count / dense, 0), dense) == count - 1


@pytest.mark.parametrize("quantity", ["macs", "params", "latency-ms", "energy-mj"])
def test_a_cost_is_stated_as_its_budget_is(quantity):
    cost = CostModel(SHAPE, 0, _table(mj=_energy))
    blocks = _plan(np.random.default_rng(0))
    stated = cost.share(quantity, cost.cost(quantity, blocks))
    assert cost.cost(quantity, blocks) == pytest.approx(cost.limit(Budget(quantity=quantity, limit=stated)))


@pytest.mark.parametrize("quantity", ["latency-ms", "energy-mj", "loss-nats"])
def test_what_is_no_share_is_limited_as_it_is(quantity):
    assert CostModel(SHAPE).limit(Budget(quantity=quantity, limit=4.25)) == 4.25


@pytest.mark.parametrize("quantity", ["latency-ms", "energy-mj"])
def test_a_device_quantity_without_a_table_is_refused(quantity):
    with pytest.raises(InputError, match=f"a budget of {quantity} needs a table of what blocks cost") as caught:
        CostModel(SHAPE).resource(quantity, TOKENS, 3, 1)
    assert "--profile-table" in caught.value.hint
    assert "--device-table" in caught.value.hint


def test_energy_of_a_table_that_has_none_is_refused_with_its_reason():
    with pytest.raises(InputError, match=NO_ENERGY):
        CostModel(SHAPE, 0, _table()).cost("energy-mj", _plan(np.random.default_rng(0)))


def test_a_table_of_another_model_is_refused():
    with pytest.raises(InputError, match="num_classes is 5, the model's 7"):
        CostModel(SHAPE.model_copy(update={"num_classes": 7}), 0, _table())


def test_a_table_beside_unit_groups_is_refused():
    with pytest.raises(InputError, match="a part of an MLP") as caught:
        CostModel(SHAPE, GROUPS, _table())
    assert "--unit-groups" in caught.value.hint


def test_a_loss_is_no_cost_of_blocks():
    with pytest.raises(ValueError, match="does not add up"):
        CostModel(SHAPE).resource("loss-nats", TOKENS, 3, 1)


@pytest.mark.parametrize(
    ("tokens", "heads", "outside"), [(8, 2, False), (17, 3, False), (7, 3, True), (16, 1, True), (12, 2, False)]
)
def test_a_plan_outside_of_the_measured_cells_is_extrapolated(tokens, heads, outside):
    table = make_device_table(shape=SHAPE, tokens=(8, 16, 17), heads=(2, 3))
    dense = BlockPlan(kept_heads=(0, 1, 2), num_tokens=17)
    blocks = [dense, dense, dense, BlockPlan(kept_heads=range(heads), num_tokens=tokens)]
    assert CostModel(SHAPE, 0, table).extrapolates(blocks) is outside
    assert not CostModel(SHAPE).extrapolates(blocks)
