"""Predicted losses, against what dropping one component after the other adds up to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fakes.small_plans import SHAPE, make_table

from heartvit_edge.allocation.predict import (
    corrected_curves,
    corrected_heads,
    loss_stderr,
    losses_at,
    site_terms,
    token_curve,
)
from heartvit_edge.spec.plan import BlockPlan
from heartvit_edge.spec.sensitivity import Calibration, DropCurve


def _scores(images, patches, *, seed=0):
    return np.random.default_rng(seed).normal(0.3, 1, (images, patches)).astype(np.float32)


def _dropped_one_by_one(scores, num_dropped):
    """Return the mean over images of the loss of dropping so many, each time the least-scored that is left."""
    total = 0.0
    for image in scores:
        left = [float(score) for score in image]
        for _ in range(num_dropped):
            least = min(left)
            left.remove(least)
            total += max(least, 0.0)
    return total / len(scores)


def _loss_site_by_site(scores_by_site, num_dropped):
    """Return the mean loss where each site drops the least-scored of what it still has, and pays its own scores."""
    total = 0.0
    images = len(next(iter(scores_by_site.values())))
    for image in range(images):
        gone = set()
        for site, count in num_dropped.items():
            scores = scores_by_site[site][image]
            for patch in np.argsort(scores):
                if len(gone) < count and patch not in gone:
                    gone.add(patch)
                    total += max(float(scores[patch]), 0.0)
    return total / images


def test_token_curve_is_what_dropping_the_least_scored_one_by_one_loses():
    scores = _scores(5, 9)
    expected = [_dropped_one_by_one(scores, count) for count in range(10)]
    assert token_curve(scores) == pytest.approx(expected, rel=1e-12)


def test_token_curve_starts_at_nothing_and_ends_at_the_mean_of_all_scores():
    scores = np.abs(_scores(4, 6))
    curve = token_curve(scores)
    assert curve[0] == 0
    assert curve[-1] == pytest.approx(scores.astype(np.float64).sum(axis=1).mean(), rel=1e-12)


def test_a_negative_token_score_counts_as_no_loss():
    assert token_curve(np.array([[-3.0, 2.0, -1.0, 1.0]], dtype=np.float32)).tolist() == [0, 0, 0, 1, 3]


def test_each_image_drops_its_own_least_scored_tokens():
    scores = np.array([[0, 8], [8, 0]], dtype=np.float32)
    assert token_curve(scores).tolist() == [0, 0, 8]


def test_many_small_scores_do_not_drown_in_single_precision():
    scores = np.full((1, 20_000), 1e-4, dtype=np.float32)
    scores[0, 0] = 1000.0
    assert token_curve(scores)[-1] == pytest.approx(1000 + 1.9999, rel=1e-8)


@pytest.mark.parametrize("num_dropped", [(0, 0, 0), (0, 3, 7), (2, 2, 5), (4, 4, 4), (1, 5, 8), (8, 8, 8)])
def test_site_terms_add_up_to_the_loss_paid_site_by_site_where_the_sites_rank_alike(num_dropped):
    shared = np.abs(_scores(6, 8))
    random = np.random.default_rng(1)
    by_site = {
        # Rising functions of the same scores: the ranking of an image's tokens is the same at every site.
        3: (shared * 2).astype(np.float32),
        6: (shared**2 + random.uniform(0, 1, (6, 1))).astype(np.float32),
        9: np.sqrt(shared).astype(np.float32),
    }
    terms = site_terms({site: token_curve(scores) for site, scores in by_site.items()})
    predicted = sum(terms[site][count] for site, count in zip(by_site, num_dropped, strict=True))
    assert predicted == pytest.approx(
        _loss_site_by_site(by_site, dict(zip(by_site, num_dropped, strict=True))), rel=1e-6
    )


def test_site_terms_add_up_to_no_less_than_nothing_whatever_the_sites_rank():
    terms = site_terms({site: token_curve(_scores(6, 8, seed=site)) for site in (1, 2, 3)})
    drops = [(a, b, c) for a in range(9) for b in range(a, 9) for c in range(b, 9)]
    sums = [sum(term[count] for term, count in zip(terms.values(), drop, strict=True)) for drop in drops]
    assert min(sums) == pytest.approx(0, abs=1e-12)


def test_site_terms_follow_the_sites_not_the_order_they_are_given_in():
    curves = {site: token_curve(_scores(3, 4, seed=site)) for site in (9, 3, 6)}
    terms = site_terms(curves)
    assert list(terms) == [3, 6, 9]
    assert terms[3] == pytest.approx(curves[3] - curves[6])
    assert terms[9] == pytest.approx(curves[9])


def test_a_single_site_pays_its_own_curve():
    curve = token_curve(_scores(3, 4))
    assert site_terms({5: curve})[5].tolist() == curve.tolist()


def test_losses_are_read_at_the_tokens_dropped():
    curve = np.arange(17) ** 2.0
    assert losses_at(curve, SHAPE, (4, 12, 17)).tolist() == [13**2, 5**2, 0]


def test_a_measured_site_s_curve_is_corrected_and_another_s_is_the_sum_of_scores():
    table = make_table({site: _scores(3, SHAPE.num_patches, seed=site) for site in (1, 3)})
    first, *others = sorted(table.tokens)
    curve = DropCurve(
        site=first, num_dropped=(1,), predicted_nats=(0.1,), measured_nats=(0.2,), scale=3, exponent=1.5, num_images=2
    )
    corrected = corrected_curves(replace(table, info=table.info.model_copy(update={"drop_curves": (curve,)})))
    np.testing.assert_allclose(corrected[first], 3 * token_curve(table.tokens[first]) ** 1.5)
    for site in others:
        np.testing.assert_array_equal(corrected[site], token_curve(table.tokens[site]))


def test_heads_are_corrected_one_by_one_where_that_was_measured():
    heads = np.random.default_rng(0).normal(0.1, 0.2, (SHAPE.depth, SHAPE.num_heads))
    table = make_table({1: _scores(3, SHAPE.num_patches)}, heads, sites=(1,))
    means = np.array(table.info.heads_mean)
    np.testing.assert_array_equal(corrected_heads(table), means)
    found = Calibration(
        component="head", scale=2, exponent=0.5, spearman=1, r_squared=1, median_factor=1, num_points=3, num_images=2
    )
    measured = replace(table, info=table.info.model_copy(update={"calibration": (found,)}))
    np.testing.assert_allclose(corrected_heads(measured), 2 * np.maximum(means, 0) ** 0.5)


def _blocks(num_tokens, kept_heads=(0, 1, 2), kept_units=None):
    return [BlockPlan(kept_heads=kept_heads, num_tokens=count, kept_units=kept_units) for count in num_tokens]


def _standard_error(losses):
    """Return that of the mean of each image's loss, as images drawn with replacement have it."""
    return np.std(losses) / len(losses) ** 0.5


