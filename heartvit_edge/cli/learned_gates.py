"""Gates that learn, for ``heartvit-edge export --gate learned``: used again where they fit, taught where not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from heartvit_edge.cli.console import progress_bar, say
from heartvit_edge.cli.make_plans import describe_sites
from heartvit_edge.errors import InputError
from heartvit_edge.spec.gate import TrainedGate
from heartvit_edge.spec.reduction import Reduction

if TYPE_CHECKING:
    from heartvit_edge.allocation.limits import CostModel
    from heartvit_edge.data.images import ImageSet
    from heartvit_edge.data.listing import Listing
    from heartvit_edge.gating.distil import DistilSettings
    from heartvit_edge.gating.token_gate import TokenGate
    from heartvit_edge.model.zoo import DenseModel
    from heartvit_edge.sensitivity.plan_images import PlanImages
    from heartvit_edge.spec.plan import PruningPlan

GATE_IMAGES = 1024
"""Images that gates learn from and are measured on, where as many are left."""
FEWEST = 32
"""Fewer images teach a gate nothing that could be told from chance."""
SMALLEST_BATCH = 8
FEWEST_STEPS = 7
"""Steps an epoch, where batches need not be smaller than the smallest for that."""
HELD_OUT_PART = 8
"""One image of so many is held out, to measure the gate on."""
OTHER_FOLDER = "name another folder with --scores, or add --force"
DO: dict[Reduction, str] = {"drop": "are dropped", "fuse": "are fused", "join": "join others", "merge": "are merged"}
"""What tokens do that are not kept."""


@dataclass(frozen=True)
class Lesson:
    """What gates are taught with.

    Attributes:
        dense: The dense model.
        images: Images to learn from.
        held_out: Images to measure on.
        settings: How gates learn.
    """

    dense: DenseModel
    images: ImageSet
    held_out: ImageSet
    settings: DistilSettings

    @cached_property
    def loaded(self) -> tuple[PlanImages, PlanImages]:
        """Both sets of images with the dense model's answers, on a GPU where there is one."""
        import torch

        from heartvit_edge.sensitivity.plan_images import load_plan_images
        from heartvit_edge.spec.sensitivity import ScoreSettings

        self.dense.module.to("cuda" if torch.cuda.is_available() else "cpu")
        settings = ScoreSettings(sites=tuple(range(1, self.dense.shape.depth)), seed=self.settings.seed)
        images, held_out = (
            load_plan_images(self.dense, part, settings, watch=progress_bar) for part in (self.images, self.held_out)
        )
        return images, held_out


def check_left(listing: Listing, used: int) -> None:
    """Return only if enough images are left to teach gates.

    Args:
        listing: All images.
        used: Those that are scored, calibrated on or checked on.

    Raises:
        InputError: If fewer than ``FEWEST`` are left.
    """
    left = listing.num_images - used
    if left < FEWEST:
        raise InputError(
            f"{listing.name} has {listing.num_images} images, of which {max(left, 0)} are left to teach a gate: "
            f"expected at least {FEWEST}",
            hint="give more images, or fewer --num-images, --held-out-images or --check-images",
        )


