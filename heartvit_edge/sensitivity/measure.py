"""The true loss of a removal, by running the model without the component."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from heartvit_edge.model.forward import RemovalGates, classify, continue_forward, embed, run_block
from heartvit_edge.sensitivity.loss import kl_to_dense


@dataclass(frozen=True)
class DenseTrace:
    """A dense forward of one image that can be continued from any block.

    Attributes:
        entering: Tokens that enter each block, shape (1, N, C) each.
        logits: Shape (1, C).
    """

    entering: tuple[Tensor, ...]
    logits: Tensor


@torch.no_grad()
def trace_dense(model: VisionTransformer, image: Tensor) -> DenseTrace:
    """Return the dense forward of one normalised image (1, 3, H, W)."""
    tokens = embed(model, image)
    entering = []
    for block in model.blocks:
        entering.append(tokens)
        tokens, _ = run_block(block, tokens)
    return DenseTrace(tuple(entering), classify(model, tokens))


@torch.no_grad()
def token_losses(
    model: VisionTransformer, trace: DenseTrace, site: int, removed: Tensor, *, batch_size: int = 64
) -> Tensor:
    """Return KL(dense || without) for each set of tokens removed before block ``site``, in nats.

    Args:
        model: The dense model.
        trace: Its forward of the image.
        site: Block before which the tokens go.
        removed: One row a set, true where a patch token goes, shape (R, num_patches).
        batch_size: Sets a forward.

    Returns:
        Shape (R,).
    """
    losses = []
    for rows in removed.split(batch_size):
        gates = RemovalGates(tokens={site: (~rows).to(trace.logits.dtype)})
        losses.append(_continued(model, trace, site, gates, len(rows)))
    return torch.cat(losses)


@torch.no_grad()
def head_losses(model: VisionTransformer, trace: DenseTrace, block: int, removed: Tensor) -> Tensor:
    """Return KL(dense || without) for each set of heads removed from one block, in nats.

    Args:
        model: The dense model.
        trace: Its forward of the image.
        block: Index of the block.
        removed: One row a set, true where a head goes, shape (R, num_heads).

    Returns:
        Shape (R,).
    """
    gates = RemovalGates(heads={block: (~removed).to(trace.logits.dtype)})
    return _continued(model, trace, block, gates, len(removed))


def _continued(model: VisionTransformer, trace: DenseTrace, start: int, gates: RemovalGates, rows: int) -> Tensor:
    tokens = trace.entering[start].expand(rows, -1, -1)
    return kl_to_dense(trace.logits, continue_forward(model, tokens, start, gates))
