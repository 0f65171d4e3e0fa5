"""A plan is accepted by what it loses when measured, on images that it was not made on where there are some."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from fakes.device_tables import make_device_table
from fakes.measured_plans import World
from fakes.small_plans import SHAPE, SOURCE, drawn_table, every_allowed_plan, loss_of, make_table

from heartvit_edge.allocation.accept import MOST_TIGHTENINGS, accept_plan
from heartvit_edge.allocation.cost import dense_macs, plan_macs
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.plan import PlanOptions, dense_blocks, dense_plan, make_plan
from heartvit_edge.allocation.refine import Effort
from heartvit_edge.errors import InfeasibleError, InputError
from heartvit_edge.spec.budget import parse_joint
from heartvit_edge.spec.plan import BlockPlan, PruningPlan

SITES = (1, 2, 3)
BRIEF = Effort(rounds=4, proposals=2)


def _table(seed=0, **changes):
    """Return scores that know nothing of the world, but that early tokens are worth most."""
    return drawn_table(seed + 100, sites=SITES, **{"head_scale": 0.1} | changes)


def _accept(
    text, world, held_out=None, *, scores=None, told=None, effort=BRIEF, counted=None, deciding=None, **options
):
    return accept_plan(
        scores or _table(),
        parse_joint(text),
        PlanOptions(**options),
        world.images("planning", counted=counted, deciding=deciding),
        held_out and held_out.images("held out"),
        effort=effort,
        tell=(told if told is not None else []).append,
    )


def _pair(seed, **changes):
    """Return a world on images to plan on and on others, which lose ``scale`` times as much."""
    return World.draw(seed, images_seed=1), World.draw(seed, images_seed=2, num_images=40, **changes)


def _symmetric(plan):
    kept = [plan.blocks[site].num_tokens - 1 for site in SITES]
    return kept == [max(1, round(16 * (kept[0] / 16) ** power)) for power in (1, 2, 3)]


def _level_plans():
    """Give plans that keep the same share at each site, down to the next count on offer, from the largest share."""
    for first in range(16, 0, -1):
        wanted = [17, *(1 + max(1, round(16 * (first / 16) ** power)) for power in (1, 2, 3))]
        counts = [max(count for count in SHAPE.token_counts() if count <= most) for most in wanted if most >= 4]
        if len(counts) == 4:
            yield tuple(BlockPlan(kept_heads=(0, 1, 2), num_tokens=count) for count in counts)


def _is_part(smaller, larger):
    return all(
        own.num_tokens <= most.num_tokens and set(own.kept_heads) <= set(most.kept_heads)
        for own, most in zip(smaller.blocks, larger.blocks, strict=True)
    )


def test_a_plan_says_what_it_loses_on_the_images_it_was_made_on_and_on_others():
    world, others = _pair(0)
    plan = _accept("macs=0.6", world, others)
    own, other = world.losses(plan.blocks), others.losses(plan.blocks)
    assert plan.predicted_loss_nats == pytest.approx(own.mean())
    assert plan.predicted_loss_stderr_nats == pytest.approx(own.std(ddof=1) / 24**0.5)
    assert plan.check.loss_nats == pytest.approx(other.mean())
    assert plan.check.loss_stderr_nats == pytest.approx(other.std(ddof=1) / 40**0.5)
    assert plan.check.num_agreeing == 36
    assert plan.check.agreement == 0.9
    assert (plan.refined_on.name, plan.check.images.name, plan.chosen_by) == ("planning", "held out", "scores")


def test_without_other_images_a_plan_is_not_checked():
    plan = _accept("macs=0.6", World.draw(0))
    assert plan.check is None
    assert plan.refined_on.name == "planning"


@pytest.mark.parametrize("text", ["macs=0.7", "macs=0.55", "params=0.9", "macs=0.75,params=0.95"])
def test_a_plan_is_within_its_budgets_and_loses_no_more_than_those_that_scores_propose(text):
    world, table = World.draw(0, bend=0.3), _table()
    plan = _accept(text, world, scores=table)
    cost = CostModel(SHAPE)
    for budget in parse_joint(text):
        assert cost.cost(budget.quantity, plan.blocks) <= cost.limit(budget)
    for options in (PlanOptions(), PlanOptions(prune_heads=False)):
        if "params" not in text or options.prune_heads:
            proposed = make_plan(table, parse_joint(text), options)
            assert plan.predicted_loss_nats <= world.losses(proposed.blocks).mean()


def _level_is_best():
    """Return scores by which tokens are free from block 1 on, and a world where it is dear to be left with few."""
    by_site = {site: np.full((6, SHAPE.num_patches), 0.1 * (site > 1), dtype=np.float32) for site in SITES}
    return make_table(by_site, sites=SITES), World.draw(0, power=8.0)


def test_a_plan_starts_no_worse_than_one_that_keeps_the_same_share_at_each_site():
    scores, world = _level_is_best()
    level = next(blocks for blocks in _level_plans() if plan_macs(SHAPE, blocks) <= 0.7 * dense_macs(SHAPE))
    proposed = make_plan(scores, parse_joint("macs=0.7")).blocks
    assert world.losses(level).mean() < 0.5 * world.losses(proposed).mean()
    assert _accept("macs=0.7", world, scores=scores, effort=Effort(rounds=0)).blocks == level


def test_a_plan_starts_no_worse_than_one_whose_tokens_grow_fewer_block_by_block():
    by_site = {site: np.full((6, SHAPE.num_patches), 0.1 * (site > 1), dtype=np.float32) for site in SITES}
    scores, world = make_table(by_site, sites=SITES), World.draw(0, power=8.0)
    worth = np.array([0.0, 1.0, 1e-3, 1e-6])  # what is missing early is dear, and late it is free
    world = replace(world, tokens=np.tile(worth, (24, 1)), heads=world.heads + 1)
    wanted = [
        [17, *(1 + round(16 - gone * (site / 3) ** power) for site in SITES)]
        for power in (1.0, 1.5)
        for gone in range(16)
    ]
    sloping = [
        tuple(
            BlockPlan(kept_heads=(0, 1, 2), num_tokens=max(count for count in SHAPE.token_counts() if count <= most))
            for most in row
        )
        for row in wanted
        if min(row) >= min(SHAPE.token_counts())
    ]
    affordable = [blocks for blocks in sloping if plan_macs(SHAPE, blocks) <= 0.7 * dense_macs(SHAPE)]
    best = min(affordable, key=lambda blocks: world.losses(blocks).mean())
    found = _accept("macs=0.7", world, scores=scores, effort=Effort(rounds=0))
    assert found.predicted_loss_nats <= world.losses(best).mean()
    assert found.blocks in sloping


def test_latency_and_energy_are_those_of_the_device_table():
    device = make_device_table(mj=lambda n, h: 2.0 + n * h, shape=SHAPE, tokens=(4, 8, 12, 17), heads=(1, 3))
    plan = _accept("latency-ms=14,energy-mj=130", World.draw(0), table=device)
    cost = CostModel(SHAPE, 0, device)
    assert plan.latency_ms == cost.cost("latency-ms", plan.blocks) <= 14
    assert plan.energy_mj == cost.cost("energy-mj", plan.blocks) <= 130
    assert plan.device_table_sha256 == device.digest()


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_a_loss_budget_holds_on_other_images_standard_error_included(limit, seed):
    world, others = _pair(seed)
    plan = _accept(f"loss-nats={limit}", world, others, scores=_table(seed))
    losses = others.losses(plan.blocks)
    assert losses.mean() + losses.std(ddof=1) / 40**0.5 <= limit
    assert plan.macs < plan.dense_macs
    assert plan.check.num_tightenings <= 3


@pytest.mark.parametrize("scale", [1.5, 4.0])
@pytest.mark.parametrize("seed", range(2))
def test_where_other_images_lose_more_the_budget_is_tightened_until_it_holds_there(scale, seed):
    told = []
    world, others = _pair(seed, scale=scale)
    plan = _accept("loss-nats=0.3", world, others, scores=_table(seed), told=told)
    losses = others.losses(plan.blocks)
    assert losses.mean() + losses.std(ddof=1) / 40**0.5 <= 0.3
    assert plan.check.num_tightenings == sum("is over 0.3: tightened" in line for line in told) > 0
    assert plan.budgets == parse_joint("loss-nats=0.3")
    # It is not given up for the dense plan: the least that a plan costs there is near.
    problem = world.problem(
        SITES, SHAPE.token_counts(), (CostModel(SHAPE).resource("macs", SHAPE.token_counts(), 3, 1),)
    )
    costs = [
        problem.cost(problem.resources[0], p) for p in every_allowed_plan(problem) if loss_of(problem, p) * scale <= 0.3
    ]
    assert plan.macs <= 1.3 * min(costs)


def test_a_loss_budget_that_no_plan_keeps_on_other_images_is_infeasible():
    world, others = _pair(0, floor=1.0)
    told = []
    with pytest.raises(InfeasibleError) as caught:
        _accept("loss-nats=0.3", world, others, told=told)
    assert caught.value.exit_code == 4
    assert "no plan was found that loses at most 0.3 nats when measured: the last loses 1" in str(caught.value)
    assert float(caught.value.hint.split("loss-nats=")[1].split(",")[0]) > 1
    assert sum("tightened" in line for line in told) == 1 + MOST_TIGHTENINGS


def test_a_cost_that_no_plan_meets_is_infeasible_before_any_plan_runs():
    ran = []
    with pytest.raises(InfeasibleError, match=r"no plan has at most 0.1 of the dense MACs"):
        _accept("macs=0.1", World.draw(0), counted=ran)
    assert not ran


def test_a_loss_that_scores_foresee_at_no_such_cost_is_refused_only_when_measured():
    scores = _table(head_scale=50.0)
    dear = replace(scores, tokens={site: 100 * rows for site, rows in scores.tokens.items()})
    for limit in (0.9, 0.001):
        with pytest.raises(InfeasibleError, match=r"no plan within macs=0.6 loses at most"):
            make_plan(dear, parse_joint(f"macs=0.6,loss-nats={limit}"))
    found = _accept("macs=0.6,loss-nats=0.9", World.draw(0), scores=dear)
    assert found.predicted_loss_nats <= 0.9
    assert found.macs_fraction <= 0.6
    with pytest.raises(InfeasibleError, match=r"no plan was found that loses at most 0.001 nats when measured"):
        _accept("macs=0.6,loss-nats=0.001", World.draw(0), scores=dear, effort=Effort(rounds=1, proposals=0))


def test_a_cost_and_a_loss_budget_hold_together():
    world, others = _pair(1)
    plan = _accept("macs=0.8,loss-nats=0.6", world, others, scores=_table(1))
    assert plan.macs_fraction <= 0.8
    assert plan.check.loss_nats + plan.check.loss_stderr_nats <= 0.6


@pytest.mark.parametrize("text", ["macs=1", "params=1", "macs=1,params=1"])
def test_where_everything_is_met_the_dense_plan_is_found_without_running_one(text):
    ran = []
    plan = _accept(text, World.draw(0), counted=ran)
    assert plan.blocks == dense_blocks(SHAPE)
    assert (plan.predicted_loss_nats, plan.check, plan.refined_on) == (0, None, None)
    assert plan.budgets == parse_joint(text)
    assert not ran


def test_a_loss_that_rounding_makes_negative_is_stored_as_none_and_read_again(tmp_path):
    world = World.draw(0, scale=1e-12, floor=-1e-9)
    plan = _accept("loss-nats=0.1", world, world)
    assert plan.predicted_loss_nats == 0
    assert plan.check.loss_nats < 0
    plan.write(tmp_path / "plan.json")
    assert PruningPlan.read(tmp_path / "plan.json") == plan


@pytest.mark.parametrize("text", ["macs=0.6", "loss-nats=0.3"])
def test_a_symmetric_plan_is_measured_and_not_changed(text):
    world, others = _pair(0)
    plan = _accept(text, world, others, symmetric=True)
    assert plan.symmetric
    assert _symmetric(plan)
    assert len({len(block.kept_heads) for block in plan.blocks}) == 1
    assert plan.check.loss_nats == pytest.approx(others.losses(plan.blocks).mean())
    if text.startswith("macs"):
        assert plan.blocks == make_plan(_table(), parse_joint(text), PlanOptions(symmetric=True)).blocks
        assert plan.predicted_loss_nats == pytest.approx(world.losses(plan.blocks).mean())
    else:
        assert plan.check.loss_nats + plan.check.loss_stderr_nats <= 0.3


def test_a_symmetric_plan_is_tightened_too():
    world, others = _pair(0, scale=4.0)
    plan = _accept("loss-nats=0.3", world, others, symmetric=True)
    assert _symmetric(plan)
    assert plan.check.loss_nats + plan.check.loss_stderr_nats <= 0.3


def test_a_symmetric_plan_that_scores_cannot_make_milder_is_refused_with_what_it_loses():
    world, others = _pair(0, scale=30.0)
    with pytest.raises(InfeasibleError, match="no plan was found that loses at most 1 nats when measured: the last"):
        _accept("macs=0.8,loss-nats=1", world, others, symmetric=True)


@pytest.mark.parametrize("seed", range(2))
def test_plans_within_larger_ones_are_parts_of_them(seed):
    world, within = World.draw(seed, bend=0.3), None
    for limit in (0.8, 0.6, 0.5):
        plan = _accept(f"macs={limit}", world, scores=_table(seed), within=within)
        assert plan.macs_fraction <= limit
        assert within is None or (_is_part(plan, within) and plan.nested_in_sha256 == within.digest())
        within = plan


@pytest.mark.parametrize("seed", range(2))
def test_plans_of_growing_loss_budgets_are_nested_though_scores_may_see_no_such_plan(seed):
    # Scores by which heads are dear see no plan within the first that loses so little as the second may.
    world, others = (replace(one, heads=0.1 * one.heads) for one in _pair(seed))
    table = _table(seed)
    first = _accept("loss-nats=0.3", world, others, scores=table)
    assert any(len(block.kept_heads) < 3 for block in first.blocks)
    dear = replace(table, info=table.info.model_copy(update={"heads_mean": ((50.0,) * 3,) * 4}))
    with pytest.raises(InfeasibleError):
        make_plan(dear, parse_joint("loss-nats=0.5"), PlanOptions(within=first))
    second = _accept("loss-nats=0.5", world, others, scores=dear, within=first)
    assert _is_part(second, first)
    assert second.macs <= first.macs
    assert second.check.loss_nats + second.check.loss_stderr_nats <= 0.5


@pytest.mark.parametrize("max_sites", [1, 2])
def test_tokens_go_at_no_more_sites_than_allowed_whatever_plan_is_begun_with(max_sites):
    scores, world = _level_is_best()
    plan = _accept("macs=0.7", world, scores=scores, max_sites=max_sites, effort=Effort(rounds=0))
    assert 0 < len(plan.sites) <= max_sites
    # A larger plan whose sites are not the first makes level ones drop at more sites than asked for.
    counts = (17, 17, 16, 16) if max_sites == 1 else (17, 17, 16, 12)
    blocks = tuple(BlockPlan(kept_heads=(0, 1, 2), num_tokens=count) for count in counts)
    within = dense_plan(SOURCE, SHAPE).model_copy(update={"blocks": blocks})
    nested = _accept("macs=0.7", world, scores=scores, max_sites=max_sites, within=within, effort=Effort(rounds=0))
    assert 0 < len(nested.sites) <= max_sites
    assert _is_part(nested, within)


def test_the_same_seed_gives_the_same_plan():
    plans = [_accept("macs=0.55", *_pair(3), scores=_table(3)) for _ in range(2)]
    assert plans[0] == plans[1]


def test_scores_that_only_rank_lead_to_a_measured_loss_in_nats():
    table = _table(heads=False)
    ranked = replace(table, info=table.info.model_copy(update={"in_nats": False}))
    world = World.draw(0)
    plan = _accept("macs=0.6", world, scores=ranked)
    assert plan.predicted_loss_nats == pytest.approx(world.losses(plan.blocks).mean())
    with pytest.raises(InputError, match="only ranks, and a loss budget needs losses in nats"):
        _accept("loss-nats=0.3", world, scores=ranked)


def test_a_budget_that_binds_and_its_price_come_from_the_plans_around():
    world = World.draw(0)
    plan = _accept("macs=0.6", world, effort=Effort(rounds=20, proposals=2))
    assert plan.binding == ("macs",)
    assert 0 < plan.nats_per_percent < plan.predicted_loss_nats / 5  # over five percent not all of it is saved


def test_other_images_decide_between_the_plans_of_the_way_and_say_what_the_chosen_one_loses():
    world, others = _pair(0)
    told = []
    plan = _accept("macs=0.6", world, deciding=others, told=told)
    losses = others.losses(plan.blocks)
    assert plan.predicted_loss_nats == pytest.approx(losses.mean())
    assert plan.predicted_loss_stderr_nats == pytest.approx(losses.std(ddof=1) / 40**0.5)
    assert (plan.refined_on.name, plan.decided_on.name) == ("planning", "deciding")
    assert f"40 other images decide for {losses.mean():.4g} nats" in told


def test_a_plan_that_was_lucky_on_the_images_it_was_made_on_is_not_taken():
    world = World.draw(0, images_seed=1, num_images=6, spread=1.5)
    others = World.draw(0, images_seed=2, num_images=400, spread=0.3)
    lucky = _accept("macs=0.6", world, effort=Effort(rounds=8, proposals=2))
    decided = _accept("macs=0.6", world, deciding=others, effort=Effort(rounds=8, proposals=2))
    assert world.losses(lucky.blocks).mean() < world.losses(decided.blocks).mean()
    assert others.losses(decided.blocks).mean() < others.losses(lucky.blocks).mean()


def test_a_plan_with_heads_loses_no_more_where_other_images_decide_than_one_of_tokens_alone():
    for seed in range(4):
        world, others = _pair(seed, bend=0.3)
        tokens = _accept("macs=0.6", world, deciding=others, scores=_table(seed), prune_heads=False)
        joint = _accept("macs=0.6", world, deciding=others, scores=_table(seed), effort=Effort(rounds=6, proposals=2))
        assert joint.predicted_loss_nats <= tokens.predicted_loss_nats + 1e-12


def test_the_price_of_a_percent_is_that_of_the_plan_that_was_decided_for():
    world, others = _pair(1)
    plan = _accept("macs=0.6", world, deciding=others)
    assert plan.nats_per_percent > 0
    assert plan.binding == ("macs",)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_a_loss_budget_holds_on_the_images_that_decide(limit):
    world, others = _pair(0, scale=1.5)
    plan = _accept(f"loss-nats={limit}", world, deciding=others)
    losses = others.losses(plan.blocks)
    assert losses.mean() + losses.std(ddof=1) / 40**0.5 <= limit
    assert world.losses(plan.blocks).mean() < limit


@pytest.mark.parametrize("seed", range(2))
def test_a_plan_refused_on_held_out_images_is_not_decided_for_again_and_one_met_on_the_way_may_do(seed):
    world, others = _pair(seed)
    told = []
    plan = _accept("loss-nats=0.3", world, replace(others, scale=1.15), deciding=others, scores=_table(seed), told=told)
    decided = [float(line.split(" for ")[1].split()[0]) for line in told if "other images decide" in line]
    assert len(decided) == plan.check.num_tightenings + 1 > 1
    assert all(after < before for before, after in pairwise(decided))
    assert sum("measured on" in line for line in told) < len(decided)
    assert plan.check.loss_nats + plan.check.loss_stderr_nats <= 0.3
