"""Between a few plans other images decide: those that surely lose more leave early, and the best there is taken."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.measured_plans import Answers, World

from heartvit_edge.allocation.race import cheapest_within, mean_and_stderr, race, surely_more
from heartvit_edge.spec.plan import BlockPlan


def _plan(tokens):
    return tuple(BlockPlan(kept_heads=(0, 1, 2), num_tokens=count) for count in (17, *tokens))


DEAR, MIDDLE, CHEAP = _plan((17, 12, 12)), _plan((12, 8, 8)), _plan((4, 4, 4))


def _parts(worlds, ran):
    def part(world):
        def run(blocks):
            ran.append(blocks)
            return Answers(world, blocks)

        return run

    return [part(world) for world in worlds]


def _worlds(count=3, **fields):
    return [World.draw(0, images_seed=seed, num_images=20, **fields) for seed in range(1, count + 1)]


def test_the_winner_loses_least_over_all_images_and_its_losses_are_those_of_every_part():
    worlds, ran = _worlds(), []
    found, losses = race([CHEAP, DEAR, MIDDLE], _parts(worlds, ran))
    assert found == DEAR
    np.testing.assert_allclose(losses, np.concatenate([world.losses(DEAR) for world in worlds]))


def test_a_plan_that_surely_loses_more_leaves_after_the_first_part():
    ran = []
    race([CHEAP, DEAR], _parts(_worlds(), ran))
    assert (ran.count(CHEAP), ran.count(DEAR)) == (1, 3)


def test_plans_that_cannot_be_told_apart_run_to_the_end():
    ran = []
    slightly = tuple(block.model_copy(update={"kept_heads": (0, 1, 2)}) for block in DEAR)
    other = _plan((17, 12, 8))
    worlds = [World.draw(0, images_seed=seed, num_images=20, scale=0.0) for seed in (1, 2)]
    race([slightly, other], _parts(worlds, ran))
    assert (ran.count(DEAR), ran.count(other)) == (2, 2)


def test_the_luckiest_on_the_first_part_is_overtaken():
    lucky = World.draw(0, images_seed=1, num_images=20, scale=0.0, floor=1.0)
    found, losses = race([CHEAP, DEAR], _parts([lucky, *_worlds(2)], []))
    assert found == DEAR
    assert len(losses) == 60


def test_the_cheapest_that_keeps_the_limit_is_taken_and_dearer_ones_do_not_run():
    worlds, ran = _worlds(), []
    middle = np.concatenate([world.losses(MIDDLE) for world in worlds])
    limit = middle.mean() + 1.01 * middle.std(ddof=1) / 60**0.5
    found, losses = cheapest_within([CHEAP, MIDDLE, DEAR], _parts(worlds, ran), limit)
    assert found == MIDDLE
    np.testing.assert_allclose(losses, middle)
    assert (ran.count(CHEAP), ran.count(MIDDLE), ran.count(DEAR)) == (1, 3, 0)


def test_a_mean_within_the_limit_by_less_than_its_error_does_not_keep_it():
    worlds = _worlds()
    middle = np.concatenate([world.losses(MIDDLE) for world in worlds])
    limit = middle.mean() + 0.99 * middle.std(ddof=1) / 60**0.5
    assert cheapest_within([MIDDLE, DEAR], _parts(worlds, []), limit)[0] == DEAR


def test_where_none_keeps_the_limit_the_one_that_ran_longest_is_returned():
    worlds = _worlds()
    dear = np.concatenate([world.losses(DEAR) for world in worlds])
    found, losses = cheapest_within([CHEAP, MIDDLE, DEAR], _parts(worlds, []), float(dear.mean()))
    assert found == DEAR
    assert len(losses) == 60


def test_the_standard_error_is_that_of_a_mean_over_images():
    losses = World.draw(0).losses(MIDDLE)
    mean, stderr = mean_and_stderr(losses)
    assert mean == pytest.approx(losses.mean())
    assert stderr == pytest.approx(np.sqrt(((losses - mean) ** 2).sum() / (len(losses) - 1) / len(losses)))


@pytest.mark.parametrize("loss", [0.4, -5.0])
def test_of_one_image_the_error_is_as_large_as_its_loss(loss):
    assert mean_and_stderr(np.array([loss])) == (loss, abs(loss))


@pytest.mark.parametrize(
    ("differences", "sure"),
    [
        ([1.0, 1.2, 0.9], True),
        ([1.0, -1.0, 0.1], False),
        ([-1.0, -1.2], False),
        ([0.0, 0.0], False),
        ([0.2, 0.2], True),
    ],
)
def test_more_is_sure_beyond_two_standard_errors(differences, sure):
    assert surely_more(np.array(differences)) is sure
