"""Predicted against measured loss on held-out images, and the correction that follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from scipy.stats import spearmanr

from heartvit_edge.data.images import ImageSet
from heartvit_edge.data.preprocess import preprocess_one
from heartvit_edge.model.forward import forward
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.sensitivity.curves import Drops, measure_drops
from heartvit_edge.sensitivity.draws import CALIBRATION, image_generator
from heartvit_edge.sensitivity.gates import GateLayout
from heartvit_edge.sensitivity.hessian import set_cost
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.sensitivity.measure import DenseTrace, head_losses, token_losses, trace_dense
from heartvit_edge.sensitivity.path import path_cost
from heartvit_edge.sensitivity.power_law import log_line
from heartvit_edge.sensitivity.scorers import SCORERS, Batch
from heartvit_edge.spec.sensitivity import Calibration, Component, ScoreSettings

TOKENS_PER_SITE = 8
HEADS_PER_IMAGE = 12
SET_SHARES = (0.25, 0.5)

_LEAST_NATS = 1e-9
"""Below this a measured loss is rounding of the float32 logits; such points are left out of the fit."""

Points = list[tuple[int, float, float]]
"""Image number, predicted and measured nats."""


def measure_points(
    dense: DenseModel,
    images: ImageSet,
    numbers: Iterable[int],
    layout: GateLayout,
    settings: ScoreSettings,
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[dict[Component, Points], Drops]:
    """Predict and measure a sample of removals on held-out images.

    Each image gives ``HEADS_PER_IMAGE`` single heads and, at every site, the least-scored shares of ``measure_drops``.
    At the sites at quarters of the depth (at every site, where none of them is one) it also gives ``TOKENS_PER_SITE``
    single tokens and one random set of tokens for each of ``SET_SHARES``, predicted by the exact second-order cost, one
    Hessian-vector product, and by ``path_cost``.

    Args:
        dense: The dense model, on its device.
        images: Images that were not scored for the map.
        numbers: Positions of the images to use.
        layout: The gates that are scored.
        settings: The scorer and its seed.
        advance: Told the position of each image that is done.

    Returns:
        Predicted and measured nats of each removal by its kind, and of each share dropped by score.
    """
    points: dict[Component, Points] = {"token": [], "head": [], "token-set": [], "token-set-path": []}
    drops: Drops = {}
    device = next(dense.module.parameters()).device
    quarters = [order for order, site in enumerate(layout.sites) if site in dense.shape.quarter_blocks]
    looked_at = quarters or list(range(len(layout.sites)))
    for number in numbers:
        image = torch.from_numpy(preprocess_one(images.read(number), dense.preprocessing))[None].to(device)
        generator = image_generator(settings.seed, CALIBRATION, number)
        trace = trace_dense(dense.module, image)
        label = None if images.labels is None else torch.from_numpy(images.labels[number : number + 1]).to(device)
        scores = SCORERS[settings.scorer].score(
            Batch(dense.module, layout, image, label, settings.num_probes or 0, [generator])
        )
        if scores.tokens is not None:
            tokens = scores.tokens[0].cpu()
            points["token"] += _single_tokens(dense, trace, layout, looked_at, tokens, generator, number)
            by_product, by_path = _token_sets(dense, trace, image, layout, looked_at, generator, number)
            points["token-set"] += by_product
            points["token-set-path"] += by_path
            for key, found in measure_drops(dense, trace, layout, tokens).items():
                drops.setdefault(key, []).extend(found)
        if scores.heads is not None:
            points["head"] += _single_heads(dense, trace, scores.heads[0].cpu(), generator, number)
        advance(number)
    return points, drops


def fit_points(parts: Iterable[Mapping[Component, Points]]) -> tuple[Calibration, ...]:
    """Return one correction for each kind of removal that can be fitted, from every process's points."""
    joined: dict[Component, Points] = {}
    for part in parts:
        for component, points in part.items():
            joined.setdefault(component, []).extend(points)
    fits = (fit(component, sorted(points)) for component, points in joined.items())
    return tuple(found for found in fits if found is not None)


def _single_tokens(
    dense: DenseModel,
    trace: DenseTrace,
    layout: GateLayout,
    orders: Sequence[int],
    scores: torch.Tensor,
    generator: torch.Generator,
    number: int,
) -> Points:
    found: Points = []
    patches = dense.shape.num_patches
    for order in orders:
        site = layout.sites[order]
        chosen = torch.randperm(patches, generator=generator)[:TOKENS_PER_SITE]
        removed = torch.nn.functional.one_hot(chosen, patches).bool()
        measured = token_losses(dense.module, trace, site, removed.to(trace.logits.device))
        found += [(number, float(scores[order, j]), float(m)) for j, m in zip(chosen, measured, strict=True)]
    return found


