"""Planning problems small enough to try every plan, a ViT-B whose plans can be enumerated, and score tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.allocation.cost import attention_macs, dense_macs, plan_macs
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.predict import losses_at, site_terms, token_curve
from heartvit_edge.allocation.problem import Choice, Problem, Resource
from heartvit_edge.sensitivity.table import ScoreTable
from heartvit_edge.spec.model import ImageSetRef, ModelShape, ModelSource, Preprocessing
from heartvit_edge.spec.plan import BlockPlan
from heartvit_edge.spec.sensitivity import Scorer, ScoreSettings, SensitivityMap

SHAPE = ModelShape(
    img_size=32,
    patch_size=8,
    embed_dim=24,
    depth=4,
    num_heads=3,
    head_dim=8,
    mlp_in_dim=48,
    mlp_hidden_dim=48,
    num_classes=5,
    num_prefix_tokens=1,
    pool="token",
)
VIT_B = ModelShape(
    img_size=224,
    patch_size=16,
    embed_dim=768,
    depth=12,
    num_heads=12,
    head_dim=64,
    mlp_in_dim=3072,
    mlp_hidden_dim=3072,
    num_classes=1000,
    num_prefix_tokens=1,
    pool="token",
)
SOURCE = ModelSource(name="tiny_vit", weights_sha256="0" * 64)


def macs_problem(
    max_macs: float,
    token_loss: NDArray[np.float64],
    head_loss: NDArray[np.float64],
    *,
    sites: tuple[int, ...],
    candidates: tuple[int, ...],
    shape: ModelShape = SHAPE,
) -> Problem:
    """Return the problem of the least loss within so many MACs, with whole MLPs."""
    return Problem(
        depth=shape.depth,
        sites=sites,
        candidates=candidates,
        token_loss=token_loss,
        head_loss=head_loss,
        unit_loss=np.zeros((shape.depth, 1)),
        resources=(CostModel(shape).resource("macs", candidates, head_loss.shape[1], 1, max_macs),),
    )


def limited(problem: Problem, *limits: float) -> Problem:
    """Return the same problem with other limits on its resources."""
    pairs = zip(problem.resources, limits, strict=True)
    return replace(problem, resources=tuple(replace(resource, limit=limit) for resource, limit in pairs))


def blocks_of(problem: Problem, chosen: Choice, shape: ModelShape = SHAPE) -> list[BlockPlan]:
    """Return what each block keeps under a choice; of its heads, the first ones."""
    blocks, count = [], shape.num_tokens
    for block, removed in enumerate(chosen.heads_removed):
        if block in problem.sites:
            count = chosen.num_keep[problem.sites.index(block)]
        blocks.append(BlockPlan(kept_heads=tuple(range(shape.num_heads - removed)), num_tokens=count))
    return blocks


def macs_of(problem: Problem, chosen: Choice, shape: ModelShape = SHAPE) -> int:
    """Return a choice's MACs by the cost model, which no table of the problem enters."""
    return plan_macs(shape, blocks_of(problem, chosen, shape))


def cost_of(problem: Problem, resource: Resource, chosen: Choice) -> float:
    """Return what a choice costs, added up block by block."""
    total, row = resource.fixed, len(problem.candidates) - 1
    for block, (heads, units) in enumerate(zip(chosen.heads_removed, chosen.units_removed, strict=True)):
        if block in problem.sites:
            row = problem.candidates.index(chosen.num_keep[problem.sites.index(block)])
        total += float(resource.attention[row][heads]) + float(resource.mlp[row][units])
    return total


def loss_of(problem: Problem, chosen: Choice) -> float:
    """Return the sum of the losses that a choice names."""
    tokens = sum(problem.token_loss[s, problem.candidates.index(count)] for s, count in enumerate(chosen.num_keep))
    heads = sum(problem.head_loss[block, removed] for block, removed in enumerate(chosen.heads_removed))
    units = sum(problem.unit_loss[block, removed] for block, removed in enumerate(chosen.units_removed))
    return float(tokens + heads + units)


def every_plan(problem: Problem) -> Iterator[Choice]:
    """Give every plan whose tokens never grow, whatever it costs and loses."""
    heads, units = problem.head_loss.shape[1], problem.unit_loss.shape[1]
    for num_keep in product(problem.candidates, repeat=len(problem.sites)):
        if list(num_keep) != sorted(num_keep, reverse=True):
            continue
        for heads_removed in product(range(heads), repeat=problem.depth):
            for units_removed in product(range(units), repeat=problem.depth):
                yield Choice(num_keep, heads_removed, units_removed)


def every_allowed_plan(problem: Problem) -> list[Choice]:
    """Return the plans that are on offer and within every limit."""
    return [
        plan
        for plan in every_plan(problem)
        if np.isfinite(loss := loss_of(problem, plan))
        and loss <= problem.max_loss
        and all(cost_of(problem, resource, plan) <= resource.limit for resource in problem.resources)
        and (problem.max_sites is None or num_drops(problem, plan) <= problem.max_sites)
    ]


def num_drops(problem: Problem, chosen: Choice) -> int:
    """Return the number of sites at which tokens go."""
    counts = (problem.candidates[-1], *chosen.num_keep)
    return sum(after < before for before, after in pairwise(counts))


