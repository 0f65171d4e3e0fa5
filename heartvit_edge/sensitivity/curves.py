"""Loss of dropping a whole share of a site's tokens by score: what sums of scores foresee, against the truth.

A plan drops many tokens at once, and second-order terms at the dense model, cross terms included, fall short of that:
on a confident image the softmax hides what a small change of the logits costs once it becomes a large one. So each site
has its own correction, fitted to means over held-out images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.sensitivity.gates import GateLayout
from heartvit_edge.sensitivity.measure import DenseTrace, token_losses
from heartvit_edge.sensitivity.power_law import log_line
from heartvit_edge.spec.sensitivity import DropCurve

SHARES = (0.125, 0.25, 0.375, 0.5, 0.75)

Drops = dict[tuple[int, int], list[tuple[float, float]]]
"""Site and number of tokens dropped, to predicted and measured nats of each image."""


def measure_drops(dense: DenseModel, trace: DenseTrace, layout: GateLayout, scores: torch.Tensor) -> Drops:
    """Drop each share of the least-scored tokens of one image at each site alone.

    Args:
        dense: The dense model.
        trace: Its forward of the image.
        layout: The gates that are scored.
        scores: Shape (sites, num_patches).
    """
    patches = dense.shape.num_patches
    counts = sorted({max(1, round(share * patches)) for share in SHARES if round(share * patches) < patches})
    found: Drops = {}
    for order, site in enumerate(layout.sites):
        ascending = scores[order].argsort()
        removed = torch.zeros(len(counts), patches, dtype=torch.bool)
        for row, count in enumerate(counts):
            removed[row, ascending[:count]] = True
        measured = token_losses(dense.module, trace, site, removed.to(trace.logits.device)).tolist()
        for row, count in enumerate(counts):
            predicted = scores[order].clamp(min=0)[removed[row]].sum().item()
            found[site, count] = [(predicted, max(measured[row], 0.0))]
    return found


def fit_drops(parts: Iterable[Mapping[tuple[int, int], list[tuple[float, float]]]]) -> tuple[DropCurve, ...]:
    """Return one correction a site, fitted to the means over all images; none where a mean is zero.

    Args:
        parts: What ``measure_drops`` gave for each image.
    """
    joined: Drops = {}
    for part in parts:
        for key, points in part.items():
            joined.setdefault(key, []).extend(points)
    curves = []
    for site in sorted({site for site, _ in joined}):
        counts = sorted(count for found, count in joined if found == site)
        means = np.array([np.mean(joined[site, count], axis=0) for count in counts])
        if len(counts) < 2 or (means <= 0).any() or np.ptp(means[:, 0]) == 0:
            continue
        slope, offset = log_line(np.log(means[:, 0]), np.log(means[:, 1]))
        curves.append(
            DropCurve(
                site=site,
                num_dropped=tuple(counts),
                predicted_nats=tuple(means[:, 0].tolist()),
                measured_nats=tuple(means[:, 1].tolist()),
                scale=float(np.exp(offset)),
                exponent=slope,
                num_images=len(joined[site, counts[0]]),
            )
        )
    return tuple(curves)
