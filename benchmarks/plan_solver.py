"""How long the solver takes for ViT-B."""

from __future__ import annotations

import time

import numpy as np

from heartvit_edge.allocation.best import make_problem
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.losses import Losses
from heartvit_edge.allocation.solve import solve
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.model import ModelShape

SHARES = (0.8, 0.65, 0.5)
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


def solve_vit_b() -> list[float]:
    """Return the seconds that planning ViT-B takes where 3 of 11 sites are chosen too, for losses of several shapes."""
    candidates = (*VIT_B.token_counts()[:23], VIT_B.num_tokens)
    cost = CostModel(VIT_B)
    seconds = []
    for seed in range(4):
        random = np.random.default_rng(seed)
        depth, sites = VIT_B.depth, tuple(range(1, VIT_B.depth))
        gone = 1 - np.array(candidates) / VIT_B.num_tokens
        curves = np.sort(random.lognormal(0, 1, depth))[::-1, None] * gone ** random.uniform(2, 4, (depth, 1))
        curves[-1] = 0
        heads = np.cumsum(np.sort(random.lognormal(-4, 1.5, (depth, VIT_B.num_heads)), axis=1), axis=1)
        heads -= heads[:, :1]
        sets = tuple(tuple(tuple(range(number)) for number in range(VIT_B.num_heads)) for _ in range(depth))
        losses = Losses(
            VIT_B, sites, candidates, curves[:-1] - curves[1:], heads, sets, np.zeros((depth, 1)), (((),),) * depth
        )
        for share in SHARES:
            start = time.monotonic()
            solve(make_problem(losses, cost, [Budget(limit=share)], 3))
            seconds.append(time.monotonic() - start)
    return seconds
