"""A gate for a plan: taught on some images, measured on others."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from heartvit_edge.allocation.fit_counts import DEFAULT_FIT, FitEffort
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.gating.distil import DistilSettings, distil, site_quality
from heartvit_edge.gating.examples import SiteExamples, collect_examples
from heartvit_edge.gating.fitted import fit_to_gate, with_fitted
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.token_gate import TokenGate, entering, gate_macs, make_token_gate
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.sensitivity.plan_images import PlanImages
from heartvit_edge.spec.finetune import Answers
from heartvit_edge.spec.gate import LEARNED, GateSite
from heartvit_edge.spec.plan import PruningPlan
from heartvit_edge.spec.reduction import Reduction

TIMED = ("scoring", "training", "fitting")
"""What teaching spends its time on."""


@dataclass(frozen=True)
class Learned:
    """A gate that learnt, and what is known of it.

    Attributes:
        plan: The plan that it is for: the one that was asked for, or that with counts that fit the gate.
        gate: On the CPU, without gradients.
        sites: How well it ranks at each site, on the held-out images.
        answers: What the plan answers there with the gate choosing.
        scoring_s: Seconds that taking the scores took, of all images.
        training_s: Seconds that learning from them took.
        fitting_s: Seconds that fitting counts took.
    """

    plan: PruningPlan
    gate: TokenGate
    sites: tuple[GateSite, ...]
    answers: Answers
    scoring_s: float
    training_s: float
    fitting_s: float


def learn_gate(
    plan: PruningPlan,
    images: PlanImages,
    held_out: PlanImages,
    settings: DistilSettings,
    cost: CostModel | None = None,
    *,
    reduction: Reduction = "drop",
    effort: FitEffort = DEFAULT_FIT,
    clock: Callable[[], float] = time.perf_counter,
) -> Learned:
    """Teach a gate what removing each token costs, and measure it.

    Half of the images teach a first gate. Counts are fitted to it on the others, which it has not seen, and are taken
    where they lose less on the held-out images too. Then the others are scored on the tokens that this gate leaves
    them, and all teach the gate that is returned.

    Args:
        plan: What each block keeps; it drops tokens.
        images: Images that teach, in two batches or more; those of one teach once, and no counts are fitted.
        held_out: Others, at least two, of the same model.
        settings: How; the seed draws the first weights too.
        cost: What plans of the model cost; None: the plan's counts stay.
        reduction: What becomes of tokens that are not kept; it needs a gate.
        effort: How long to look for counts.
        clock: Returns seconds.

    Raises:
        ValueError: If the plan drops no tokens, or drops them before block 0.
    """
    watch = _Watch(clock)
    first, *others = images.parts(2)
    gate = _untaught(plan, images, settings)
    with watch("scoring"):
        lots = [collect_examples(first, _model(plan, gate, images, reduction))]
    for part in others:
        with watch("training"):
            _teach(gate, lots, images, settings)
        with watch("fitting"):
            plan = plan if cost is None else fitted_plan(plan, gate, part, held_out, cost, effort, reduction)
        with watch("scoring"):
            lots.append(collect_examples(part, _model(plan, gate, images, reduction), by_gate=True))
        gate = _untaught(plan, images, settings)
    with watch("training"):
        _teach(gate, lots, images, settings)
    gate.requires_grad_(False)
    model = _model(plan, gate, images, reduction)
    with watch("scoring"):
        met = collect_examples(held_out, model, by_gate=True)
    sites = []
    for site, num_keep in model.num_keep.items():
        quality = site_quality(gate, site, met[site], num_keep)
        sites.append(
            GateSite(block=site, num_keep=num_keep, mass_kept=quality.mass_kept, best_mass_kept=quality.best_mass_kept)
        )
    answers = answers_of(model, held_out)
    if plan.chosen_by == LEARNED:
        plan = plan.model_copy(
            update={"predicted_loss_nats": answers.kl_nats, "predicted_loss_stderr_nats": answers.kl_stderr_nats}
        )
    return Learned(plan, gate.cpu(), tuple(sites), answers, *(watch.seconds[name] for name in TIMED))


def _untaught(plan: PruningPlan, images: PlanImages, settings: DistilSettings) -> TokenGate:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return make_token_gate(plan).to(images.batches[0])


def _model(plan: PruningPlan, gate: TokenGate, images: PlanImages, reduction: Reduction) -> GatedViT:
    return GatedViT(images.dense.module, plan, gate, reduction).eval()


def _teach(
    gate: TokenGate, lots: Sequence[dict[int, SiteExamples]], images: PlanImages, settings: DistilSettings
) -> None:
    total = settings.epochs * sum(len(examples) for lot in lots for examples in lot.values())
    with images.watch("teaching the gate", total) as advance:
        distil(gate, lots, settings, advance)


def fitted_plan(
    plan: PruningPlan,
    gate: TokenGate,
    images: PlanImages,
    held_out: PlanImages,
    cost: CostModel,
    effort: FitEffort,
    reduction: Reduction = "drop",
) -> PruningPlan:
    """Return a plan with counts that fit a gate, or as it is where they lose no less on the held-out images.

    Args:
        plan: Drops tokens.
        gate: What chooses them, on the images' device.
        images: What counts are sought on; best some that the gate did not learn from.
        held_out: Others, at least two, that decide.
        cost: What plans of the model cost.
        effort: How long to look.
        reduction: What becomes of tokens that are not kept.
    """
    found = fit_to_gate(plan, gate, images, cost, reduction=reduction, effort=effort)
    fitted = with_fitted(plan, found.counts, cost)
    if fitted.sites == plan.sites:
        return plan
    before, after = (answers_of(_model(one, gate, images, reduction), held_out).kl_nats for one in (plan, fitted))
    return fitted if after < before else plan


class _Watch:
    """Adds up seconds by what they were spent on."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.seconds = clock, dict.fromkeys(TIMED, 0.0)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = self.clock()
        yield
        self.seconds[name] += self.clock() - start


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