def least_loss_by_enumeration(problem: Problem, shape: ModelShape = VIT_B) -> float:
    """Return the least loss within the MACs; infinite where no plan is within them. Head losses must be convex.

    Blocks between two sites have the same tokens, so a plan's MACs depend only on how many heads go there in all, and
    with convex losses the best ones to go are the least increments. What is left is a grid small enough to look at.
    """
    (resource,) = problem.resources
    first_blocks = (0, *problem.sites, shape.depth)
    stretches = [
        np.concatenate([[0.0], np.cumsum(np.sort(np.diff(problem.head_loss[start:end], axis=1), axis=None))])
        for start, end in pairwise(first_blocks)
    ]
    removed = np.meshgrid(*[np.arange(len(losses)) for losses in stretches[:-1]], indexing="ij")
    loss_before = sum(losses[count] for losses, count in zip(stretches, removed, strict=False))
    last = np.append(stretches[-1], np.inf)  # one more than there are: impossible
    best = np.inf
    for num_keep in product(problem.candidates, repeat=len(problem.sites)):
        all_heads = Choice(num_keep, (0,) * shape.depth, (0,) * shape.depth)
        token_loss = loss_of(problem, all_heads)
        if list(num_keep) != sorted(num_keep, reverse=True) or token_loss >= best:
            continue
        head_macs = [attention_macs(shape, count, 1) for count in (shape.num_tokens, *num_keep)]
        saved = sum(count * macs for count, macs in zip(removed, head_macs, strict=False))
        missing = np.maximum(macs_of(problem, all_heads, shape) - resource.limit - saved, 0)
        still = np.minimum(-(-missing // head_macs[-1]), len(last) - 1).astype(int)
        best = min(best, token_loss + float((loss_before + last[still]).min()))
    return best


def vit_b_problem(limit: float, *, seed: int = 0, token_scale: float = 1.0) -> Problem:
    """Return a ViT-B at 224 px with sites 3, 6 and 9 and all 25 candidates.

    Token scores are log-normal and fall from site to site, and so are head scores.
    """
    random = np.random.default_rng(seed)
    shared = random.lognormal(-9, 1.5, (16, VIT_B.num_patches))
    scores = {
        site: token_scale * shared * random.lognormal(-depth, 0.5, shared.shape) for depth, site in enumerate((3, 6, 9))
    }
    terms = site_terms({site: token_curve(found.astype(np.float32)) for site, found in scores.items()})
    candidates = VIT_B.token_counts()
    heads = np.sort(random.lognormal(-4, 1.2, (12, 12)), axis=1)
    return macs_problem(
        int(limit * dense_macs(VIT_B)),
        np.stack([losses_at(term, VIT_B, candidates) for term in terms.values()]),
        np.concatenate([np.zeros((12, 1)), np.cumsum(heads, axis=1)[:, :-1]], axis=1),
        sites=(3, 6, 9),
        candidates=candidates,
        shape=VIT_B,
    )


def in_units(problem: Problem, unit: float) -> Problem:
    """Return the same problem with every loss divided by ``unit``."""
    return replace(problem, token_loss=problem.token_loss / unit, head_loss=problem.head_loss / unit)


def make_table(
    tokens: dict[int, NDArray[np.float32]],
    heads_mean: NDArray[np.float64] | None = None,
    *,
    units_mean: NDArray[np.float64] | None = None,
    shape: ModelShape = SHAPE,
    scorer: Scorer = "removal-gate",
    sites: Sequence[int] = (1, 3),
) -> ScoreTable:
    """Return a table of these scores: site to (images, num_patches), and (depth, count) of what else is scored."""
    info = SensitivityMap(
        source=SOURCE,
        shape=shape,
        preprocessing=Preprocessing(
            img_size=shape.img_size,
            interpolation="bicubic",
            crop_pct=0.9,
            crop_mode="center",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        images=ImageSetRef(name="noise.npz", num_images=8, sha256="2" * 64, labelled=False, seed=0),
        settings=ScoreSettings(
            scorer=scorer, sites=tuple(sites), unit_groups=0 if units_mean is None else units_mean.shape[1]
        ),
        estimator="drawn",
        in_nats=scorer == "removal-gate",
        arrays="sensitivity.npz",
        arrays_sha256="3" * 64,
        heads_mean=() if heads_mean is None else tuple(map(tuple, heads_mean.tolist())),
        units_mean=() if units_mean is None else tuple(map(tuple, units_mean.tolist())),
    )
    return ScoreTable(info=info, tokens=tokens, heads=None, units=None)


def drawn_table(
    seed: int = 0, *, heads: bool = True, unit_groups: int = 0, sites: Sequence[int] = (1, 3), head_scale: float = 0.05
) -> ScoreTable:
    """Return log-normal scores of 6 images, whose tokens rank alike at each site and are worth less at later ones."""
    random = np.random.default_rng(seed)
    shared = random.lognormal(-3, 1, (6, SHAPE.num_patches))
    tokens = {site: (shared / site).astype(np.float32) for site in sites}
    by_head = head_scale * random.lognormal(0, 1, (6, SHAPE.depth, SHAPE.num_heads)).astype(np.float32)
    by_unit = head_scale * random.lognormal(0, 1, (6, SHAPE.depth, unit_groups)).astype(np.float32)
    table = make_table(
        tokens,
        by_head.mean(axis=0) if heads else None,
        units_mean=by_unit.mean(axis=0) if unit_groups else None,
        sites=sites,
    )
    return replace(table, heads=by_head if heads else None, units=by_unit if unit_groups else None)
