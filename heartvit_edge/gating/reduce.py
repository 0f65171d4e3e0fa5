"""What becomes of patch tokens that do not go on by themselves: dropped, fused into one, or joined to their likest.

Every reduction leaves ``num_keep`` tokens, so a plan costs the same MACs under each. They are written without scatter
or boolean indexing. Where the count is an int a traced graph has static shapes; where it is a tensor (0-d, int64) that
is an input of the graph, all sizes in it follow from the counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor

from heartvit_edge.errors import InputError
from heartvit_edge.model.forward import keep_tokens
from heartvit_edge.spec.plan import PruningPlan
from heartvit_edge.spec.reduction import Reduction

Count: TypeAlias = "int | Tensor"
"""A number of tokens; a tensor where a traced graph takes it as an input."""

SMALLEST_NORM = 1e-12
"""A token shorter than this has no direction, and is like no other."""
JOIN_FROM = 0.5
"""Share of the blocks before which ``join`` drops: an early token has gathered little that is worth keeping."""
UNLIKENESS_POWER = 2.0
"""Joining costs what a token is worth times this power of its unlikeness to the one that it joins (docs/gates.md)."""
SMALLEST_UNLIKENESS = 1e-4
"""One minus a cosine is taken to be no less, which FP16 can still hold."""


@dataclass(frozen=True)
class Reduced:
    """Tokens after a site.

    Attributes:
        tokens: Prefix tokens, then patch tokens in their original order, shape (B, num_prefix + num_keep, C).
        kept: Positions among the patches that entered, ascending, int64: of the patch tokens that stay or, where
            others join them, of those joined or left alone, shape (B, num_keep); under ``fuse`` the fused token has
            none, shape (B, num_keep - 1).
        sizes: Patches that each patch token stands for, shape (B or 1, num_keep); None where the others are gone.
    """

    tokens: Tensor
    kept: Tensor
    sizes: Tensor | None


def drop(tokens: Tensor, scores: Tensor | None, _sizes: Tensor | None, num_keep: Count, num_prefix: int) -> Reduced:
    """Return the best-scored patch tokens alone; the others are gone."""
    assert scores is not None
    if not isinstance(num_keep, Tensor) and num_keep == scores.shape[1]:
        return Reduced(tokens, _all(tokens, num_prefix), None)
    kept = _ascending(_top(scores, num_keep).indices, num_keep)
    return Reduced(keep_tokens(tokens, kept, num_prefix), kept, None)


def fuse(tokens: Tensor, scores: Tensor | None, sizes: Tensor | None, num_keep: Count, num_prefix: int) -> Reduced:
    """Return the ``num_keep`` - 1 best-scored patch tokens, and behind them one mean token of all the others.

    The mean is weighted by the softmax of the scores, which may have any sign. The fused token of an earlier site is
    never ranked: it joins the new one as a mean does, by the number of patches that it stands for.

    Source:
        Liang et al. (2022), "Not All Patches are What You Need" (EViT), section 3.2, which weights by class attention.
    """
    assert scores is not None
    patches = tokens[:, num_prefix:]
    named = _length(patches, num_keep) - int(sizes is not None)
    alone = num_keep - 1
    best = _top(scores[:, :named], named)
    kept, rest = _ascending(best.indices[:, :alone], alone), best.indices[:, alone:]
    weights = best.values[:, alone:].softmax(dim=1)
    fused = (_pick(patches, rest) * weights.unsqueeze(-1)).sum(dim=1, keepdim=True)  # (B, 1, C)
    ones = tokens.new_ones(1, named) if isinstance(named, int) else best.values[:1] * 0 + 1
    size = ones[:, alone:].sum(dim=1, keepdim=True)
    if sizes is not None:
        earlier = sizes[:, -1:]
        fused = fused + (patches[:, -1:] - fused) * (earlier / (earlier + size)).unsqueeze(-1)
        size = size + earlier
    grown = torch.cat([ones[:, :alone].expand(size.shape[0], -1), size], dim=1)
    return Reduced(torch.cat([keep_tokens(tokens, kept, num_prefix), fused], dim=1), kept, grown)


def merge(tokens: Tensor, _scores: Tensor | None, sizes: Tensor | None, num_keep: Count, num_prefix: int) -> Reduced:
    """Return ``num_keep`` patch tokens, the others merged into the likest of them by bipartite soft matching.

    No gate decides: likeness is the cosine between tokens. A round merges at most half of them; there are as many as it
    takes, but one alone where the count is a tensor. Each token is the mean of the patches that it stands for.

    Source:
        Bolya et al. (2023), "Token Merging: Your ViT But Faster" (ToMe), section 3, which compares keys and merges a
        few tokens between attention and MLP of every block; here many are merged before the blocks that a plan names.
    """
    return _merged(tokens, None, sizes, num_keep, num_prefix)


def join(tokens: Tensor, scores: Tensor | None, sizes: Tensor | None, num_keep: Count, num_prefix: int) -> Reduced:
    """Return ``num_keep`` patch tokens, the others merged into their likest as ``merge`` does: those that cost least.

    What merging a token costs is what the gate says that it is worth, in nats, times a power of its unlikeness to the
    one that it joins. Before ``JOIN_FROM`` of the blocks tokens are dropped instead (``reduction_at``).

    Source:
        Our own; docs/gates.md has what led to it.
    """
    assert scores is not None
    return _merged(tokens, scores, sizes, num_keep, num_prefix)


def _merged(tokens: Tensor, worth: Tensor | None, sizes: Tensor | None, num_keep: Count, num_prefix: int) -> Reduced:
    """Merge in as many rounds as it takes; ``worth`` is the logarithm of what each patch token is worth (B, P)."""
    patches = tokens[:, num_prefix:]
    if sizes is None:
        sizes = patches[:, :, 0] * 0 + 1  # ones, whose shape a traced graph knows
    if isinstance(num_keep, Tensor):
        patches, sizes, kept = _merge_round(patches, sizes, num_keep, worth)
        return Reduced(torch.cat([tokens[:, :num_prefix], patches], dim=1), kept, sizes)
    if num_keep == patches.shape[1]:
        return Reduced(tokens, _all(tokens, num_prefix), sizes)
    patches, sizes, kept = _merge_round(patches, sizes, max(num_keep, -(-int(patches.shape[1]) // 2)), worth)
    while int(patches.shape[1]) > num_keep:
        left = max(num_keep, -(-int(patches.shape[1]) // 2))
        patches, sizes, positions = _merge_round(patches, sizes, left, None if worth is None else worth.gather(1, kept))
        kept = kept.gather(1, positions)
    return Reduced(torch.cat([tokens[:, :num_prefix], patches], dim=1), kept, sizes)


def _merge_round(tokens: Tensor, sizes: Tensor, num_left: Count, worth: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Merge tokens at even positions into the likest at an odd one: those that are likest, or that it costs least.

    Args:
        tokens: Shape (B, P, C).
        sizes: Patches that each stands for, shape (B, P).
        num_left: Tokens to leave, at least half of P and at most P.
        worth: Logarithm of what each is worth, shape (B, P); None: likeness alone decides.

    Returns:
        Tokens (B, num_left, C), their sizes, and the positions of those left, int64, ascending.
    """
    count = _length(tokens, num_left)
    num_merged = count - num_left
    sources, targets = tokens[:, 0::2], tokens[:, 1::2]
    source_sizes, target_sizes = sizes[:, 0::2], sizes[:, 1::2]
    num_sources = _length(sources, num_left)
    odds = torch.arange(1, cast("int", count), 2, device=tokens.device)
    likest = (_directions(sources) @ _directions(targets).transpose(1, 2)).topk(1, dim=2)  # of each source: (B, S, 1)
    ease = likest.values[:, :, 0]
    if worth is not None:
        ease = -worth[:, 0::2] - UNLIKENESS_POWER * (1 - ease).clamp(min=SMALLEST_UNLIKENESS).log()
    order = _top(ease, num_sources).indices
    merged, alone = order[:, :num_merged], order[:, num_merged:]
    joins = likest.indices[:, :, 0].gather(1, merged).unsqueeze(1) == (odds // 2).unsqueeze(-1)  # (B, D, num_merged)
    mass = joins.to(tokens.dtype) * source_sizes.gather(1, merged).unsqueeze(1)
    grown = target_sizes + mass.sum(dim=2)
    # Shares of at most one, not sums over patches, which leave the range of FP16.
    joined = targets * (target_sizes / grown).unsqueeze(-1) + (mass / grown.unsqueeze(-1)) @ _pick(sources, merged)
    positions = order[:, :1] * 0 + odds  # (B, D)
    if isinstance(num_left, Tensor) or num_merged < num_sources:
        positions = torch.cat([2 * alone, positions], dim=1)
        joined = torch.cat([_pick(sources, alone), joined], dim=1)
        grown = torch.cat([source_sizes.gather(1, alone), grown], dim=1)
    ascending = _top(positions, num_left, largest=False)
    return _pick(joined, ascending.indices), grown.gather(1, ascending.indices), ascending.values


def _directions(tokens: Tensor) -> Tensor:
    return tokens / tokens.norm(dim=-1, keepdim=True).clamp(min=SMALLEST_NORM)


REDUCTIONS: dict[Reduction, Callable[[Tensor, Tensor | None, Tensor | None, Count, int], Reduced]] = {
    "drop": drop,
    "fuse": fuse,
    "join": join,
    "merge": merge,
}
"""Each takes the tokens (B, num_prefix + P, C) that enter a site, what the gate says that each patch token is worth
(B, P; None for ``merge``), the sizes that the site before left (None before the first), the patch tokens to leave,
at most P (fewer under ``fuse``), and the number of prefix tokens, which stay as they are."""
MERGING: tuple[Reduction, ...] = ("join", "merge")
"""Those under which a token stands for several, and counts as often."""


def reduction_at(reduction: Reduction, site: int, depth: int) -> Reduction:
    """Return what becomes of tokens before one block: ``join`` drops them before ``JOIN_FROM`` of the blocks.

    Args:
        reduction: The model's.
        site: The block.
        depth: Number of blocks.
    """
    return "drop" if reduction == "join" and site < JOIN_FROM * depth else reduction


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


def _top(values: Tensor, count: Count, *, largest: bool = True) -> torch.return_types.topk:
    """Return the best of each row (B, P), best first; the count of a traced graph may be a tensor."""
    return values.topk(cast("int", count), dim=1, largest=largest)


def _ascending(positions: Tensor, count: Count) -> Tensor:
    """Return positions (B, K) in ascending order; a traced sort has no constant length."""
    return _top(positions, count, largest=False).values


def _all(tokens: Tensor, num_prefix: int) -> Tensor:
    """Return the positions of all patch tokens of (B, N, C), int64."""
    patches = tokens[:, num_prefix:, 0]
    return (patches * 0).long() + torch.arange(int(patches.shape[1]), device=tokens.device)


def _length(tokens: Tensor, count: Count) -> Count:
    """Return the tokens of (B, P, C): a constant of a traced graph where the count is one."""
    return tokens.shape[1] if isinstance(count, Tensor) else int(tokens.shape[1])


def _pick(tokens: Tensor, positions: Tensor) -> Tensor:
    """Return the tokens (B, K, C) at positions (B, K) of tokens (B, P, C)."""
    return keep_tokens(tokens, positions, 0)
