"""Measuring neighbours leads from a plan to the best, or nearly, in a world whose best plan is known."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.device_tables import make_device_table
from fakes.measured_plans import Answers, World
from fakes.small_plans import SHAPE, cost_of, drawn_table, every_allowed_plan, loss_of

from heartvit_edge.allocation.cost import dense_macs, plan_macs
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.neighbours import steps_from
from heartvit_edge.allocation.plan import PlanOptions, dense_blocks, make_plan, starting_losses
from heartvit_edge.allocation.refine import Effort, mean_loss, refine
from heartvit_edge.spec.budget import parse_joint
from heartvit_edge.spec.plan import BlockPlan

SITES = (1, 2, 3)
BRIEF = Effort(proposals=2)
LONG = Effort(rounds=30, proposals=2)
SMALLEST = tuple(BlockPlan(kept_heads=(0,), num_tokens=count) for count in (17, 4, 4, 4))


class _Search:
    """What a search starts from: budgets, what is on offer, and scores that know nothing of the world."""

    def __init__(self, world, text, *, seed=0, **options):
        groups = world.units.shape[2]
        self.world, self.budgets = world, parse_joint(text)
        self.options = PlanOptions(**options)
        self.table = drawn_table(seed + 100, sites=SITES, unit_groups=groups, head_scale=0.1)
        self.offer = starting_losses(self.table, self.options)
        self.cost = CostModel(SHAPE, groups, self.options.table)

    def proposed(self):
        """Return the plan that the scores propose."""
        return make_plan(self.table, self.budgets, self.options).blocks

    def run(self, start=None, effort=BRIEF):
        start = self.proposed() if start is None else start
        return refine(
            start,
            Answers(self.world, start),
            lambda blocks: Answers(self.world, tuple(blocks)),
            self.offer,
            self.cost,
            self.budgets,
            max_sites=self.options.max_sites,
            effort=effort,
        )

    def every_plan(self):
        """Return the problem whose losses are the world's, and its plans within the limits."""
        limits = {budget.quantity: self.cost.limit(budget) for budget in self.budgets}
        max_loss = limits.pop("loss-nats", np.inf)
        columns = (self.offer.candidates, SHAPE.num_heads, max(self.offer.unit_groups, 1))
        limits.setdefault("macs", np.inf)
        resources = tuple(self.cost.resource(quantity, *columns, limit) for quantity, limit in limits.items())
        problem = self.world.problem(SITES, self.offer.candidates, resources)
        return problem, [plan for plan in every_allowed_plan(problem) if loss_of(problem, plan) <= max_loss]

    def within(self, blocks):
        return all(
            self.cost.cost(budget.quantity, blocks) <= self.cost.limit(budget)
            for budget in self.budgets
            if budget.quantity != "loss-nats"
        )


def _factors(cases):
    """Return for each search the loss where it ends over that of the best of all plans."""
    found = []
    for search, start in cases:
        problem, plans = search.every_plan()
        best = min(loss_of(problem, plan) for plan in plans)
        ended = mean_loss(search.run(start, Effort(proposals=8)).ran)
        assert ended >= best * (1 - 1e-9)
        found.append(ended / best)
    return found


def test_of_searches_from_what_scores_propose_most_end_at_the_best_plan_and_all_near_it():
    budgets = ("macs=0.8", "macs=0.6")
    factors = _factors((_Search(World.draw(seed), text, seed=seed), None) for seed in range(3) for text in budgets)
    assert np.median(factors) == pytest.approx(1)
    assert max(factors) < 1.2


def test_searches_find_back_from_a_plan_that_gave_up_far_too_much():
    searches = [_Search(World.draw(seed), "macs=0.8", seed=seed) for seed in range(3)]
    factors = _factors((search, SMALLEST) for search in searches)
    assert np.median(factors) < 1.5
    assert max(factors) < 2.5


@pytest.mark.parametrize("seed", range(2))
def test_where_losses_do_not_add_up_the_end_is_no_worse_than_the_start_and_within_every_budget(seed):
    for text in ("macs=0.7", "params=0.9", "macs=0.75,params=0.95"):
        search = _Search(World.draw(seed, bend=0.5, unit_groups=2), text, seed=seed)
        start = search.proposed()
        found = search.run(start)
        assert search.within(found.blocks)
        assert mean_loss(found.ran) <= search.world.losses(start).mean()
        assert found.ran.blocks == found.blocks
        np.testing.assert_array_equal(found.ran.losses, search.world.losses(found.blocks))


