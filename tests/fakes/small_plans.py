"""Planning problems small enough to try every plan, a ViT-B whose plans can be enumerated, and score tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.allocation.cost import attention_macs, dense_macs, plan_macs
from heartvit_edge.allocation.predict import head_curve, site_terms, token_curve
from heartvit_edge.allocation.solve import Problem, Solution, candidate_tokens, losses_at
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


def blocks_of(problem: Problem, chosen: Solution) -> list[BlockPlan]:
    """Return what each block keeps under a solution; of its heads, the first ones."""
    blocks, count = [], problem.shape.num_tokens
    for block, removed in enumerate(chosen.heads_removed):
        if block in problem.sites:
            count = chosen.num_keep[problem.sites.index(block)]
        blocks.append(BlockPlan(kept_heads=tuple(range(problem.shape.num_heads - removed)), num_tokens=count))
    return blocks


def macs_of(problem: Problem, chosen: Solution) -> int:
    """Return a solution's MACs."""
    return plan_macs(problem.shape, blocks_of(problem, chosen))


def loss_of(problem: Problem, num_keep: Sequence[int], heads_removed: Sequence[int]) -> float:
    """Return the sum of the losses that a choice names."""
    tokens = sum(problem.token_loss[s, problem.candidates.index(count)] for s, count in enumerate(num_keep))
    return float(tokens + sum(problem.head_loss[block, removed] for block, removed in enumerate(heads_removed)))


def every_plan(problem: Problem) -> Iterator[Solution]:
    """Give every plan whose tokens never grow, whatever it costs."""
    for num_keep in product(problem.candidates, repeat=len(problem.sites)):
        if list(num_keep) != sorted(num_keep, reverse=True):
            continue
        for removed in product(range(problem.head_loss.shape[1]), repeat=problem.shape.depth):
            yield Solution(num_keep, removed, loss_of(problem, num_keep, removed))


def least_loss_by_enumeration(problem: Problem) -> float:
    """Return the least loss within the budget; infinite where no plan is within it. Head losses must be convex.

    Blocks between two sites have the same tokens, so a plan's MACs depend only on how many heads go there in all, and
    with convex losses the best ones to go are the least increments. What is left is a grid small enough to look at.
    """
    shape, first_blocks = problem.shape, (0, *problem.sites, problem.shape.depth)
    stretches = [
        np.concatenate([[0.0], np.cumsum(np.sort(np.diff(problem.head_loss[start:end], axis=1), axis=None))])
        for start, end in pairwise(first_blocks)
    ]
    removed = np.meshgrid(*[np.arange(len(losses)) for losses in stretches[:-1]], indexing="ij")
    loss_before = sum(losses[count] for losses, count in zip(stretches, removed, strict=False))
    last = np.append(stretches[-1], np.inf)  # one more than there are: impossible
    best = np.inf
    for num_keep in product(problem.candidates, repeat=len(problem.sites)):
        token_loss = loss_of(problem, num_keep, ())
        if list(num_keep) != sorted(num_keep, reverse=True) or token_loss >= best:
            continue
        all_heads = Solution(num_keep, (0,) * shape.depth, token_loss)
        head_macs = [attention_macs(shape, count, 1) for count in (shape.num_tokens, *num_keep)]
        saved = sum(count * macs for count, macs in zip(removed, head_macs, strict=False))
        missing = np.maximum(macs_of(problem, all_heads) - problem.max_macs - saved, 0)
        still = np.minimum(-(-missing // head_macs[-1]), len(last) - 1)
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
    candidates = candidate_tokens(VIT_B)
    return Problem(
        shape=VIT_B,
        sites=(3, 6, 9),
        candidates=candidates,
        token_loss=np.stack([losses_at(term, VIT_B, candidates) for term in terms.values()]),
        head_loss=np.stack([head_curve(random.lognormal(-4, 1.2, 12))[0][:12] for _ in range(12)]),
        max_macs=int(limit * dense_macs(VIT_B)),
    )


def in_units(problem: Problem, unit: float) -> Problem:
    """Return the same problem with every loss divided by ``unit``."""
    return replace(problem, token_loss=problem.token_loss / unit, head_loss=problem.head_loss / unit)


def make_table(
    tokens: dict[int, NDArray[np.float32]],
    heads_mean: NDArray[np.float64] | None = None,
    *,
    shape: ModelShape = SHAPE,
    scorer: Scorer = "removal-gate",
    sites: tuple[int, ...] = (1, 3),
) -> ScoreTable:
    """Return a table of these scores: site to (images, num_patches), and (depth, num_heads) where heads are scored."""
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
        settings=ScoreSettings(scorer=scorer, sites=sites),
        estimator="drawn",
        in_nats=scorer == "removal-gate",
        arrays="sensitivity.npz",
        arrays_sha256="3" * 64,
        heads_mean=() if heads_mean is None else tuple(map(tuple, heads_mean.tolist())),
    )
    return ScoreTable(info=info, tokens=tokens, heads=None, units=None)
