"""What becomes of patch tokens that do not go on by themselves: dropped, fused into one, or merged into their likest.

Every reduction leaves ``num_keep`` tokens, so a plan costs the same MACs under each. They are written with constant
counts, without scatter or boolean indexing, so that a traced graph has static shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from heartvit_edge.errors import InputError
from heartvit_edge.model.forward import keep_tokens
from heartvit_edge.spec.pack import Reduction
from heartvit_edge.spec.plan import PruningPlan

SMALLEST_NORM = 1e-12
"""A token shorter than this has no direction, and is like no other."""


@dataclass(frozen=True)
class Reduced:
    """Tokens after a site.

    Attributes:
        tokens: Prefix tokens, then patch tokens in their original order, shape (B, num_prefix + num_keep, C).
        kept: Positions among the patches that entered, ascending, int64: of the patch tokens that stay or, under
            ``merge``, of those that others joined or that stay alone, shape (B, num_keep); under ``fuse`` the fused
            token has none, shape (B, num_keep - 1).
        sizes: Patches that each patch token stands for, shape (B or 1, num_keep); None where the others are gone.
    """

    tokens: Tensor
    kept: Tensor
    sizes: Tensor | None


def drop(tokens: Tensor, scores: Tensor | None, _sizes: Tensor | None, num_keep: int, num_prefix: int) -> Reduced:
    """Return the best-scored patch tokens alone; the others are gone."""
    assert scores is not None
    kept = _ascending(scores.topk(num_keep, dim=1).indices)
    return Reduced(keep_tokens(tokens, kept, num_prefix), kept, None)


def fuse(tokens: Tensor, scores: Tensor | None, sizes: Tensor | None, num_keep: int, num_prefix: int) -> Reduced:
    """Return the ``num_keep`` - 1 best-scored patch tokens, and behind them one mean token of all the others.

    The mean is weighted by the softmax of the scores, which may have any sign. The fused token of an earlier site is
    never ranked: it joins the new one as a mean does, by the number of patches that it stands for.

    Source:
        Liang et al. (2022), "Not All Patches are What You Need" (EViT), section 3.2, which weights by class attention.
    """
    assert scores is not None
    patches = tokens[:, num_prefix:]
    named = int(patches.shape[1]) - (sizes is not None)
    best = scores[:, :named].topk(named, dim=1)
    kept, rest = _ascending(best.indices[:, : num_keep - 1]), best.indices[:, num_keep - 1 :]
    weights = best.values[:, num_keep - 1 :].softmax(dim=1)
    fused = (_pick(patches, rest) * weights.unsqueeze(-1)).sum(dim=1, keepdim=True)  # (B, 1, C)
    size = tokens.new_full((1, 1), named - num_keep + 1)
    if sizes is not None:
        earlier = sizes[:, -1:]
        fused = fused + (patches[:, -1:] - fused) * (earlier / (earlier + size)).unsqueeze(-1)
        size = size + earlier
    grown = torch.cat([tokens.new_ones(1, num_keep - 1), size], dim=1)
    return Reduced(torch.cat([keep_tokens(tokens, kept, num_prefix), fused], dim=1), kept, grown)


def merge(tokens: Tensor, _scores: Tensor | None, sizes: Tensor | None, num_keep: int, num_prefix: int) -> Reduced:
    """Return ``num_keep`` patch tokens, the others merged into the likest of them by bipartite soft matching.

    No gate decides: likeness is the cosine between tokens. A round merges at most half of them; there are as many as it
    takes. Each token is the mean of the patches that it stands for.

    Source:
        Bolya et al. (2023), "Token Merging: Your ViT But Faster" (ToMe), section 3, which compares keys and merges a
        few tokens between attention and MLP of every block; here many are merged before the blocks that a plan names.
    """
    patches = tokens[:, num_prefix:]
    if sizes is None:
        sizes = patches[:, :, 0] * 0 + 1  # ones, whose shape a traced graph knows
    kept: Tensor | None = None
    count = int(patches.shape[1])
    while count > num_keep:
        num_merged = min(count - num_keep, count // 2)
        patches, sizes, positions = _merge_round(patches, sizes, num_merged)
        kept = positions if kept is None else kept.gather(1, positions)
        count -= num_merged
    assert kept is not None
    return Reduced(torch.cat([tokens[:, :num_prefix], patches], dim=1), kept, sizes)


def _merge_round(tokens: Tensor, sizes: Tensor, num_merged: int) -> tuple[Tensor, Tensor, Tensor]:
    """Merge the tokens at even positions that are likest to one at an odd position into that one.

    Args:
        tokens: Shape (B, P, C).
        sizes: Patches that each stands for, shape (B, P).
        num_merged: Tokens to merge, 1 .. P // 2.

    Returns:
        Tokens (B, P - num_merged, C), their sizes, and the positions of those left, int64, ascending.
    """
    count = int(tokens.shape[1])
    evens, odds = (torch.arange(first, count, 2, device=tokens.device) for first in (0, 1))
    sources, targets = tokens.index_select(1, evens), tokens.index_select(1, odds)
    source_sizes, target_sizes = sizes.index_select(1, evens), sizes.index_select(1, odds)
    likest = (_directions(sources) @ _directions(targets).transpose(1, 2)).topk(1, dim=2)  # of each source: (B, S, 1)
    order = likest.values[:, :, 0].topk(len(evens), dim=1).indices
    merged, alone = order[:, :num_merged], order[:, num_merged:]
    joins = likest.indices[:, :, 0].gather(1, merged).unsqueeze(1) == (odds // 2).unsqueeze(-1)  # (B, D, num_merged)
    mass = joins.to(tokens.dtype) * source_sizes.gather(1, merged).unsqueeze(1)
    grown = target_sizes + mass.sum(dim=2)
    # Shares of at most one, not sums over patches, which leave the range of FP16.
    joined = targets * (target_sizes / grown).unsqueeze(-1) + (mass / grown.unsqueeze(-1)) @ _pick(sources, merged)
    positions = order[:, :1] * 0 + odds  # (B, D)
    if num_merged < len(evens):
        positions = torch.cat([2 * alone, positions], dim=1)
        joined = torch.cat([_pick(sources, alone), joined], dim=1)
        grown = torch.cat([source_sizes.gather(1, alone), grown], dim=1)
    ascending = positions.topk(count - num_merged, dim=1, largest=False)
    return _pick(joined, ascending.indices), grown.gather(1, ascending.indices), ascending.values


def _directions(tokens: Tensor) -> Tensor:
    return tokens / tokens.norm(dim=-1, keepdim=True).clamp(min=SMALLEST_NORM)


REDUCTIONS: dict[Reduction, Callable[[Tensor, Tensor | None, Tensor | None, int, int], Reduced]] = {
    "drop": drop,
    "fuse": fuse,
    "merge": merge,
}
"""Each takes the tokens (B, num_prefix + P, C) that enter a site, what the gate says that each patch token is worth
(B, P; None for ``merge``), the sizes that the site before left (None before the first), the patch tokens to leave,
fewer than P, and the number of prefix tokens, which stay as they are."""


def num_listed(reduction: Reduction, num_keep: int) -> int:
    """Return how many patches the graph lists as kept where ``num_keep`` patch tokens go on."""
    return num_keep - 1 if reduction == "fuse" else num_keep


def check_reduction(reduction: Reduction, plan: PruningPlan) -> None:
    """Return only if the reduction can carry out the plan.

    Raises:
        InputError: If a site leaves one patch token, and ``fuse`` would leave the fused one alone.
    """
    if reduction != "fuse":
        return
    for site, count in plan.sites.items():
        if count - plan.shape.num_prefix_tokens < 2:
            raise InputError(
                f"the plan leaves one patch token at block {site}, and fuse takes one for what it fuses: expected two",
                hint="--reduction drop",
            )


def _ascending(positions: Tensor) -> Tensor:
    """Return positions (B, K) in ascending order; a traced sort has no constant length."""
    return positions.topk(int(positions.shape[1]), dim=1, largest=False).values


def _pick(tokens: Tensor, positions: Tensor) -> Tensor:
    """Return the tokens (B, K, C) at positions (B, K) of tokens (B, P, C)."""
    return keep_tokens(tokens, positions, 0)
