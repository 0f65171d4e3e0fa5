"""Steps from a plan stay on offer, and what they add is what was measured."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from fakes.measured_plans import Answers, World
from fakes.small_plans import SHAPE, SOURCE, drawn_table

from heartvit_edge.allocation.best import make_problem
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.neighbours import MOST_AT_ONCE, Neighbours, Step, steps_from, take
from heartvit_edge.allocation.plan import PlanOptions, dense_blocks, dense_plan, starting_losses
from heartvit_edge.allocation.problem import Choice
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.plan import BlockPlan

GROUPS = 4
LARGER = (17, 16, 12, 12)
STEPPED = (17, 12, 12, 8)


def _blocks(num_tokens, kept_heads=(0, 1, 2), kept_units=None):
    return tuple(BlockPlan(kept_heads=kept_heads, num_tokens=count, kept_units=kept_units) for count in num_tokens)


def _larger():
    """Return a plan without head 1 and unit group 3 of any block."""
    plan = dense_plan(SOURCE, SHAPE)
    return plan.model_copy(update={"blocks": _blocks(LARGER, (0, 2), (0, 1, 2)), "unit_groups": GROUPS})


def _offer(*, sites=(1, 2, 3), unit_groups=GROUPS, **options):
    return starting_losses(drawn_table(sites=sites, unit_groups=unit_groups), PlanOptions(**options))


def _gone(kept, count):
    return set(range(count)) - set(range(count) if kept is None else kept)


def _walk(offer, start, seed, length=60):
    """Give the plans and steps of a random walk from a plan."""
    random = np.random.default_rng(seed)
    blocks = start
    for _ in range(length):
        steps = steps_from(blocks, offer)
        step = steps[random.integers(len(steps))]
        yield blocks, step, take(step, blocks, offer)
        blocks = take(step, blocks, offer)


def _around(blocks, world, offer):
    ran = Answers(world, blocks)
    return Neighbours.none(blocks, offer).moved(blocks, steps_from(blocks, offer), ran), ran


def _problem(around, images=None):
    cost = CostModel(SHAPE, around.offer.unit_groups)
    return make_problem(around.losses(images), cost, (Budget(limit=1.0),))


def _staying(around):
    """Return the choice that changes nothing."""
    return Choice(
        num_keep=tuple(around.blocks[site].num_tokens for site in around.offer.sites),
        heads_removed=tuple(SHAPE.num_heads - len(block.kept_heads) for block in around.blocks),
        units_removed=tuple(len(_gone(block.kept_units, around.offer.unit_groups)) for block in around.blocks),
    )


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_no_step_of_a_walk_grows_tokens_or_leaves_what_is_on_offer(seed, within):
    larger = _larger() if within else None
    offer = _offer(within=larger)
    for _, step, after in _walk(offer, larger.blocks if within else dense_blocks(SHAPE), seed):
        counts = [block.num_tokens for block in after]
        assert counts[0] == 17
        assert all(earlier >= later for earlier, later in pairwise(counts))
        assert min(counts) >= offer.candidates[0]
        for block in after:
            assert block.kept_heads
            assert block.kept_units is None or block.kept_units
        if step.shift:
            assert counts[step.block] in offer.candidates
        if within:
            assert not step.shift or counts[step.block] <= LARGER[step.block]
            assert all(1 not in block.kept_heads and 3 not in block.kept_units for block in after)


@pytest.mark.parametrize("seed", range(4))
def test_a_step_at_a_head_or_unit_group_changes_it_alone_and_undoes_itself(seed):
    offer = _offer()
    for before, step, after in _walk(offer, dense_blocks(SHAPE), seed):
        if step.shift:
            continue
        changed = [index for index, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
        assert changed == [step.block]
        old, new = before[step.block], after[step.block]
        heads = _gone(old.kept_heads, 3) ^ _gone(new.kept_heads, 3)
        units = _gone(old.kept_units, GROUPS) ^ _gone(new.kept_units, GROUPS)
        assert (heads, units) == ({step.head} - {None}, {step.unit} - {None})
        assert take(step, after, offer) == before


@pytest.mark.parametrize("seed", range(4))
def test_a_step_at_tokens_moves_every_later_block_by_as_many(seed):
    offer = _offer()
    for before, step, after in _walk(offer, dense_blocks(SHAPE), seed):
        if not step.shift:
            continue
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            assert (old.kept_heads, old.kept_units) == (new.kept_heads, new.kept_units)
            wanted = old.num_tokens - (step.shift if index >= step.block else 0)
            assert new.num_tokens == max(min(wanted, 17), offer.candidates[0])


def test_the_steps_from_a_plan_are_one_count_up_or_down_each_head_and_each_unit_group():
    offer = _offer(unit_groups=0)
    blocks = (*_blocks((17, 12)), *_blocks((8, 8), (0,)))
    shifts = {(1, 4), (1, -4), (2, 4), (2, -4), (3, 4)}  # block 3 cannot have more tokens than block 2
    heads = {(block, head) for block, head in product(range(4), range(3)) if block < 2 or head > 0}  # head 0 stays
    found = steps_from(blocks, offer)
    assert {(step.block, step.shift) for step in found if step.shift} == shifts
    assert {(step.block, step.head) for step in found if step.head is not None} == heads
    assert len(found) == len(shifts) + len(heads)


def test_a_plan_that_keeps_all_tokens_can_only_drop_and_the_smallest_only_take_back():
    offer = _offer(unit_groups=0, prune_heads=False)
    assert steps_from(dense_blocks(SHAPE), offer) == [Step(site, shift=1) for site in (1, 2, 3)]
    assert steps_from(_blocks((17, 4, 4, 4)), offer) == [Step(1, shift=-4)]


def test_without_leave_to_remove_heads_no_step_is_at_a_head():
    assert all(step.head is None for step in steps_from(_blocks(STEPPED), _offer(prune_heads=False)))


@pytest.mark.parametrize("bend", [0.0, 0.5])
@pytest.mark.parametrize("num_tokens", [STEPPED, (17, 17, 17, 17), (17, 16, 8, 4), (17, 4, 4, 4)])
def test_the_problem_around_a_plan_has_the_measured_loss_of_every_single_step(num_tokens, bend):
    world = World.draw(0, unit_groups=GROUPS, bend=bend)
    around, ran = _around(_blocks(num_tokens, (0, 2), (0, 1, 3)), world, _offer())
    problem, stays = _problem(around), _staying(around)
    assert problem.loss(stays) == pytest.approx(0, abs=1e-12)
    losses = around.losses()
    for index, block in enumerate(around.blocks):
        gone = len(_gone(block.kept_heads, 3))
        for removed in (gone - 1, gone + 1):
            if not np.isfinite(losses.heads[index, removed]):
                continue
            heads = list(stays.heads_removed)
            heads[index] = removed
            choice = replace(stays, heads_removed=tuple(heads))
            measured = world.losses(losses.blocks(choice)).mean() - ran.losses.mean()
            assert problem.loss(choice) == pytest.approx(measured, rel=1e-9)
    for step in around.steps:
        after = take(step, around.blocks, around.offer)
        choice = replace(stays, num_keep=tuple(after[site].num_tokens for site in around.offer.sites))
        on_offer = set(choice.num_keep) <= set(around.offer.candidates)
        if step.shift and on_offer and np.isfinite(problem.loss(choice)):
            measured = world.losses(after).mean() - ran.losses.mean()
            assert problem.loss(choice) == pytest.approx(measured, rel=1e-9)


def test_a_step_to_more_tokens_is_open_where_all_later_sites_have_to_follow():
    world = World.draw(0)
    around, ran = _around(_blocks((17, 12, 12, 12)), world, _offer(unit_groups=0))
    problem, stays = _problem(around), _staying(around)
    assert problem.loss(replace(stays, num_keep=(16, 16, 16))) == pytest.approx(
        world.losses(_blocks((17, 16, 16, 16))).mean() - ran.losses.mean(), rel=1e-9
    )
    # What block 1 alone saves is a part of what all three save.
    saved = [problem.loss(replace(stays, num_keep=counts)) for counts in ((16, 12, 12), (16, 16, 12), (16, 16, 16))]
    assert 0 > saved[0] > saved[1] > saved[2]
    assert saved[0] == pytest.approx(saved[2] / 3, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_where_losses_add_up_over_blocks_so_do_those_of_any_steps_together(seed):
    # Tokens are worth as much in each block, so that what a site saves that has to follow another is known.
    drawn = World.draw(seed, unit_groups=GROUPS, power=1.0)
    world = replace(drawn, tokens=np.repeat(drawn.tokens[:, :1], SHAPE.depth, axis=1))
    around, ran = _around(_blocks(STEPPED), world, _offer())
    problem, losses, random = _problem(around), around.losses(), np.random.default_rng(seed)
    checked = set()
    while len(checked) < 200:
        num_keep = tuple(
            around.offer.candidates[random.choice(np.flatnonzero(np.isfinite(row)))] for row in losses.tokens
        )
        heads, units = (
            tuple(int(random.choice(np.flatnonzero(np.isfinite(row)))) for row in table)
            for table in (losses.heads, losses.units)
        )
        if list(num_keep) != sorted(num_keep, reverse=True):
            continue
        choice = Choice(num_keep, heads, units)
        checked.add(choice)
        measured = world.losses(losses.blocks(choice)).mean() - ran.losses.mean()
        assert problem.loss(choice) == pytest.approx(measured, rel=1e-9, abs=1e-12)
    assert len({choice.num_keep for choice in checked}) > 8


def test_at_most_two_heads_of_a_block_go_at_once_and_one_comes_back():
    around, _ = _around(_blocks(STEPPED, (1, 2)), World.draw(0, unit_groups=GROUPS), _offer())
    losses = around.losses()
    assert MOST_AT_ONCE == 2
    assert np.isfinite(losses.heads).tolist() == [[True, True, True]] * 4  # one back, as it is, one more
    assert np.isfinite(losses.units).tolist() == [[True, True, True, False]] * 4
    assert all(sets[0] == () and sets[1] == (0,) for sets in losses.head_sets)


def test_the_losses_of_some_images_are_their_own_mean():
    world = World.draw(0)
    around, ran = _around(_blocks(STEPPED), world, _offer(unit_groups=0))
    images = np.array([3, 3, 7])
    choice = replace(_staying(around), num_keep=(12, 12, 4))
    by_image = world.losses(_blocks((17, 12, 12, 4))) - ran.losses
    assert _problem(around, images).loss(choice) == pytest.approx(by_image[images].mean(), rel=1e-9)


def test_steps_that_are_known_are_not_measured_again():
    asked = []

    class Counting(Answers):
        def measure(self, variants):
            asked.append(len(variants))
            return super().measure(variants)

    blocks, offer = _blocks(STEPPED), _offer(unit_groups=0)
    ran = Counting(World.draw(0), blocks)
    steps = steps_from(blocks, offer)
    first = Neighbours.none(blocks, offer).moved(blocks, steps[:4], ran)
    second = first.moved(blocks, steps, ran)
    assert asked == [4, len(steps) - 4]
    everything = Neighbours.none(blocks, offer).moved(blocks, steps, ran)
    np.testing.assert_array_equal(second.added, everything.added)
    other = _blocks((17, 12, 8, 8))
    second.moved(other, steps_from(other, offer), Counting(World.draw(0), other))
    assert asked[3] == len(steps_from(other, offer))


def test_a_site_follows_another_to_more_tokens_no_further_than_a_larger_plan_goes():
    larger = dense_plan(SOURCE, SHAPE).model_copy(update={"blocks": _blocks((17, 16, 12, 8))})
    offer = _offer(unit_groups=0, within=larger)
    around, _ = _around(_blocks((17, 8, 8, 8)), World.draw(0), offer)
    open_counts = [[offer.candidates[at] for at in np.flatnonzero(np.isfinite(row))] for row in around.losses().tokens]
    assert open_counts == [[4, 8, 12], [4, 8, 12], [4, 8]]