def test_unit_groups_join_in():
    search = _Search(World.draw(1, unit_groups=2), "macs=0.5", seed=1)
    start = search.proposed()
    found = search.run(start)
    assert mean_loss(found.ran) < search.world.losses(start).mean()
    assert [block.kept_units for block in found.blocks] != [block.kept_units for block in start]


@pytest.mark.parametrize("seed", range(2))
def test_counts_come_from_the_device_table_and_latency_is_within_its_budget(seed):
    table = make_device_table(shape=SHAPE, tokens=(3, 7, 11, 17), heads=(1, 2, 3))
    search = _Search(World.draw(seed), "latency-ms=14", seed=seed, table=table)
    found = search.run()
    assert {block.num_tokens for block in found.blocks} <= {3, 7, 11, 17}
    assert search.cost.cost("latency-ms", found.blocks) <= 14


@pytest.mark.parametrize("max_sites", [1, 2])
def test_tokens_go_at_no_more_sites_than_allowed(max_sites):
    for seed in range(2):
        found = _Search(World.draw(seed), "macs=0.5", seed=seed, max_sites=max_sites).run()
        assert len({block.num_tokens for block in found.blocks}) - 1 <= max_sites


def test_without_leave_to_remove_heads_none_goes():
    found = _Search(World.draw(0), "macs=0.6", prune_heads=False).run()
    assert all(block.kept_heads == (0, 1, 2) for block in found.blocks)


@pytest.mark.parametrize("limit", [0.1, 0.4])
@pytest.mark.parametrize("seed", range(2))
def test_under_a_loss_budget_the_cost_falls_nearly_to_the_least_and_the_budget_is_kept(seed, limit):
    search = _Search(World.draw(seed), f"loss-nats={limit}", seed=seed)
    found = search.run(dense_blocks(SHAPE), LONG)
    assert mean_loss(found.ran) <= limit
    problem, plans = search.every_plan()
    least = min(cost_of(problem, problem.resources[0], plan) for plan in plans)
    assert least <= plan_macs(SHAPE, found.blocks) < 1.1 * least


@pytest.mark.parametrize("seed", range(2))
def test_from_far_over_a_loss_budget_the_way_leads_back_within_it(seed):
    search = _Search(World.draw(seed), "loss-nats=0.2", seed=seed)
    assert search.world.losses(SMALLEST).mean() > 1
    found = search.run(SMALLEST, LONG)
    assert mean_loss(found.ran) <= 0.2


def test_a_loss_budget_beside_a_cost_keeps_both():
    search = _Search(World.draw(2), "macs=0.8,loss-nats=0.5", seed=2)
    start = make_plan(search.table, parse_joint("macs=0.8"), search.options).blocks
    found = search.run(start, LONG)
    assert mean_loss(found.ran) <= 0.5
    assert plan_macs(SHAPE, found.blocks) <= 0.8 * dense_macs(SHAPE)


def test_the_same_seed_ends_at_the_same_plan_on_the_same_way():
    search = _Search(World.draw(3, bend=0.5), "macs=0.55", seed=3)
    first, second = search.run(), search.run()
    assert (first.blocks, first.history) == (second.blocks, second.history)
    np.testing.assert_array_equal(first.neighbours.added, second.neighbours.added)


def test_without_a_round_the_start_is_the_end():
    search = _Search(World.draw(0), "macs=0.6")
    found = search.run(effort=Effort(rounds=0))
    assert found.blocks == search.proposed()
    assert len(found.history) == 1


@pytest.mark.parametrize("rounds", [0, 2, 20])
def test_the_neighbours_at_the_end_hold_every_step_at_tokens_from_there(rounds):
    search = _Search(World.draw(0), "macs=0.6")
    found = search.run(effort=Effort(rounds=rounds, proposals=2))
    assert found.neighbours.blocks == found.blocks
    assert found.neighbours.added.shape == (len(found.neighbours.steps), 24)
    assert {step for step in steps_from(found.blocks, search.offer) if step.shift} <= set(found.neighbours.steps)


@pytest.mark.parametrize("seed", range(2))
def test_the_best_plan_of_all_is_kept(seed):
    search = _Search(World.draw(seed), "macs=0.6", seed=seed)
    problem, plans = search.every_plan()
    best = min(plans, key=lambda plan: loss_of(problem, plan))
    counts = (17, *best.num_keep)
    by_worth = search.world.heads.mean(axis=0).argsort(axis=1)
    start = tuple(
        BlockPlan(kept_heads=sorted(heads[gone:].tolist()), num_tokens=count)
        for heads, gone, count in zip(by_worth, best.heads_removed, counts, strict=True)
    )
    assert search.world.losses(start).mean() == pytest.approx(loss_of(problem, best))
    assert search.run(start).blocks == start
