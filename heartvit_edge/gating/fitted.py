"""A plan whose token counts fit the gate that chooses, in place of the scores that it was made with."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from heartvit_edge.allocation.cost import plan_macs
from heartvit_edge.allocation.device_cost import staircase
from heartvit_edge.allocation.fit_counts import DEFAULT_FIT, FitEffort, FittedCounts, fit_counts
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.allocation.routing import Counts, with_counts
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.token_gate import TokenGate, entering
from heartvit_edge.model.forward import classify
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.sensitivity.plan_images import PlanImages
from heartvit_edge.spec.gate import LEARNED
from heartvit_edge.spec.plan import PruningPlan
from heartvit_edge.spec.reduction import Reduction

PARTS = 8
"""Parts of the images, after each of which counts that lose more may leave."""


def fit_to_gate(
    plan: PruningPlan,
    gate: TokenGate,
    images: PlanImages,
    cost: CostModel,
    *,
    reduction: Reduction = "drop",
    effort: FitEffort = DEFAULT_FIT,
) -> FittedCounts:
    """Return counts at a plan's sites that fit a gate, measured with the gate choosing.

    With a device table they are some that its steps end at, else any. The gate costs no more than at the plan's.

    Args:
        plan: Drops tokens.
        gate: What chooses them, on the images' device.
        images: Images, best some that the gate did not learn from.
        cost: What plans of the model cost.
        reduction: What becomes of tokens that are not kept.
        effort: How long to look.
    """
    model = GatedViT(images.dense.module, plan, gate, reduction).eval()
    with images.watch("fitting token counts to the gate", effort.most_tried) as advance:
        return fit_counts(
            plan,
            cost,
            [partial(_losses_at, model, part) for part in images.parts(PARTS)],
            candidates=staircase(cost.table, plan.shape.num_heads) if cost.table else None,
            most_entering=sum(entering(plan)),
            effort=effort,
            advance=advance,
        )


def with_fitted(plan: PruningPlan, counts: Counts, cost: CostModel) -> PruningPlan:
    """Return a plan with other counts at its sites; what it loses is not known yet.

    Args:
        plan: What the counts were fitted from.
        counts: Site to patch tokens.
        cost: What plans of the model cost.
    """
    blocks, table = with_counts(plan, counts), cost.table
    return plan.model_copy(
        update={
            "blocks": blocks,
            "macs": plan_macs(plan.shape, blocks, plan.unit_groups),
            "latency_ms": cost.cost("latency-ms", blocks) if table else None,
            "energy_mj": cost.cost("energy-mj", blocks) if plan.energy_mj is not None else None,
            "extrapolated": cost.extrapolates(blocks),
            "predicted_loss_nats": None,
            "predicted_loss_stderr_nats": None,
            "refined_on": None,
            "decided_on": None,
            "chosen_by": LEARNED,
            "check": None,
            "binding": (),
            "nats_per_percent": None,
        }
    )


@torch.no_grad()
def _losses_at(model: GatedViT, images: PlanImages, counts: Counts) -> NDArray[np.float64]:
    """Return KL(dense || pruned) of each image, in nats, shape (N,), with these counts at the model's sites."""
    found = []
    for batch, answers in zip(images.batches, images.logits, strict=True):
        tokens, _, sizes = model.run_blocks(batch, num_keep=counts)
        found.append(kl_to_dense(answers, classify(model.backbone, tokens, sizes)).double().cpu().numpy())
    return np.concatenate(found)
