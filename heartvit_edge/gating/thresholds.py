"""Thresholds of per-input token counts, found by measuring: the largest within a loss, the smallest within MACs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from heartvit_edge.errors import InfeasibleError
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.per_input import NATS, CountRule, Measured, foreseen_by_plan, measure
from heartvit_edge.sensitivity.plan_images import PlanImages
from heartvit_edge.spec.plan import PruningPlan

OCTAVES = 12
"""Halvings and doublings of the base thresholds between which a scale is sought."""
STEPS = 10
"""Most halvings of that interval, one measurement each; they find the scale to within 2 %."""
NEAR = 0.998
"""Share of the MACs allowed from which on no more are sought."""


def calibrate_thresholds(
    model: GatedViT,
    plan: PruningPlan,
    images: PlanImages,
    epsilon: float,
    base: Mapping[int, float] | None = None,
    rule: CountRule = NATS,
) -> Measured:
    """Return the largest multiple of thresholds that loses no more than ``epsilon``, measured, and what was measured.

    A gate's nats foresee single tokens, and losses of sets are not their sum: the scale corrects that on images. It is
    sought by bisection, as the loss grows with it; what is returned was measured in any case. On these images it was
    chosen, so measure it on others before quoting it.

    Args:
        model: As in ``masked_forward``.
        plan: What the model was made from.
        images: Images that the gate did not learn from, at least two, on the model's device.
        epsilon: Most that mean loss and its standard error may come to, in nats, above 0.
        base: Each site's threshold at a scale of one, above 0; None: as ``foreseen_by_plan``.
        rule: As in ``masked_forward``.

    Raises:
        InfeasibleError: If the model loses more with hardly a token dropped.
        ValueError: If ``epsilon`` is not above 0.
    """
    if epsilon <= 0:
        raise ValueError(f"epsilon must be above 0, found {epsilon}")
    at = _scaled(model, plan, images, foreseen_by_plan(model, images, rule) if base is None else base, rule)

    def holds(found: Measured) -> bool:
        return found.loss_nats + found.loss_stderr_nats <= epsilon

    best = at(-OCTAVES)
    if not holds(best):
        raise InfeasibleError(
            f"{plan.label} loses {best.loss_nats:.3g} ± {best.loss_stderr_nats:.2g} nats with hardly a token dropped, "
            f"expected at most {epsilon:g} in all",
            hint="allow a larger loss, or plan with --no-heads",
        )
    return _furthest(at, holds, best)


def thresholds_for_macs(
    model: GatedViT, plan: PruningPlan, images: PlanImages, macs: float, rule: CountRule
) -> Measured:
    """Return the smallest thresholds that leave no more MACs on average, and not much less, and what was measured.

    They are in proportion to ``foreseen_by_plan``.

    Args:
        model: As in ``masked_forward``.
        plan: What the model was made from.
        images: Images that the gate did not learn from, at least two, on the model's device.
        macs: Most multiply-accumulates an image, mean over images, the gate's among them.
        rule: As in ``masked_forward``.

    Raises:
        InfeasibleError: If there are more with hardly a token left.
    """
    at = _scaled(model, plan, images, foreseen_by_plan(model, images, rule), rule)

    def holds(found: Measured) -> bool:
        return float(found.macs.mean()) <= macs

    best = at(OCTAVES)
    if not holds(best):
        raise InfeasibleError(
            f"{plan.label} takes {best.macs.mean():.4g} MACs with hardly a token left, expected at most {macs:.4g}",
            hint="plan for fewer, which removes heads too",
        )
    return _furthest(lambda octave: at(-octave), holds, best, lambda found: float(found.macs.mean()) >= NEAR * macs)


def _scaled(
    model: GatedViT, plan: PruningPlan, images: PlanImages, base: Mapping[int, float], rule: CountRule
) -> Callable[[float], Measured]:
    """Return what measures the base thresholds doubled so many times."""

    def at(octave: float) -> Measured:
        scaled = {site: threshold * 2.0**octave for site, threshold in base.items()}
        return measure(model, plan, images, scaled, rule)

    return at


def _furthest(
    at: Callable[[float], Measured],
    holds: Callable[[Measured], bool],
    nearest: Measured,
    near: Callable[[Measured], bool] = lambda _: False,
) -> Measured:
    """Return what is measured as far up as it holds, by bisection until it is near; ``nearest`` is at the lower end."""
    low, high, best = -float(OCTAVES), float(OCTAVES), nearest
    if holds(furthest := at(high)):
        return furthest
    for _ in range(STEPS):
        middle = (low + high) / 2
        found = at(middle)
        if holds(found):
            low, best = middle, found
            if near(found):
                break
        else:
            high = middle
    return best
