"""The correction of predicted loss: on points whose law is known, and on removals measured one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from fakes.small_scores import double_dense, generators, hessian_of, image_set, kl_of, tiny_dense
from fakes.tiny_vit import IMG_SIZE, KWARGS, NAME, NUM_CLASSES, images, scramble
from scipy.stats import linregress, rankdata

from heartvit_edge.data.preprocess import preprocess
from heartvit_edge.sensitivity import calibrate
from heartvit_edge.sensitivity.calibrate import (
    HEADS_PER_IMAGE,
    SET_SHARES,
    TOKENS_PER_SITE,
    fit,
    fit_points,
    measure_points,
    predict_token_sets,
)
from heartvit_edge.sensitivity.draws import CALIBRATION, image_generator
from heartvit_edge.sensitivity.gates import GateLayout
from heartvit_edge.sensitivity.measure import head_losses, token_losses, trace_dense
from heartvit_edge.sensitivity.scorers import SCORERS, Batch
from heartvit_edge.spec.sensitivity import Calibration, ScoreSettings

SETTINGS = ScoreSettings(sites=(1, 3))
LAYOUT = GateLayout(tiny_dense().shape, SETTINGS.sites)


def noisy_points(num_images=6, each=9, noise=0.3, seed=0):
    """Return points of measured = 1.7 * predicted ** 0.8 with lognormal noise."""
    draw = np.random.default_rng(seed)
    predicted = np.exp(draw.uniform(-9, 0, num_images * each))
    measured = 1.7 * predicted**0.8 * np.exp(noise * draw.normal(size=len(predicted)))
    return [(index // each, float(p), float(m)) for index, (p, m) in enumerate(zip(predicted, measured, strict=True))]


def test_a_power_law_without_noise_is_recovered():
    found = fit("token", noisy_points(noise=0.0))
    assert (found.scale, found.exponent) == pytest.approx((1.7, 0.8), rel=1e-9)
    assert (found.spearman, found.r_squared, found.median_factor) == pytest.approx((1, 1, 1))
    assert (found.component, found.num_points, found.num_images) == ("token", 54, 6)


def test_the_fit_and_its_figures_are_those_of_numpy_and_scipy():
    points = noisy_points()
    number, predicted, measured = (np.array(column) for column in zip(*points, strict=True))
    line = linregress(np.log(predicted), np.log(measured))
    found = fit("head", points)
    assert found.exponent == pytest.approx(line.slope, rel=1e-9)
    assert found.scale == pytest.approx(np.exp(line.intercept), rel=1e-9)
    assert found.r_squared == pytest.approx(line.rvalue**2, rel=1e-9)
    ranks = rankdata(predicted), rankdata(measured)
    assert found.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1], rel=1e-9)
    factors = []
    for index in range(6):
        slope, offset = np.polyfit(np.log(predicted[number != index]), np.log(measured[number != index]), 1)
        corrected = np.exp(offset) * predicted[number == index] ** slope
        factors += np.maximum(corrected / measured[number == index], measured[number == index] / corrected).tolist()
    assert found.median_factor == pytest.approx(np.median(factors), rel=1e-9)


def test_a_correction_maps_the_points_onto_its_line():
    found = fit("token", noisy_points(noise=0.0))
    assert found.correct(0.01) == pytest.approx(1.7 * 0.01**0.8)
    assert found.correct(0.0) == 0.0


def test_points_without_loss_are_left_out_of_the_fit_but_not_of_the_rank_correlation():
    points = [*noisy_points(noise=0.0), (0, -0.5, 0.9), (1, 0.9, 0.0)]
    found = fit("token", points)
    assert (found.num_points, found.scale) == (54, pytest.approx(1.7))
    assert found.spearman < 0.999


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(0, 0.1, 0.1), (1, 0.2, 0.2)],
        [(0, 0.1, 0.1), (0, 0.2, 0.2), (0, 0.3, 0.3)],
        [(0, 0.1, 0.1), (1, 0.1, 0.2), (2, 0.1, 0.3)],
        [(0, 0.1, 0.2), (1, 0.2, 0.2), (2, 0.3, 0.2)],
        [(0, -0.1, 0.1), (1, 0.0, 0.2), (2, 0.1, 0.3), (3, 0.1, 0.0)],
        [(0, 0.1, 0.1), (0, 0.1, 0.2), (1, 0.3, 0.3)],
    ],
    ids=["none", "two", "one image", "equal predictions", "equal losses", "unusable", "no image to leave out"],
)
def test_too_few_or_equal_points_give_no_correction(points):
    assert fit("token", points) is None


def test_a_correction_never_turns_the_order_round():
    points = [(index, 0.1 * (index + 1), 1.0 / (index + 1)) for index in range(5)]
    found = fit("token", points)
    assert found.correct(0.2) > found.correct(0.1)
    assert found.spearman == pytest.approx(-1)


def test_parts_of_several_processes_fit_as_the_whole():
    points = noisy_points()
    odd, even = ([point for point in points if point[0] % 2 == rest] for rest in (1, 0))
    assert fit_points([{"token": odd, "head": []}, {"token": even, "head": []}]) == (fit("token", sorted(points)),)


def measured(numbers, seed=0):
    settings = SETTINGS.model_copy(update={"seed": seed})
    return measure_points(tiny_dense(), image_set(3, labelled=False), numbers, LAYOUT, settings)[0]


def test_points_pair_the_score_of_a_component_with_the_loss_of_removing_it():
    dense = tiny_dense()
    found = measured([2])
    picture = image_set(3, labelled=False).read(2)
    image = torch.from_numpy(next(preprocess([picture], dense.preprocessing, 1)))
    scores = SCORERS["removal-gate"].score(Batch(dense.module, LAYOUT, image, None, 0, generators(1)))
    trace = trace_dense(dense.module, image)
    tokens = [token_losses(dense.module, trace, site, torch.eye(16).bool()) for site in SETTINGS.sites]
    heads = [head_losses(dense.module, trace, block, torch.eye(4).bool()) for block in range(4)]
    every = {
        "token": {(2, float(s), float(m)) for s, m in zip(scores.tokens.flatten(), torch.cat(tokens), strict=True)},
        "head": {(2, float(s), float(m)) for s, m in zip(scores.heads.flatten(), torch.cat(heads), strict=True)},
    }
    for component, count in (("token", 2 * TOKENS_PER_SITE), ("head", HEADS_PER_IMAGE)):
        assert len(set(found[component])) == count
        for point in found[component]:
            closest = min(every[component], key=lambda other: abs(other[1] - point[1]))
            assert point == pytest.approx(closest, rel=1e-3, abs=1e-6)
    assert len(found["token-set"]) == 2 * len(SET_SHARES)
    assert all(number == 2 and p > 0 and m > 0 for number, p, m in found["token-set"])


def deep_dense():
    """Return a tiny model of 8 blocks, whose quarters are blocks 2, 4 and 6."""
    module = timm.create_model(NAME, img_size=IMG_SIZE, num_classes=NUM_CLASSES, **(KWARGS | {"depth": 8}))
    scramble(module, 0)
    shape = tiny_dense().shape.model_copy(update={"depth": 8})
    return replace(tiny_dense(), module=module.eval().requires_grad_(False), shape=shape)


@pytest.mark.parametrize(
    ("sites", "looked_at"), [((1, 2, 3, 4, 5, 6, 7), 3), ((1, 4, 5), 1), ((1, 3, 7), 3)], ids=["all", "one", "none"]
)
def test_single_tokens_and_sets_are_drawn_at_quarters_where_any_is_a_site_and_shares_are_dropped_at_all(
    sites, looked_at
):
    settings = SETTINGS.model_copy(update={"sites": sites})
    dense = deep_dense()
    found, drops = measure_points(dense, image_set(1), [0], GateLayout(dense.shape, sites), settings)
    assert len(found["token"]) == looked_at * TOKENS_PER_SITE
    assert len(found["token-set"]) == len(found["token-set-path"]) == looked_at * len(SET_SHARES)
    assert len(found["head"]) == HEADS_PER_IMAGE
    assert {site for site, _ in drops} == set(sites)


def test_a_point_at_a_quarter_is_the_score_and_loss_of_a_token_at_that_block():
    dense, sites = deep_dense(), (1, 4, 5)
    layout = GateLayout(dense.shape, sites)
    found, _ = measure_points(dense, image_set(1), [0], layout, SETTINGS.model_copy(update={"sites": sites}))
    image = torch.from_numpy(next(preprocess(image_set(1), dense.preprocessing, 1)))
    scores = SCORERS["removal-gate"].score(Batch(dense.module, layout, image, None, 0, generators(1)))
    losses = token_losses(dense.module, trace_dense(dense.module, image), 4, torch.eye(16).bool())
    at_4 = [(0, float(s), float(m)) for s, m in zip(scores.tokens[0, 1], losses, strict=True)]
    for point in found["token"]:
        closest = min(at_4, key=lambda other: abs(other[1] - point[1]))
        assert point == pytest.approx(closest, rel=1e-3, abs=1e-6)


def test_points_of_an_image_do_not_depend_on_the_other_images_and_follow_the_seed():
    whole = measured([0, 1, 2])
    for component, points in measured([1]).items():
        assert points == [point for point in whole[component] if point[0] == 1]
    assert measured([1], seed=1)["token"] != measured([1])["token"]


def test_the_predicted_cost_of_token_sets_is_the_quadratic_form_of_the_dense_hessian():
    dense = double_dense()
    image = images(1, dtype=torch.float64)
    layout = GateLayout(dense.shape, (1, 3))
    removed = torch.rand(4, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    found = predict_token_sets(dense, trace_dense(dense.module, image), image, layout, 1, removed)
    hessian = hessian_of(kl_of(dense, layout, image[0]), layout.num_gates)[16:32, 16:32]
    expected = [row @ hessian @ row / 2 for row in removed.double()]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-12)


def test_scorers_that_leave_out_tokens_or_heads_give_no_points_of_them():
    settings = SETTINGS.model_copy(update={"scorer": "magnitude"})
    found, drops = measure_points(tiny_dense(), image_set(1), [0], LAYOUT, settings)
    assert drops == {}
    assert (found["token"], found["token-set"]) == ([], [])
    assert len(found["head"]) == HEADS_PER_IMAGE


def test_each_held_out_image_has_draws_of_its_own(monkeypatch):
    keys = []

    def recorded(*key):
        keys.append(key)
        return image_generator(*key)

    monkeypatch.setattr(calibrate, "image_generator", recorded)
    measured([0, 2], seed=5)
    assert keys == [(5, CALIBRATION, 0), (5, CALIBRATION, 2)]


def test_progress_names_each_image_that_is_done():
    told = []
    measure_points(tiny_dense(), image_set(3), [0, 2], LAYOUT, SETTINGS, advance=told.append)
    assert told == [0, 2]


def test_a_correction_is_stored_with_limits_on_its_figures():
    good = fit("token", noisy_points())
    for field, value in (("median_factor", 0.9), ("spearman", 1.1), ("scale", 0.0)):
        with pytest.raises(ValueError, match=field):
            Calibration.model_validate(good.model_dump() | {field: value})