def _paid(scores, num_dropped):
    """Return what each image pays for its least-scored tokens."""
    return np.maximum(np.sort(scores.astype(np.float64), axis=1), 0)[:, :num_dropped].sum(axis=1)


DRAWS = 20_000
"""Enough that the spread of a bootstrap is known to one percent."""


def test_the_standard_error_of_tokens_is_that_of_the_images_mean_loss():
    scores = _scores(12, SHAPE.num_patches)
    table = make_table({1: scores}, sites=(1,))
    expected = _standard_error(_paid(scores, 7))
    assert loss_stderr(table, _blocks((17, 10, 10, 10)), DRAWS) == pytest.approx(expected, rel=0.03)


def test_the_standard_error_follows_what_images_pay_at_each_site():
    first, second = np.abs(_scores(12, SHAPE.num_patches)), np.abs(_scores(12, SHAPE.num_patches, seed=1))
    table = make_table({1: first, 3: second})
    expected = _standard_error(_paid(first, 5) + _paid(second, 13) - _paid(second, 5))
    assert loss_stderr(table, _blocks((17, 12, 12, 4)), DRAWS) == pytest.approx(expected, rel=0.03)


def test_the_standard_error_of_heads_and_units_joins_that_of_tokens_image_by_image():
    random = np.random.default_rng(2)
    tokens = {1: np.abs(_scores(12, SHAPE.num_patches))}
    heads = random.uniform(0, 1, (12, SHAPE.depth, SHAPE.num_heads)).astype(np.float32)
    units = random.uniform(0, 1, (12, SHAPE.depth, 4)).astype(np.float32)
    table = make_table(tokens, heads.mean(axis=0), units_mean=units.mean(axis=0), sites=(1,))
    blocks = _blocks((17, 12, 12, 12), kept_heads=(1,), kept_units=(0, 1))
    by_image = _paid(tokens[1], 5) + heads[:, :, [0, 2]].sum(axis=(1, 2)) + units[:, :, 2:].sum(axis=(1, 2))
    found = loss_stderr(replace(table, heads=heads, units=units), blocks, DRAWS)
    assert found == pytest.approx(_standard_error(by_image), rel=0.03)


def test_the_standard_error_is_corrected_as_the_loss_is():
    scores = np.abs(_scores(12, SHAPE.num_patches))
    table = make_table({1: scores}, sites=(1,))
    curve = DropCurve(
        site=1, num_dropped=(1,), predicted_nats=(0.1,), measured_nats=(0.2,), scale=5, exponent=1, num_images=2
    )
    corrected = replace(table, info=table.info.model_copy(update={"drop_curves": (curve,)}))
    blocks = _blocks((17, 10, 10, 10))
    assert loss_stderr(corrected, blocks) == pytest.approx(5 * loss_stderr(table, blocks))


def test_a_negative_mean_of_a_head_adds_no_standard_error():
    heads = np.full((12, SHAPE.depth, SHAPE.num_heads), -1.0, dtype=np.float32)
    heads[::2] = -3.0
    table = replace(make_table({1: _scores(12, SHAPE.num_patches)}, sites=(1,)), heads=heads)
    assert loss_stderr(table, _blocks((17, 17, 17, 17), kept_heads=(0,))) == 0


def test_the_dense_plan_and_equal_images_have_no_standard_error():
    same = np.tile(_scores(1, SHAPE.num_patches), (12, 1))
    assert loss_stderr(make_table({1: _scores(12, SHAPE.num_patches)}, sites=(1,)), _blocks((17,) * 4)) == 0
    assert loss_stderr(make_table({1: same}, sites=(1,)), _blocks((17, 10, 10, 10))) == pytest.approx(0, abs=1e-12)
