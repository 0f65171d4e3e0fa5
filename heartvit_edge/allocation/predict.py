"""Predicted loss of keeping so many tokens at a site, and of losing so many heads in a block."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.sensitivity.table import ScoreTable

Curve = NDArray[np.float64]


def token_curve(scores: NDArray[np.float32]) -> Curve:
    """Return the mean loss of dropping each image's least-scored tokens, by the number dropped.

    Args:
        scores: One site's scores, shape (images, num_patches). Negative ones count as zero: no removal gains.

    Returns:
        Shape (num_patches + 1,), starting at 0 and not falling: entry d is the loss of dropping d tokens.
    """
    ascending = np.sort(np.maximum(scores, 0).astype(np.float64), axis=1)
    return np.concatenate([[0.0], np.cumsum(ascending, axis=1).mean(axis=0)])


def corrected_curves(table: ScoreTable) -> dict[int, Curve]:
    """Return each site's curve of ``token_curve``, corrected by what dropping whole shares of tokens measured.

    The sum of single scores foresees far too little for a large set, and by another factor at each site. Sites without
    a measured curve keep the sums.
    """
    measured = {found.site: found for found in table.info.drop_curves}
    curves = {site: token_curve(scores) for site, scores in table.tokens.items()}
    return {
        site: np.array([measured[site].correct(loss) for loss in curve]) if site in measured else curve
        for site, curve in curves.items()
    }


def corrected_heads(table: ScoreTable) -> NDArray[np.float64]:
    """Return the mean loss of removing each head, shape (depth, num_heads), corrected where that was measured."""
    means = np.array(table.info.heads_mean, dtype=np.float64)
    correction = table.info.calibration_of("head")
    if correction is None:
        return means
    return correction.scale * np.maximum(means, 0) ** correction.exponent


def site_terms(curves: Mapping[int, Curve]) -> dict[int, Curve]:
    """Return for each site a curve over the tokens dropped *up to it*, such that the plan's loss is their sum.

    Of the tokens missing at a site, those already dropped before were paid for at an earlier site, where they went. So
    with D_s the curve of site s and d_s tokens missing from site s on, the loss is the sum over sites of
    D_s(d_s) - D_s(d_{s-1}), which regroups into one term a site: D_s(d_s) - D_{s+1}(d_s).

    Args:
        curves: Site to the curve of ``token_curve``.
    """
    sites = sorted(curves)
    terms = {}
    for order, site in enumerate(sites):
        later = curves[sites[order + 1]] if order + 1 < len(sites) else np.zeros_like(curves[site])
        terms[site] = curves[site] - later
    return terms


def head_curve(scores: NDArray[np.float64]) -> tuple[Curve, NDArray[np.int64]]:
    """Return the loss of removing a block's least-scored heads, by the number removed, and the order they go in.

    Args:
        scores: One block's mean scores, shape (num_heads,). Negative ones count as zero.

    Returns:
        Losses, shape (num_heads + 1,), and head indices, least-scored first, shape (num_heads,).
    """
    order = np.argsort(scores, kind="stable")
    return np.concatenate([[0.0], np.cumsum(np.maximum(scores[order], 0))]), order
