"""Dropping whole shares of tokens by score: predicted sums, measured losses and the correction between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes.small_scores import DOUBLE, double_dense
from fakes.tiny_vit import images

from heartvit_edge.sensitivity.curves import fit_drops, measure_drops
from heartvit_edge.sensitivity.gates import GateLayout
from heartvit_edge.sensitivity.measure import token_losses, trace_dense


def test_each_share_pairs_the_sum_of_the_least_scores_with_the_loss_of_dropping_those_tokens():
    dense = double_dense()
    trace = trace_dense(dense.module, images(1, seed=2, dtype=DOUBLE))
    layout = GateLayout(dense.shape, (1, 2))
    scores = torch.rand(2, 16, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    found = measure_drops(dense, trace, layout, scores)
    assert {count for _, count in found} == {2, 4, 6, 8, 12}
    for (site, count), [(predicted, measured)] in found.items():
        row = scores[layout.sites.index(site)]
        least = sorted(range(16), key=lambda patch: float(row[patch]))[:count]
        removed = torch.zeros(1, 16, dtype=torch.bool)
        removed[0, least] = True
        assert predicted == pytest.approx(sum(float(row[patch]) for patch in least), rel=1e-9)
        assert measured == pytest.approx(float(token_losses(dense.module, trace, site, removed)), rel=1e-6)


def test_the_correction_recovers_a_power_law_of_the_means():
    sums = {2: 0.01, 4: 0.05, 8: 0.2}
    parts = [
        {(3, count): [(share * total, share * 4 * total**1.5)] for count, total in sums.items()} for share in (0.5, 1.5)
    ]
    (curve,) = fit_drops(parts)
    assert (curve.site, curve.num_dropped, curve.num_images) == (3, (2, 4, 8), 2)
    assert (curve.scale, curve.exponent) == (pytest.approx(4), pytest.approx(1.5))
    np.testing.assert_allclose(curve.predicted_nats, list(sums.values()))
    assert curve.correct(0.05) == pytest.approx(4 * 0.05**1.5)


def test_a_correction_whose_exponent_is_held_up_still_passes_through_the_middle_of_its_points():
    parts = [{(3, 2): [(0.01, 0.4)], (3, 4): [(0.1, 0.2)], (3, 8): [(1.0, 0.1)]}]
    (curve,) = fit_drops(parts)
    assert curve.exponent == pytest.approx(0.05)
    assert curve.correct(0.1) == pytest.approx(0.2)


def test_a_site_whose_scores_or_losses_are_zero_has_no_correction():
    assert fit_drops([{(3, 2): [(0.0, 0.1)], (3, 4): [(0.1, 0.2)]}]) == ()
    assert fit_drops([{(3, 2): [(0.1, 0.0)], (3, 4): [(0.2, 0.2)]}]) == ()
    assert fit_drops([{(3, 2): [(0.1, 0.1)]}]) == ()
