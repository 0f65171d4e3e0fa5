"""The summary in words: every number of the map is in it."""

from __future__ import annotations

import pytest
from fakes.small_scores import image_set, tiny_dense

from heartvit_edge.sensitivity.explain import explain_map
from heartvit_edge.sensitivity.score import score
from heartvit_edge.spec.sensitivity import Calibration, ScoreSettings


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    settings = ScoreSettings(scorer="fisher-mc", sites=(1, 3), num_probes=3, unit_groups=2, seed=7)
    folder = tmp_path_factory.mktemp("scores")
    return score(tiny_dense(), image_set(4), settings, out=folder, held_out=image_set(3, seed=1)).info


def test_the_summary_says_how_the_scores_came_about(info):
    text = explain_map(info)
    for words in ("vit_tiny_patch16_224 at 32 px", "4 images of noise-0", info.images.sha256[:12], "fisher-mc"):
        assert words in text
    assert "seed 7, 3 draws an image" in text
    assert info.estimator in text


def test_the_summary_holds_the_numbers_of_sites_heads_units_and_corrections(info):
    lines = explain_map(info).splitlines()
    for site, mean in info.site_mean.items():
        line = next(line for line in lines if line.startswith(f"  block {site:>3}  {mean:.3e}"))
        assert f"{info.site_stderr[site]:.1e}" in line
        assert f"{16 * mean:.4f}" in line
    for block, row in enumerate(info.heads_mean):
        assert any(f"block {block:>3}" in line and all(f"{value:.2e}" in line for value in row) for line in lines)
    for row in info.units_mean:
        assert any(f"{min(row):.2e}" in line and f"{max(row):.2e}" in line for line in lines)
    assert {found.component for found in info.calibration} == {"token", "head", "token-set", "token-set-path"}
    for found in info.calibration:
        line = next(line for line in lines if line.startswith(f"  {found.component} "))
        for number in (f"{found.scale:.3g}", f"{found.exponent:.3g}", f"{found.spearman:.3f}", str(found.num_points)):
            assert number in line
        assert f"{found.median_factor:.2f}" in line


def test_the_heads_worth_least_are_marked(info):
    text = explain_map(info)
    smallest = sorted(value for row in info.heads_mean for value in row)[:2]
    assert text.count("* ") + text.count("*\n") == 2
    assert all(f"{value:.2e}*" in text for value in smallest)


def test_scores_that_are_no_loss_are_not_called_nats(info):
    plain = info.model_copy(update={"in_nats": False, "calibration": (), "drop_curves": ()})
    assert "nats" not in explain_map(plain).replace(info.estimator, "")
    assert "held-out" not in explain_map(plain)


def test_a_small_scale_keeps_its_digits(info):
    small = Calibration(
        component="head",
        scale=0.00123,
        exponent=0.5,
        spearman=0.5,
        r_squared=0.5,
        median_factor=2.0,
        num_points=9,
        num_images=3,
    )
    assert "0.00123" in explain_map(info.model_copy(update={"calibration": (small,)}))
