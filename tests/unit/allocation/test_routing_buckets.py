"""Buckets and thresholds against exhaustive search and closed forms."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from fakes.tiny_vit import make_vit, plan_of

from heartvit_edge.allocation.routing import (
    choose_buckets,
    choose_threshold,
    macs_of_counts,
    offered_counts,
    scaled_counts,
)
from heartvit_edge.model.zoo import _shape
from heartvit_edge.spec.model import ModelShape

DEIT = ModelShape(
    img_size=224,
    patch_size=16,
    embed_dim=384,
    depth=12,
    num_heads=6,
    head_dim=64,
    mlp_in_dim=1536,
    mlp_hidden_dim=1536,
    num_classes=1000,
    num_prefix_tokens=1,
    pool="token",
)
PLAN = plan_of(DEIT, {3: 136, 6: 96, 9: 64})


def total(needed, buckets, cost):
    """Return what images cost that go to the first bucket which holds them."""
    return sum(min(cost[bucket] for bucket in buckets if bucket >= count) for count in needed)


@pytest.mark.parametrize("seed", range(6))
def test_buckets_cost_as_little_as_the_best_of_all_subsets(seed):
    random = np.random.default_rng(seed)
    offered = sorted(random.choice(np.arange(1, 40), 9, replace=False).tolist())
    cost = {count: int(count**1.5 * 100) for count in offered}
    needed = random.integers(1, offered[-1] + 1, 30)
    number = 1 + seed % 4
    found = choose_buckets(needed, cost, number)
    assert len(found) <= number
    best = min(
        total(needed, subset, cost)
        for size in range(1, number + 1)
        for subset in combinations(offered, size)
        if subset[-1] >= needed.max()
    )
    assert total(needed, found, cost) == best


def test_a_bucket_that_no_image_takes_is_left_out():
    cost = {count: count for count in range(1, 20)}
    assert choose_buckets(np.array([4, 4, 9]), cost, 4) == (4, 9)


def test_later_sites_keep_their_share_in_steps_of_eight_where_the_plan_does():
    assert scaled_counts(PLAN, 135, "drop") == {3: 135, 6: 95, 9: 63}  # the plan's own
    assert scaled_counts(PLAN, 71, "drop") == {3: 71, 6: 47, 9: 31}  # 72 of 136 tokens: 50.8 and 33.9
    assert scaled_counts(PLAN, 7, "drop") == {3: 7, 6: 7, 9: 7}  # eight tokens are the least
    assert all((count + 1) % 8 == 0 for count in offered_counts(PLAN, "drop")[:-1])
    assert offered_counts(PLAN, "drop")[-1] == 196


@pytest.mark.parametrize("first", range(4, 196))
def test_fused_tails_take_one_token_at_each_site(first):
    one, two, three = scaled_counts(plan_of(DEIT, {3: 140, 6: 91, 9: 60}), first, "fuse").values()
    assert one > two > three >= 2


def test_counts_of_the_plan_cost_what_the_plan_says():
    plan = plan_of(DEIT, {3: 136, 6: 96, 9: 64}, {2: [0, 1], 5: [3]})
    assert macs_of_counts(plan, {3: 135, 6: 95, 9: 63}) == plan.macs


def test_the_threshold_gives_each_image_the_fewest_tokens_within_it_and_the_plans_macs_in_the_mean():
    random = np.random.default_rng(0)
    worth = random.lognormal(0, 1 + random.random((64, 1)), (64, 196))
    spent = np.sort(worth, axis=1).cumsum(axis=1).astype(np.float32)
    found = choose_threshold(PLAN, spent, "drop", 4)
    assert len(found.tails) == 4
    firsts = [counts[3] for counts in found.tails]
    for row, needed in zip(np.sort(worth, axis=1), found.needed, strict=True):
        assert row[: 196 - needed].sum() <= found.threshold * 1.0001
        assert needed <= firsts[0] or row[: 196 - needed + 1].sum() > found.threshold * 0.9999
    spread = [min(first for first in firsts if first >= needed) for needed in found.needed]
    macs = np.mean([macs_of_counts(PLAN, scaled_counts(PLAN, first, "drop")) for first in spread])
    assert found.mean_macs == pytest.approx(macs)
    assert 0.97 * PLAN.macs < found.mean_macs <= PLAN.macs
    assert len(set(spread)) > 2


def test_images_that_all_need_the_same_have_one_tail():
    spent = np.tile(np.arange(1, 17, dtype=np.float32), (8, 1))
    plan = plan_of(_shape(make_vit()), {1: 9, 3: 5})
    found = choose_threshold(plan, spent, "drop", 4)
    assert found.tails == ({1: 8, 3: 4},)
    assert found.mean_macs == plan.macs
