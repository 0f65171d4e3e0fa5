"""A plan keeps the best heads, pays what its scores say, and says what it was made from."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from fakes.device_tables import make_device_table
from fakes.small_plans import SHAPE, SOURCE, drawn_table, make_table

from heartvit_edge.allocation.cost import block_macs, dense_macs, dense_params, fixed_macs, plan_macs, plan_params
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.plan import PlanOptions, dense_plan, make_plan
from heartvit_edge.allocation.predict import loss_stderr
from heartvit_edge.errors import InfeasibleError, InputError
from heartvit_edge.spec.budget import Budget, parse_joint

ALL_HEADS = tuple(range(SHAPE.num_heads))


def _table(*, heads=True, seed=0, scorer="removal-gate", head_scale=0.05):
    """Return scores of 6 images at blocks 1 and 3, which rank tokens alike, and scores of every head."""
    random = np.random.default_rng(seed)
    shared = random.lognormal(-3, 1, (6, SHAPE.num_patches))
    tokens = {site: (shared / site).astype(np.float32) for site in (1, 3)}
    scores = random.lognormal(0, 1, (SHAPE.depth, SHAPE.num_heads)) * head_scale
    return make_table(tokens, scores if heads else None, scorer=scorer)


def _least_macs():
    """Return the MACs with one head everywhere and the fewest tokens from block 1 on."""
    fewest = SHAPE.token_counts()[0]
    first = block_macs(SHAPE, SHAPE.num_tokens, 1)
    return fixed_macs(SHAPE) + first + (SHAPE.depth - 1) * block_macs(SHAPE, fewest, 1)


def _token_loss(table, plan):
    """Return the mean over images of the scores paid as each site drops the least-scored of what is left."""
    total = 0.0
    scores = {site: found.tolist() for site, found in table.tokens.items()}
    for image in range(6):
        gone = set()
        for site, kept in plan.sites.items():
            here = scores[site][image]
            for patch in sorted(range(SHAPE.num_patches), key=here.__getitem__):
                if patch not in gone and len(gone) < SHAPE.num_tokens - kept:
                    gone.add(patch)
                    total += here[patch]
    return total / 6


def _head_loss(table, plan):
    return sum(
        table.info.heads_mean[block][head]
        for block, kept in enumerate(plan.blocks)
        for head in ALL_HEADS
        if head not in kept.kept_heads
    )


@pytest.mark.parametrize("limit", [0.95, 0.8, 0.65, 0.5, 0.4])
def test_a_plan_is_within_its_budget_and_says_its_true_macs(limit):
    plan = make_plan(_table(), (Budget(limit=limit),))
    assert plan.macs == plan_macs(SHAPE, plan.blocks)
    assert plan.dense_macs == dense_macs(SHAPE)
    assert plan.macs_fraction <= limit
    assert plan.budgets == (Budget(limit=limit),)


@pytest.mark.parametrize("limit", [0.8, 0.5])
def test_the_predicted_loss_is_what_the_plan_pays_token_by_token_and_head_by_head(limit):
    table = _table()
    plan = make_plan(table, (Budget(limit=limit),))
    paid = _token_loss(table, plan) + _head_loss(table, plan)
    assert paid > 0
    assert plan.predicted_loss_nats == pytest.approx(paid, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_heads_that_are_kept_are_the_best_of_their_block(seed):
    table = _table(seed=seed)
    plan = make_plan(table, (Budget(limit=0.45),))
    counts = [len(block.kept_heads) for block in plan.blocks]
    assert min(counts) < SHAPE.num_heads
    for scores, block, count in zip(table.info.heads_mean, plan.blocks, counts, strict=True):
        best = sorted(ALL_HEADS, key=lambda head: -scores[head])[:count]
        assert set(block.kept_heads) == set(best)


def test_tokens_go_at_the_scored_sites_alone():
    plan = make_plan(_table(head_scale=100.0), (Budget(limit=0.6),))
    assert set(plan.sites) <= {1, 3}
    assert plan.sites
    assert set(plan.sites.values()) <= set(SHAPE.token_counts())


def test_a_smaller_budget_never_predicts_less_loss():
    table = _table()
    losses = [make_plan(table, (Budget(limit=limit),)).predicted_loss_nats for limit in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


def test_heads_that_are_worth_nothing_go_before_tokens_that_are_worth_something():
    plan = make_plan(_table(head_scale=0.0), (Budget(limit=0.8),))
    assert plan.sites == {}
    assert plan.predicted_loss_nats == 0
    assert sum(len(block.kept_heads) for block in plan.blocks) < SHAPE.depth * SHAPE.num_heads


def test_without_leave_to_remove_heads_every_head_stays_and_the_plan_says_so():
    table = _table(head_scale=0.0)
    plan = make_plan(table, (Budget(limit=0.7),), PlanOptions(prune_heads=False))
    assert all(block.kept_heads == ALL_HEADS for block in plan.blocks)
    assert not plan.prune_heads
    assert plan.predicted_loss_nats == pytest.approx(_token_loss(table, plan), rel=1e-5)


def test_a_scorer_of_tokens_alone_keeps_every_head():
    plan = make_plan(_table(heads=False, scorer="class-attention"), (Budget(limit=0.7),))
    assert all(block.kept_heads == ALL_HEADS for block in plan.blocks)
    assert plan.scorer == "class-attention"


@pytest.mark.parametrize("prune_heads", [True, False])
def test_a_budget_of_everything_gives_the_dense_plan_which_says_what_it_was_made_from(prune_heads):
    table = _table(head_scale=0.0)
    plan = make_plan(table, (Budget(limit=1.0),), PlanOptions(prune_heads=prune_heads))
    dense = dense_plan(SOURCE, SHAPE)
    assert plan.is_dense
    assert plan.blocks == dense.blocks
    assert plan.macs == plan.dense_macs == dense_macs(SHAPE)
    assert plan.predicted_loss_nats == 0
    assert plan.budgets == (Budget(limit=1.0),)
    assert (plan.scorer, plan.sensitivity_sha256) == ("removal-gate", table.info.digest())
    assert plan.prune_heads is prune_heads


def test_the_dense_plan_was_made_from_no_scores():
    plan = dense_plan(SOURCE, SHAPE)
    assert plan.is_dense
    assert plan.macs_fraction == 1
    assert (plan.budgets, plan.scorer, plan.sensitivity_sha256) == ((), None, None)


def test_a_plan_records_the_digest_of_the_file_of_its_scores(tmp_path):
    table = _table()
    table.info.write(tmp_path / "sensitivity.json")
    stored = hashlib.sha256((tmp_path / "sensitivity.json").read_bytes()).hexdigest()
    plan = make_plan(table, (Budget(limit=0.7),))
    assert plan.sensitivity_sha256 == stored
    assert plan.source == SOURCE
    assert plan.shape == SHAPE


def test_a_scorer_that_scores_no_tokens_is_refused():
    table = replace(_table(scorer="magnitude"), tokens={})
    with pytest.raises(InputError, match="scorer magnitude scores no tokens, which a plan needs") as caught:
        make_plan(table, (Budget(limit=0.7),))
    assert caught.value.hint == "score with --scorer removal-gate"
    assert caught.value.exit_code == 2


def test_a_budget_of_exactly_the_least_share_is_feasible():
    least = _least_macs()
    plan = make_plan(_table(), (Budget(limit=least / dense_macs(SHAPE)),))
    assert plan.macs == least
    assert plan.predicted_loss_nats > 0


def test_a_budget_below_the_least_share_is_infeasible():
    with pytest.raises(InfeasibleError, match="is the least"):
        make_plan(_table(), (Budget(limit=(_least_macs() - 1) / dense_macs(SHAPE)),))


def test_a_budget_that_is_exactly_a_plans_own_share_gives_that_plan():
    table = _table()
    for limit in np.linspace(0.4, 0.99, 30):
        plan = make_plan(table, (Budget(limit=float(limit)),))
        assert make_plan(table, (Budget(limit=plan.macs_fraction),)).predicted_loss_nats == pytest.approx(
            plan.predicted_loss_nats, rel=1e-5
        )


def test_a_plan_without_heads_is_told_what_limits_it():
    with pytest.raises(InfeasibleError, match=r"with sites 1, 3, at least 4 tokens and 3 of 3 heads a block"):
        make_plan(_table(), (Budget(limit=0.2),), PlanOptions(prune_heads=False))


def test_a_scorer_that_only_ranks_foresees_no_loss():
    scores = np.random.default_rng(0).random((3, SHAPE.num_patches)).astype(np.float32)
    table = make_table({1: scores, 3: scores}, scorer="token-norm")
    ranked = replace(table, info=table.info.model_copy(update={"in_nats": False}))
    assert make_plan(ranked, (Budget(limit=0.7),)).predicted_loss_nats is None


def test_a_plan_says_what_it_weighs_and_costs_on_the_device_and_what_limits_it():
    table = drawn_table(unit_groups=0)
    device = make_device_table(mj=lambda n, h: 2.0 + n * h, shape=SHAPE, tokens=(4, 8, 17), heads=(2, 3), batch_size=4)
    plan = make_plan(table, parse_joint("latency-ms=14,energy-mj=170"), PlanOptions(table=device))
    cost = CostModel(SHAPE, 0, device)
    assert (plan.params, plan.dense_params) == (plan_params(SHAPE, plan.blocks), dense_params(SHAPE))
    assert plan.latency_ms == cost.cost("latency-ms", plan.blocks) <= 14
    assert plan.energy_mj == cost.cost("energy-mj", plan.blocks) <= 170
    assert plan.device_table_sha256 == device.digest()
    assert plan.device_batch_size == 4
    assert plan.device.startswith("onnxruntime fp32 on ")
    assert plan.extrapolated == any(len(block.kept_heads) == 1 for block in plan.blocks)
    assert plan.binding == ("latency-ms",)
    assert plan.nats_per_percent > 0
    assert plan.predicted_loss_stderr_nats == pytest.approx(loss_stderr(table, plan.blocks))
    assert {block.num_tokens for block in plan.blocks} <= {4, 8, 17}


def test_without_a_device_table_nothing_is_said_of_a_device():
    plan = make_plan(drawn_table(), (Budget(limit=0.6),))
    assert (plan.latency_ms, plan.energy_mj, plan.device, plan.device_batch_size, plan.device_table_sha256) == (
        None,
    ) * 5
    assert not plan.extrapolated


def test_a_table_without_energy_leaves_it_open():
    device = make_device_table(shape=SHAPE, tokens=(4, 8, 17), heads=(2, 3))
    plan = make_plan(drawn_table(), (Budget(limit=0.6),), PlanOptions(table=device))
    assert plan.latency_ms is not None
    assert plan.energy_mj is None


def test_tokens_go_at_the_sites_asked_for_in_whatever_order():
    table, budgets = drawn_table(sites=(1, 2, 3)), (Budget(limit=0.75),)
    plan = make_plan(table, budgets, PlanOptions(sites=(3, 2), prune_heads=False))
    in_order = make_plan(table, budgets, PlanOptions(sites=(2, 3), prune_heads=False))
    assert plan.sites
    assert set(plan.sites) <= {2, 3}
    assert plan.blocks == in_order.blocks
    assert plan.allowed_sites == (3, 2)


def test_a_site_that_is_not_scored_is_refused():
    with pytest.raises(InputError, match="site 2 is not scored, only 1, 3") as caught:
        make_plan(_table(), (Budget(limit=0.6),), PlanOptions(sites=(1, 2)))
    assert caught.value.hint == "choose among those, or score again with --sites 1,2,3"


def test_a_loss_budget_of_a_scorer_that_only_ranks_is_refused():
    table = _table()
    ranked = replace(table, info=table.info.model_copy(update={"in_nats": False}))
    with pytest.raises(InputError, match="only ranks, and a loss budget needs losses in nats"):
        make_plan(ranked, parse_joint("macs=0.7,loss-nats=0.1"))


def test_a_plan_without_units_keeps_whole_mlps_and_one_with_them_says_their_number():
    plan = make_plan(drawn_table(unit_groups=4), (Budget(limit=0.4),))
    assert plan.unit_groups == 4
    assert any(block.kept_units is not None for block in plan.blocks)
    assert plan.macs == plan_macs(SHAPE, plan.blocks, 4)
    assert all(block.kept_units is None for block in make_plan(drawn_table(), (Budget(limit=0.4),)).blocks)
