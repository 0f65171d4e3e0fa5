"""What goes first, what that loses, and what a larger plan leaves on offer."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.small_plans import SHAPE, make_table

from heartvit_edge.allocation.losses import dense_losses
from heartvit_edge.allocation.plan import dense_plan
from heartvit_edge.allocation.predict import losses_at, site_terms, token_curve
from heartvit_edge.allocation.problem import Choice
from heartvit_edge.spec.plan import BlockPlan

CANDIDATES = (4, 8, 12, 17)
INF = np.inf


def _table(heads=None, units=None):
    random = np.random.default_rng(0)
    tokens = {site: random.uniform(0, 1, (3, SHAPE.num_patches)).astype(np.float32) for site in (1, 3)}
    return make_table(
        tokens,
        None if heads is None else np.tile(heads, (SHAPE.depth, 1)),
        units_mean=None if units is None else np.tile(units, (SHAPE.depth, 1)),
    )


def _losses(table, *, prune_heads=True, sites=(1, 3), within=None):
    return dense_losses(table, CANDIDATES, sites=sites, prune_heads=prune_heads, within=within)


def _larger(num_tokens=(17, 12, 12, 8), kept_heads=(0, 1, 2), kept_units=None, groups=0):
    blocks = [BlockPlan(kept_heads=kept_heads, num_tokens=count, kept_units=kept_units) for count in num_tokens]
    dense = dense_plan(_table().info.source, SHAPE)
    return dense.model_copy(update={"blocks": tuple(blocks), "unit_groups": groups})


def test_the_least_scored_head_goes_first_and_one_stays():
    found = _losses(_table(heads=[0.5, 0.1, 0.3]))
    for block in range(SHAPE.depth):
        assert found.heads[block] == pytest.approx([0.0, 0.1, 0.4])
        assert found.head_sets[block] == ((), (1,), (1, 2))


def test_a_negative_head_counts_as_no_loss_and_equal_ones_go_in_their_order():
    found = _losses(_table(heads=[0.2, -0.4, -0.1]))
    assert found.heads[0] == pytest.approx([0.0, 0.0, 0.0])
    assert found.head_sets[0] == ((), (1,), (1, 2))
    assert _losses(_table(heads=[1.0, 1.0, 1.0])).head_sets[0] == ((), (0,), (0, 1))


def test_unit_groups_go_as_heads_do():
    found = _losses(_table(units=[0.4, 0.1, 0.2, 0.3]))
    assert found.unit_groups == 4
    assert found.units[0] == pytest.approx([0.0, 0.1, 0.3, 0.6])
    assert found.unit_sets[0] == ((), (1,), (1, 2), (1, 2, 3))


@pytest.mark.parametrize(("heads", "prune_heads"), [([0.5, 0.1, 0.3], False), (None, True)])
def test_heads_that_may_not_go_or_are_not_scored_are_not_on_offer(heads, prune_heads):
    found = _losses(_table(heads=heads), prune_heads=prune_heads)
    assert found.heads.tolist() == [[0.0, INF, INF]] * SHAPE.depth


def test_whole_mlps_have_one_column():
    assert _losses(_table()).units.tolist() == [[0.0]] * SHAPE.depth


def test_the_tokens_of_each_site_are_its_term_at_the_counts_on_offer():
    table = _table()
    terms = site_terms({site: token_curve(scores) for site, scores in table.tokens.items()})
    np.testing.assert_array_equal(_losses(table).tokens, [losses_at(terms[site], SHAPE, CANDIDATES) for site in (1, 3)])


def test_of_a_site_that_is_not_chosen_nothing_is_paid():
    table = _table()
    found = _losses(table, sites=(3,))
    np.testing.assert_array_equal(found.tokens, [losses_at(token_curve(table.tokens[3]), SHAPE, CANDIDATES)])


def test_what_a_larger_plan_removed_is_gone_and_the_rest_goes_by_its_scores():
    table = _table(heads=[0.1, 0.5, 0.3], units=[0.1, 0.2, 0.4, 0.3])
    found = _losses(table, within=_larger(kept_heads=(0, 2), kept_units=(0, 1, 2), groups=4))
    assert found.heads[0] == pytest.approx([INF, 0.5, 0.6])  # head 1 is gone though its score is the largest
    assert found.head_sets[0][1:] == ((1,), (0, 1))
    assert found.units[0] == pytest.approx([INF, 0.3, 0.4, 0.6])
    assert found.unit_sets[0][1:] == ((3,), (0, 3), (0, 1, 3))
    assert np.isfinite(found.tokens).tolist() == [[True, True, True, False], [True, True, False, False]]


def test_heads_of_a_larger_plan_stay_gone_where_no_more_may_go():
    found = _losses(_table(heads=[0.1, 0.5, 0.3]), prune_heads=False, within=_larger(kept_heads=(0, 2)))
    assert found.heads[0].tolist() == [INF, 0.5, INF]


def test_a_choice_names_what_each_block_keeps():
    found = _losses(_table(heads=[0.5, 0.1, 0.3], units=[0.4, 0.1, 0.2, 0.3]))
    blocks = found.blocks(Choice(num_keep=(12, 8), heads_removed=(0, 1, 2, 0), units_removed=(0, 0, 1, 3)))
    assert [block.num_tokens for block in blocks] == [17, 12, 12, 8]
    assert [block.kept_heads for block in blocks] == [(0, 1, 2), (0, 2), (0,), (0, 1, 2)]
    assert [block.kept_units for block in blocks] == [None, None, (0, 2, 3), (0,)]