def draw_lesson(dense: DenseModel, listing: Listing, used: int, count: int, seed: int) -> Lesson:
    """Draw images past the ``used`` first ones of the draw, and hold one of ``HELD_OUT_PART`` out.

    Raises:
        InputError: If too few are left, or can be decoded.
    """
    from heartvit_edge.data.images import subset
    from heartvit_edge.data.split import split
    from heartvit_edge.gating.distil import DistilSettings

    check_left(listing, used)
    left = listing.num_images - used
    with progress_bar("reading images for the gates", used + min(count, left)) as advance:
        images = subset(
            listing, count if count < left else None, seed, skip=used, warn=say, progress=lambda *_: advance(1)
        )
    learning, held_out = split(images, len(images) - len(images) // HELD_OUT_PART, seed)
    if held_out is None or len(images) < FEWEST:
        raise InputError(
            f"{len(images)} images of {listing.name} are left to teach a gate and can be decoded, "
            f"expected at least {FEWEST}",
            hint="give more images",
        )
    fewer = f" ({len(images)} of {count} are left)" if len(images) < count else ""
    say(f"gates learn from {len(learning)} images and are measured on {len(held_out)} others{fewer}")
    usual = DistilSettings(seed=seed)
    batch_size = min(usual.batch_size, max(SMALLEST_BATCH, len(learning) // FEWEST_STEPS))
    return Lesson(dense, learning, held_out, replace(usual, batch_size=batch_size))


def run_gates(
    lesson: Lesson,
    plans: Sequence[PruningPlan],
    folder: Path,
    cost: CostModel | None,
    reduction: Reduction = "drop",
    *,
    force: bool,
) -> tuple[list[PruningPlan], dict[str, TokenGate]]:
    """Return the plans, with counts that fit their gates, and the gate of each that drops tokens, by its label.

    Gates that ``folder`` lacks are taught and stored there.

    Args:
        lesson: What gates are taught with.
        plans: Plans of the same model under different budgets.
        folder: Where gates are stored.
        cost: What plans cost; None: their counts stay.
        reduction: What becomes of tokens that are not kept, while gates learn.
        force: Replace gates that learnt otherwise.

    Raises:
        InputError: If ``folder`` holds a gate that learnt otherwise and ``force`` is not set.
        CheckError: If one was altered.
    """
    found, gates = [], {}
    for plan in plans:
        if not plan.sites:
            found.append(plan)
            continue
        own, gates[plan.label] = _run_gate(lesson, plan, folder, cost, reduction, force=force)
        found.append(own)
    return found, gates


def _run_gate(
    lesson: Lesson, plan: PruningPlan, folder: Path, cost: CostModel | None, reduction: Reduction, *, force: bool
) -> tuple[PruningPlan, TokenGate]:
    from heartvit_edge.gating.learn import learn_gate
    from heartvit_edge.gating.stored import gate_path, load_gate, load_gate_plan, write_gate

    path = gate_path(folder, plan)
    if path.exists() and not force:
        found = TrainedGate.read(path)
        own = load_gate_plan(path)
        if not _fits(found, lesson, plan):
            raise InputError(f"{path} learnt for another plan, or from other images or settings", hint=OTHER_FOLDER)
        if found.reduction != reduction:
            raise InputError(
                f"{path} learnt where tokens {DO[found.reduction]}, and here they {DO[reduction]}", hint=OTHER_FOLDER
            )
        if cost is None and own != plan:
            raise InputError(
                f"{path} has token counts fitted to it, and --keep-counts asks for the plan's", hint=OTHER_FOLDER
            )
        say(f"gate {path} fits and is used again")
        tell_gate(found, own)
        return own, load_gate(path, own)
    images, held_out = lesson.images.ref(), lesson.held_out.ref()
    learned = learn_gate(plan, *lesson.loaded, lesson.settings, cost, reduction=reduction)
    if learned.plan != plan:
        own = learned.plan.model_copy(update={"refined_on": images, "decided_on": held_out})
        learned = replace(learned, plan=own)
        say(f"{plan.label}: counts fitted to its gate: {describe_sites(own)}, in place of {describe_sites(plan)}")
    elif cost is not None:
        say(f"{plan.label}: no other counts were found that lose less with its gate")
    found = write_gate(folder, plan, learned, lesson.settings, images, held_out, reduction, force=force)
    tell_gate(found, learned.plan)
    return learned.plan, learned.gate


def _fits(found: TrainedGate, lesson: Lesson, plan: PruningPlan) -> bool:
    """Return whether a stored gate learnt for this plan, from the same images, in the same way."""
    return (found.fitted_from_sha256, found.images, found.held_out, found.settings) == (
        plan.digest(),
        lesson.images.ref(),
        lesson.held_out.ref(),
        tuple(asdict(lesson.settings).items()),
    )


def tell_gate(found: TrainedGate, plan: PruningPlan) -> None:
    """Say what is known of a gate, and whether its plan loses more with it than its budget allows."""
    say(describe(found))
    allowed = next((budget.limit for budget in plan.budgets if budget.quantity == "loss-nats"), None)
    loses = found.answers.kl_nats + found.answers.kl_stderr_nats
    if allowed is not None and loses > allowed:
        say(
            f"{plan.label}: with its gate it loses up to {loses:.3g} nats, over its budget of {allowed:g}, which holds "
            "with the scores choosing; fine-tune it (heartvit-edge finetune), or ask for a smaller loss"
        )


def describe(found: TrainedGate) -> str:
    """Return what is known of a gate in one line."""
    sites = ", ".join(
        f"{site.mass_kept:.3f} of {site.best_mass_kept:.3f} at block {site.block}" for site in found.sites
    )
    answers = found.answers
    agreement = answers.num_agreeing / answers.num_images
    return (
        f"{found.plan_label}: its gate keeps, of the scores' sum and of the most there is, {sites}; with it the plan "
        f"loses {answers.kl_nats:.3g} ± {answers.kl_stderr_nats:.2g} nats with {agreement:.3f} agreement on "
        f"{answers.num_images} held-out images; {found.macs_fraction:.2%} of the dense MACs, {found.hidden_units} "
        f"hidden units; {found.scoring_s:.0f} s of scoring, {found.fitting_s:.0f} s of fitting counts, "
        f"{found.training_s:.0f} s of training"
    )
