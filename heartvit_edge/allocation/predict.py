"""Predicted loss of keeping so many tokens at a site, and of losing a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.sensitivity.table import ScoreTable
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.plan import BlockPlan

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


def losses_at(curve: Curve, shape: ModelShape, candidates: tuple[int, ...]) -> Curve:
    """Read a site's curve over dropped tokens at the token counts that stay, shape (candidates,)."""
    return curve[[shape.num_tokens - count for count in candidates]]


def loss_stderr(table: ScoreTable, blocks: Sequence[BlockPlan], num_draws: int = 200) -> float:
    """Return the standard error over images of a plan's predicted loss, by bootstrap, in the scores' units.

    Args:
        table: The scores that predicted it; corrections are taken as exact.
        blocks: What each block keeps.
        num_draws: Sets of images drawn with replacement, from a fixed seed.
    """
    info = table.info
    images = len(next(iter(table.tokens.values())))
    draws = np.random.default_rng(0).integers(0, images, (num_draws, images))
    total = np.zeros(num_draws)
    before = 0
    correct = {found.site: found.correct for found in info.drop_curves}
    for site, scores in sorted(table.tokens.items()):
        gone = info.shape.num_tokens - blocks[site].num_tokens
        sums = np.cumsum(np.sort(np.maximum(scores, 0).astype(np.float64), axis=1), axis=1)
        for count, sign in ((gone, 1), (before, -1)):
            if gone > before and count:
                means = sums[draws, count - 1].mean(axis=1)
                total += sign * np.array([correct[site](mean) if site in correct else mean for mean in means])
        before = max(before, gone)
    found = info.calibration_of("head")
    for index, block in enumerate(blocks):
        if table.heads is not None:
            means = _drawn_means(table.heads[:, index], block.kept_heads, draws)
            total += (means if found is None else found.scale * means**found.exponent).sum(axis=1)
        if table.units is not None and block.kept_units is not None:
            total += _drawn_means(table.units[:, index], block.kept_units, draws).sum(axis=1)
    return float(total.std())


def _drawn_means(scores: NDArray[np.float32], kept: Sequence[int], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean scores of what goes in each draw of images, shape (draws, gone); negative means count as zero.

    Args:
        scores: Shape (images, count).
        kept: What stays.
        draws: Positions of images, shape (draws, images).
    """
    means: NDArray[np.float64] = np.delete(scores, list(kept), axis=1)[draws].mean(axis=1, dtype=np.float64)
    return np.maximum(means, 0)
