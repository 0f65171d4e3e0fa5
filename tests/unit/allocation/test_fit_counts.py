"""Tokens move between a plan's sites while the loss measured surely falls, and its costs stay within its limits."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from fakes.tiny_pack import SHAPE
from fakes.tiny_vit import plan_of

from heartvit_edge.allocation.cost import dense_macs, plan_macs
from heartvit_edge.allocation.fit_counts import FitEffort, fit_counts
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.routing import with_counts
from heartvit_edge.spec.budget import Budget

LARGE = SHAPE.model_copy(update={"img_size": 112, "patch_size": 8, "depth": 6})  # 196 patches
PREFIX = LARGE.num_prefix_tokens
COST = CostModel(LARGE)
START = {1: 150, 3: 100, 4: 60}
IMAGES = 40


def plan(counts=START, budget=None):
    """Return a plan that is limited by its own cost where no budget is given."""
    made = plan_of(LARGE, {site: PREFIX + count for site, count in counts.items()})
    return made.model_copy(update={"budgets": (budget or Budget(quantity="loss-nats", limit=0.1),)})


class World:
    """Losses that grow with the square of the tokens gone, at each site by a weight of its own."""

    def __init__(self, weights):
        self.weights, self.ran = dict(zip(START, weights, strict=True)), []

    def run(self, counts):
        self.ran.append(dict(counts))
        loss = sum(weight * (1 - counts[site] / LARGE.num_patches) ** 2 for site, weight in self.weights.items())
        return np.full(IMAGES, loss)


def macs(counts, of=None):
    return plan_macs(LARGE, with_counts(of or plan(), counts))


def test_tokens_go_where_they_are_worth_most_at_no_more_cost():
    world = World([0.1, 0.1, 5.0])
    found = fit_counts(plan(), COST, [world.run])
    assert found.counts[4] > START[4]
    assert found.counts[1] < START[1]
    assert found.losses.mean() < 0.7 * found.before.mean()
    np.testing.assert_allclose(found.before, World([0.1, 0.1, 5.0]).run(START))
    np.testing.assert_allclose(found.losses, World([0.1, 0.1, 5.0]).run(found.counts))
    assert macs(found.counts) <= plan().macs
    assert found.num_tried == len({tuple(ran.values()) for ran in world.ran}) - 1


def test_what_a_budget_leaves_room_for_is_used():
    limit = 1.05 * plan().macs / dense_macs(LARGE)
    found = fit_counts(plan(budget=Budget(limit=limit)), COST, [World([1.0, 1.0, 1.0]).run])
    assert plan().macs < macs(found.counts) <= limit * dense_macs(LARGE)


def test_a_plan_that_a_loss_budget_made_cheap_stays_as_cheap():
    both = (Budget(limit=1.2 * plan().macs / dense_macs(LARGE)), Budget(quantity="loss-nats", limit=0.1))
    found = fit_counts(plan().model_copy(update={"budgets": both}), COST, [World([0.1, 0.1, 5.0]).run])
    assert found.counts != START
    assert macs(found.counts) <= plan().macs


def test_every_site_goes_on_dropping_tokens():
    found = fit_counts(plan(), COST, [World([0.0, 5.0, 5.0]).run], effort=FitEffort(most_tried=300))
    falling = [LARGE.num_patches, *found.counts.values()]
    assert all(later < sooner for sooner, later in pairwise(falling))
    assert set(plan_of(LARGE, {s: PREFIX + c for s, c in found.counts.items()}).sites) == set(START)


@pytest.mark.parametrize(("each", "taken"), [((-1.0, 0.9), False), ((-0.06, -0.04), True), ((0.0, 0.0), False)])
def test_counts_are_taken_where_they_lose_less_by_more_than_the_error_of_the_difference(each, taken):
    def run(counts):
        return np.tile(each if counts != START else (0.0, 0.0), IMAGES)

    found = fit_counts(plan(), COST, [run], effort=FitEffort(most_tried=1))
    assert (found.counts != START) is taken
    assert found.losses.mean() == pytest.approx(sum(each) / 2 if taken else 0.0)


def test_what_loses_more_leaves_after_the_first_part():
    first, second = World([5.0, 0.1, 0.1]), World([5.0, 0.1, 0.1])
    fit_counts(plan(), COST, [first.run, second.run])
    assert 1 < len(second.ran) < len(first.ran)


def test_moves_keep_to_the_candidates():
    candidates = [PREFIX + count for count in range(20, 196, 20)]
    start = {1: 160, 3: 100, 4: 60}
    found = fit_counts(plan(start), COST, [World([0.1, 0.1, 5.0]).run], candidates=candidates)
    assert found.counts != start
    assert {PREFIX + count for count in found.counts.values()} <= set(candidates)


def test_tokens_that_enter_the_sites_are_limited_where_a_gate_costs_by_them():
    entering = LARGE.num_patches + 150 + 100
    world = World([5.0, 5.0, 0.1])
    free = fit_counts(plan(), COST, [world.run])
    held = fit_counts(plan(), COST, [world.run], most_entering=entering)
    assert LARGE.num_patches + free.counts[1] + free.counts[3] > entering
    assert LARGE.num_patches + held.counts[1] + held.counts[3] <= entering


def test_one_site_has_nothing_to_move():
    alone = plan({3: 100})
    found = fit_counts(alone, COST, [lambda _: np.full(3, 0.5)])
    assert (found.counts, found.num_tried) == ({3: 100}, 0)
    np.testing.assert_allclose(found.losses, found.before)


def test_the_seed_draws_the_moves():
    def found(seed):
        world = World([0.5, 1.0, 2.0])
        fit_counts(plan(), COST, [world.run], effort=FitEffort(most_tried=5, seed=seed))
        return world.ran

    assert found(1) == found(1) != found(2)


@pytest.mark.parametrize("counts", [{1: 120, 3: 120, 4: 2}, {1: 150, 3: 100, 4: 60}])
def test_blocks_have_the_counts_from_their_sites_on(counts):
    blocks = with_counts(plan(), counts)
    expected = [196, counts[1], counts[1], counts[3], counts[4], counts[4]]
    assert [block.num_tokens - PREFIX for block in blocks] == expected
    assert [block.kept_heads for block in blocks] == [block.kept_heads for block in plan().blocks]