def _single_heads(
    dense: DenseModel, trace: DenseTrace, scores: torch.Tensor, generator: torch.Generator, number: int
) -> Points:
    found: Points = []
    heads = dense.shape.num_heads
    for flat in torch.randperm(dense.shape.depth * heads, generator=generator)[:HEADS_PER_IMAGE].tolist():
        block, head = divmod(flat, heads)
        removed = torch.nn.functional.one_hot(torch.tensor([head]), heads).bool()
        measured = head_losses(dense.module, trace, block, removed.to(trace.logits.device))
        found.append((number, float(scores[block, head]), float(measured)))
    return found


def _token_sets(
    dense: DenseModel,
    trace: DenseTrace,
    image: torch.Tensor,
    layout: GateLayout,
    orders: Sequence[int],
    generator: torch.Generator,
    number: int,
) -> tuple[Points, Points]:
    by_product: Points = []
    by_path: Points = []
    patches = dense.shape.num_patches
    for order in orders:
        site = layout.sites[order]
        removed = torch.zeros(len(SET_SHARES), patches, dtype=torch.bool)
        for row, share in enumerate(SET_SHARES):
            removed[row, torch.randperm(patches, generator=generator)[: max(1, round(share * patches))]] = True
        removed = removed.to(image.device)
        measured = token_losses(dense.module, trace, site, removed).tolist()
        products = predict_token_sets(dense, trace, image, layout, order, removed).tolist()
        by_product += [(number, p, m) for p, m in zip(products, measured, strict=True)]
        paths = path_cost(dense, trace, site, removed).tolist()
        by_path += [(number, p, m) for p, m in zip(paths, measured, strict=True)]
    return by_product, by_path


def predict_token_sets(
    dense: DenseModel, trace: DenseTrace, image: torch.Tensor, layout: GateLayout, order: int, removed: torch.Tensor
) -> torch.Tensor:
    """Return the second-order cost of each set of tokens, in nats, shape (R,).

    Args:
        dense: The dense model.
        trace: Its forward of the image.
        image: Normalised, shape (1, 3, H, W).
        layout: The gates; always expanded as removal gates, whatever the scorer.
        order: Position of the site among ``layout.sites``.
        removed: One row a set, true where a patch token goes, shape (R, num_patches).
    """
    layout = GateLayout(layout.shape, (layout.sites[order],))
    batch = image.expand(len(removed), -1, -1, -1)
    gates = layout.ones(batch)
    direction = torch.zeros_like(gates)
    direction[:, : removed.shape[1]] = removed.to(gates)

    def loss(values: torch.Tensor) -> torch.Tensor:
        return kl_to_dense(trace.logits, forward(dense.module, batch, layout.gates(values)))

    return set_cost(loss, gates, direction)


def fit(component: Component, points: Points) -> Calibration | None:
    """Fit measured = scale * predicted ** exponent on logarithms.

    Args:
        component: What the points are.
        points: Image number, predicted and measured nats.

    Returns:
        The correction; None with fewer than three usable points, points of one image only, all points alike, or none
        that the others could be fitted without.
    """
    usable = [(n, p, m) for n, p, m in points if p > _LEAST_NATS and m > _LEAST_NATS]
    if len(usable) < 3 or any(len({point[column] for point in usable}) < 2 for column in range(3)):
        return None
    image = np.array([n for n, _, _ in usable])
    x = np.log([p for _, p, _ in usable])
    y = np.log([m for _, _, m in usable])
    slope, offset = log_line(x, y)
    residual = y - (offset + slope * x)
    factors = []
    for left_out in np.unique(image):
        rest = image != left_out
        if rest.sum() >= 2 and np.ptp(x[rest]) > 0:
            its_slope, its_offset = log_line(x[rest], y[rest])
            factors.append(np.abs(y[~rest] - (its_offset + its_slope * x[~rest])))
    if not factors:
        return None
    return Calibration(
        component=component,
        scale=float(np.exp(offset)),
        exponent=slope,
        spearman=float(spearmanr([p for _, p, _ in points], [m for _, _, m in points]).statistic),
        r_squared=float(1 - residual.var() / y.var()),
        median_factor=float(np.median(np.exp(np.concatenate(factors)))),
        num_points=len(usable),
        num_images=len(np.unique(image)),
    )
