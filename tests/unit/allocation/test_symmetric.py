"""A symmetric plan keeps one share at every site and as many heads everywhere, and no more of either would do."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.device_tables import make_device_table
from fakes.small_plans import SHAPE, drawn_table

from heartvit_edge.allocation.cost import dense_macs, dense_params, plan_macs
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.plan import PlanOptions, make_plan
from heartvit_edge.allocation.predict import token_curve
from heartvit_edge.allocation.symmetric import symmetric_counts
from heartvit_edge.errors import InfeasibleError
from heartvit_edge.spec.budget import Budget, parse_joint
from heartvit_edge.spec.plan import BlockPlan

SYMMETRIC = PlanOptions(symmetric=True)
SITES = (1, 2, 3)


def _table(seed=0, **changes):
    return drawn_table(seed, sites=SITES, **changes)


def _every_plan(table):
    """Give loss and blocks of every symmetric plan, the loss paid site by site; the last tokens are the fewest."""
    heads = np.maximum(table.info.heads_mean, 0) if table.info.heads_mean else np.zeros((SHAPE.depth, 1))
    curves = {site: token_curve(scores) for site, scores in table.tokens.items()}
    for heads_gone in range(heads.shape[1]):
        orders = np.argsort(heads, axis=1)
        for first in range(16, 0, -1):
            counts = [max(1, round(16 * (first / 16) ** power)) for power in (1, 2, 3)]
            loss, before = 0.0, 16
            for site, count in zip(SITES, counts, strict=True):
                loss += curves[site][16 - count] - curves[site][16 - before]
                before = count
            loss += np.sort(heads, axis=1)[:, :heads_gone].sum()
            kept = [sorted(set(range(3)) - set(order[:heads_gone].tolist())) for order in orders]
            tokens = (17, *(1 + count for count in counts))
            yield loss, [BlockPlan(kept_heads=k, num_tokens=n) for k, n in zip(kept, tokens, strict=True)]


@pytest.mark.parametrize(("ratio", "counts"), [(0.5, (98, 49, 24)), (0.7, (137, 96, 67)), (1.0, (196, 196, 196))])
def test_each_site_keeps_the_same_share_of_what_the_one_before_left(ratio, counts):
    assert symmetric_counts(196, ratio, 3) == counts


def test_a_site_keeps_at_least_one_patch():
    assert symmetric_counts(16, 1 / 16, 3) == (1, 1, 1)


@pytest.mark.parametrize("limit", [0.9, 0.7, 0.5, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_every_block_keeps_as_many_heads_and_every_site_the_same_share(limit, seed):
    plan = make_plan(_table(seed), (Budget(limit=limit),), SYMMETRIC)
    assert plan.symmetric
    assert len({len(block.kept_heads) for block in plan.blocks}) == 1
    kept = [plan.blocks[site].num_tokens - 1 for site in SITES]
    assert kept == [max(1, round(16 * (kept[0] / 16) ** power)) for power in (1, 2, 3)]


@pytest.mark.parametrize("limit", [0.9, 0.7, 0.5, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_of_each_number_of_heads_most_tokens_are_kept_and_of_those_plans_the_least_loss_is_taken(limit, seed):
    table = _table(seed)
    plan = make_plan(table, (Budget(limit=limit),), SYMMETRIC)
    fitting = {}
    for loss, blocks in _every_plan(table):
        if plan_macs(SHAPE, blocks) <= limit * dense_macs(SHAPE):
            fitting.setdefault(len(blocks[0].kept_heads), (loss, blocks))
    loss, blocks = min(fitting.values(), key=lambda pair: pair[0])
    assert list(plan.blocks) == blocks
    assert plan.predicted_loss_nats == pytest.approx(loss, rel=1e-6)
    assert plan.macs <= limit * dense_macs(SHAPE)


@pytest.mark.parametrize("with_table", [False, True])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_under_a_loss_budget_the_cheapest_is_taken(limit, with_table):
    table = _table()
    device = make_device_table(shape=SHAPE, tokens=range(2, 18), heads=(1, 3)) if with_table else None
    plan = make_plan(table, (Budget(quantity="loss-nats", limit=limit),), PlanOptions(symmetric=True, table=device))
    cost, goal = CostModel(SHAPE, 0, device), "latency-ms" if with_table else "macs"
    least = min(cost.cost(goal, blocks) for loss, blocks in _every_plan(table) if loss <= limit)
    assert cost.cost(goal, plan.blocks) == pytest.approx(least, rel=1e-12)
    assert plan.predicted_loss_nats <= limit


def test_without_leave_to_remove_heads_tokens_alone_go():
    plan = make_plan(_table(), (Budget(limit=0.5),), PlanOptions(symmetric=True, prune_heads=False))
    assert all(len(block.kept_heads) == 3 for block in plan.blocks)
    assert plan.sites.keys() == set(SITES)


def test_the_sites_are_the_quarters_unless_others_are_asked_for():
    table = _table()
    assert set(make_plan(table, (Budget(limit=0.5),), SYMMETRIC).sites) == {1, 2, 3}
    assert set(make_plan(table, (Budget(limit=0.6),), PlanOptions(symmetric=True, sites=(1, 3))).sites) == {1, 3}
    assert set(make_plan(drawn_table(sites=(2,)), (Budget(limit=0.6),), SYMMETRIC).sites) == {2}


def test_whole_mlps_stay_though_unit_groups_are_scored():
    plan = make_plan(_table(unit_groups=2), (Budget(limit=0.5),), SYMMETRIC)
    assert all(block.kept_units is None for block in plan.blocks)


@pytest.mark.parametrize("text", ["macs=0.1", "macs=0.5,loss-nats=0.001", "params=0.2"])
def test_budgets_that_no_symmetric_plan_meets_are_named_with_the_least_of_each(text):
    plans = list(_every_plan(_table()))
    cost = CostModel(SHAPE)
    least = {
        "macs": min(cost.cost("macs", blocks) for _, blocks in plans) / dense_macs(SHAPE),
        "params": min(cost.cost("params", blocks) for _, blocks in plans) / dense_params(SHAPE),
        "loss-nats": 0.0,
    }
    with pytest.raises(InfeasibleError) as caught:
        make_plan(_table(), parse_joint(text), SYMMETRIC)
    reached = ", ".join(f"{budget.quantity} {least[budget.quantity]:.4g}" for budget in parse_joint(text))
    assert str(caught.value) == (
        f"no symmetric plan with sites 1, 2, 3 meets {text.replace(',', ', ')}: the least of each is {reached}"
    )
    assert caught.value.exit_code == 4
    assert caught.value.hint == "allow more, or leave --symmetric out"


def test_with_a_device_table_the_counts_are_lowered_to_measured_ones():
    device = make_device_table(shape=SHAPE, tokens=(3, 7, 11, 17), heads=(1, 3))
    for limit in (8.0, 12.0, 16.0, 20.0):
        plan = make_plan(_table(), parse_joint(f"latency-ms={limit}"), PlanOptions(symmetric=True, table=device))
        assert {block.num_tokens for block in plan.blocks} <= {3, 7, 11, 17}
        assert plan.latency_ms <= limit


@pytest.mark.parametrize("seed", range(2))
def test_a_symmetric_plan_never_beats_the_best_of_the_same_counts(seed):
    # Sixteenths of tokens are all on offer to both, so that the best plan is at least as good.
    table = _table(seed)
    device = make_device_table(shape=SHAPE, tokens=range(2, 18), heads=(1, 2, 3))
    for text in ("latency-ms=20", "latency-ms=14", "latency-ms=10"):
        symmetric = make_plan(table, parse_joint(text), PlanOptions(symmetric=True, table=device))
        best = make_plan(table, parse_joint(text), PlanOptions(table=device))
        assert best.predicted_loss_nats <= symmetric.predicted_loss_nats * (1 + 1e-6)
