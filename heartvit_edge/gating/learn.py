"""A gate for a plan: taught on some images, measured on others."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from heartvit_edge.gating.distil import DistilSettings, distil, site_quality
from heartvit_edge.gating.examples import collect_examples
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.token_gate import TokenGate, entering, gate_macs, make_token_gate
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.sensitivity.plan_images import PlanImages
from heartvit_edge.spec.finetune import Answers
from heartvit_edge.spec.gate import GateSite
from heartvit_edge.spec.plan import PruningPlan


@dataclass(frozen=True)
class Learned:
    """A gate that learnt, and what is known of it.

    Attributes:
        gate: On the CPU, without gradients.
        sites: How well it ranks at each site, on the held-out images.
        answers: What the plan answers there with the gate choosing.
        scoring_s: Seconds that taking the scores took, of all images.
        training_s: Seconds that learning from them took.
    """

    gate: TokenGate
    sites: tuple[GateSite, ...]
    answers: Answers
    scoring_s: float
    training_s: float


def learn_gate(
    plan: PruningPlan,
    images: PlanImages,
    held_out: PlanImages,
    settings: DistilSettings,
    clock: Callable[[], float] = time.perf_counter,
) -> Learned:
    """Teach a gate what removing each token costs, and measure it.

    Args:
        plan: What each block keeps; it drops tokens.
        images: Images that teach.
        held_out: Others, at least two, of the same model.
        settings: How; the seed draws the first weights too.
        clock: Returns seconds.

    Raises:
        ValueError: If the plan drops no tokens, or drops them before block 0.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        gate = make_token_gate(plan).to(images.batches[0])
    model = GatedViT(images.dense.module, plan, gate).eval()
    start = clock()
    examples, others = collect_examples(images, model), collect_examples(held_out, model)
    scored = clock()
    with images.watch("teaching the gate", settings.epochs * len(examples) * images.num_images) as advance:
        distil(gate, examples, settings, advance)
    trained = clock()
    gate.requires_grad_(False)
    sites = []
    for site, num_keep in model.num_keep.items():
        quality = site_quality(gate, site, others[site], num_keep)
        sites.append(
            GateSite(block=site, num_keep=num_keep, mass_kept=quality.mass_kept, best_mass_kept=quality.best_mass_kept)
        )
    answers = answers_of(model, held_out)
    return Learned(gate.cpu(), tuple(sites), answers, scored - start, trained - scored)


@torch.no_grad()
def answers_of(model: GatedViT, images: PlanImages) -> Answers:
    """Return what a gated model answers on images, at least two, beside the dense model; labels play no part."""
    losses, agreeing = [], 0
    for batch, dense in zip(images.batches, images.logits, strict=True):
        logits = model(batch)[0]
        losses.append(kl_to_dense(dense, logits).double().cpu())
        agreeing += int((logits.argmax(dim=1) == dense.argmax(dim=1)).sum())
    every = torch.cat(losses)
    return Answers(
        num_images=len(every),
        kl_nats=max(0.0, every.mean().item()),  # rounding can leave it just below
        kl_stderr_nats=every.std().item() / math.sqrt(len(every)),
        num_agreeing=agreeing,
        num_correct=None,
    )


def hidden_units(gate: TokenGate) -> int:
    """Return the hidden units of each site's network."""
    site = int(next(iter(gate.networks)))
    return gate.network(site).hidden.in_features


def macs_of_gate(gate: TokenGate, plan: PruningPlan) -> int:
    """Return the multiply-accumulates of a plan's gate for one image."""
    return gate_macs(plan.shape, entering(plan), hidden_units(gate))
