"""The loss of a set of removals, from logits linearised on the way to it."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.autograd import forward_ad

from heartvit_edge.model.forward import RemovalGates, continue_forward
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.sensitivity.measure import DenseTrace

WAY = 0.7
"""How far along the path from dense (0) to removed (1) the slope is taken; chosen on training images."""


@torch.no_grad()
def path_cost(dense: DenseModel, trace: DenseTrace, site: int, removed: Tensor, way: float = WAY) -> Tensor:
    r"""Return the loss of removing each set of tokens, foreseen from one directional derivative of the logits.

    With m(t) = 1 - t v and v the set's indicator, the logits' change is taken as (d/dt) z(m(t)) at t = ``way``, and the
    loss as KL(dense || softmax(z + change)), which unlike its quadratic term does not saturate where the dense answer
    is confident. At ``way`` 0 the second-order part is 1/2 v^T F v.

    Args:
        dense: The dense model.
        trace: Its forward of the image.
        site: Block before which the tokens go.
        removed: One row a set, true where a patch token goes, shape (R, num_patches).
        way: In [0, 1).

    Returns:
        Shape (R,), in nats.
    """
    direction = -removed.to(trace.logits.dtype)
    tokens = trace.entering[site].expand(len(removed), -1, -1)
    with warnings.catch_warnings(), forward_ad.dual_level():
        # torch loads its forward-mode rules through a torch.jit.script that it deprecates itself
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
        gates = forward_ad.make_dual(1 + way * direction, direction)
        logits = continue_forward(dense.module, tokens, site, RemovalGates(tokens={site: gates}))
        change = forward_ad.unpack_dual(logits).tangent
    return kl_to_dense(trace.logits, trace.logits + change)
