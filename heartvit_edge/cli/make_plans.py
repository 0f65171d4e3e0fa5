"""Plans for a list of budgets: used again where they fit, made and stored where not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from heartvit_edge.cli.console import say
from heartvit_edge.errors import InputError
from heartvit_edge.spec.budget import Budget, joint_label
from heartvit_edge.spec.plan import PruningPlan

if TYPE_CHECKING:
    from heartvit_edge.allocation.accept import PlanningImages
    from heartvit_edge.allocation.plan import PlanOptions
    from heartvit_edge.sensitivity.table import ScoreTable


@dataclass(frozen=True)
class Request:
    """What plans are wanted.

    Attributes:
        table: Scores of the model.
        wanted: The budgets of each plan.
        options: What a plan may look like.
        nested: Whether a larger budget's plan is to keep all that a smaller one's keeps.
        images: Images to improve plans on; None: plans stem from scores alone.
        held_out: Images to check plans on; None: they are not checked.
    """

    table: ScoreTable
    wanted: Sequence[tuple[Budget, ...]]
    options: PlanOptions
    nested: bool = False
    images: PlanningImages | None = None
    held_out: PlanningImages | None = None

    def measured_on(self, images: PlanningImages, held_out: PlanningImages | None) -> Request:
        """Return the request with images to measure plans on."""
        return replace(self, images=images, held_out=held_out)


def plan_path(folder: Path, budgets: Sequence[Budget]) -> Path:
    """Return where the plan for budgets is stored."""
    return folder / f"{joint_label(budgets)}.json"


def check_wanted(wanted: Sequence[tuple[Budget, ...]], options: PlanOptions, *, nested: bool, checked: bool) -> None:
    """Return only if plans for the budgets can be made, as far as can be told before any work is done.

    Args:
        wanted: The budgets of each plan.
        options: What a plan may look like.
        nested: Whether a larger budget's plan is to keep all that a smaller one's keeps.
        checked: Whether there are images to check plans on.

    Raises:
        InputError: If a loss budget cannot be checked, a budget needs a device table that is not there or has no
            energy, or nested budgets are not of one quantity.
    """
    from heartvit_edge.allocation.device_cost import fixed_cost
    from heartvit_edge.allocation.limits import needs_table

    for budgets in wanted:
        for budget in budgets:
            if budget.quantity == "loss-nats" and not checked:
                raise InputError(
                    f"a plan for {joint_label(budgets)} is accepted by what it loses when measured, and there are no "
                    "images to check it on",
                    hint="give --data more images than --num-images and --held-out-images take for scores, and "
                    "--plan-images and --check-images above 0",
                )
            if budget.quantity == "latency-ms" or budget.quantity == "energy-mj":
                if options.table is None:
                    raise needs_table(budget.quantity)
                fixed_cost(options.table, budget.quantity)
    if nested and (any(len(budgets) > 1 for budgets in wanted) or len({found[0].quantity for found in wanted}) > 1):
        raise InputError(
            "plans are nested by one budget each, all of one quantity", hint="--nested --budget 0.7 --budget 0.5"
        )


def run_plans(request: Request, folder: Path, *, explain: bool = False, force: bool = False) -> list[PruningPlan]:
    """Return the plans in the order wanted, from ``folder`` where they fit, and store the others.

    Raises:
        InputError: As ``check_wanted``, or ``folder`` holds a plan that was made otherwise and ``force`` is not set.
        InfeasibleError: If a budget cannot be met.
    """
    check_wanted(request.wanted, request.options, nested=request.nested, checked=request.held_out is not None)
    made: dict[tuple[Budget, ...], PruningPlan] = {}
    within: PruningPlan | None = None
    for budgets in _largest_first(request.wanted) if request.nested else request.wanted:
        found = _run_plan(
            replace(request, options=replace(request.options, within=within)), budgets, folder, force=force
        )
        say(_describe(found))
        if explain:
            from heartvit_edge.allocation.explain import explain_plan

            typer.echo(explain_plan(found))
        made[budgets] = found
        if request.nested:
            within = found
    return [made[budgets] for budgets in request.wanted]


def _largest_first(wanted: Sequence[tuple[Budget, ...]]) -> list[tuple[Budget, ...]]:
    """Return the budgets of nested plans, all of one quantity, from the one whose plan keeps most."""
    loses = wanted[0][0].quantity == "loss-nats"
    return sorted(wanted, key=lambda budgets: budgets[0].limit, reverse=not loses)


def _run_plan(request: Request, budgets: tuple[Budget, ...], folder: Path, *, force: bool) -> PruningPlan:
    from heartvit_edge.allocation.accept import accept_plan
    from heartvit_edge.allocation.plan import make_plan

    path = plan_path(folder, budgets)
    if path.exists() and not force:
        stored = PruningPlan.read(path)
        if not _fits(stored, request):
            raise InputError(
                f"{path} was made of other scores, images or settings",
                hint="name another folder with --out, or add --force",
            )
        say(f"plan {path} fits and is used again")
        return stored
    if request.images is None:
        found = make_plan(request.table, budgets, request.options)
    else:
        found = accept_plan(request.table, budgets, request.options, request.images, request.held_out, tell=say)
    found.write(path, force=force)
    return found


def _fits(stored: PruningPlan, request: Request) -> bool:
    """Return whether a stored plan was made of the same scores, settings and images."""
    options, within = request.options, request.options.within
    made_of = (
        stored.sensitivity_sha256 == request.table.info.digest()
        and stored.device_table_sha256 == (options.table.digest() if options.table else None)
        and stored.nested_in_sha256 == (within.digest() if within else None)
    )
    asked = (stored.prune_heads, stored.symmetric, stored.allowed_sites, stored.max_sites) == (
        options.prune_heads,
        options.symmetric,
        options.sites,
        options.max_sites,
    )
    refined_on = request.images.ref if request.images else None
    decided_on = request.images.deciding.ref if request.images and request.images.deciding else None
    checked_on = request.held_out.ref if request.held_out else None
    chosen_by = request.images.chosen_by if request.images else None
    images = (stored.refined_on, stored.decided_on, stored.check and stored.check.images)
    measured = (images, stored.chosen_by) == ((refined_on, decided_on, checked_on), chosen_by)
    return made_of and asked and (measured or stored.is_dense)


def describe_sites(found: PruningPlan) -> str:
    """Return in words what tokens a plan leaves."""
    return ", ".join(f"{count} tokens from block {site}" for site, count in found.sites.items()) or "all tokens"


def _describe(found: PruningPlan) -> str:
    """Return a plan in one line."""
    heads = sum(len(block.kept_heads) for block in found.blocks)
    loss = "unknown" if found.predicted_loss_nats is None else f"{found.predicted_loss_nats:.3g} nats"
    line = (
        f"{found.label}: {found.macs_fraction:.3f} of {found.dense_macs / 1e9:.2f} GMACs, {describe_sites(found)}, "
        f"{heads} of {found.shape.depth * found.shape.num_heads} heads, "
        f"predicted loss {loss}"
    )
    if found.latency_ms is not None:
        energy = "" if found.energy_mj is None else f" and {found.energy_mj:.3g} mJ"
        beyond = ", read outside of what its table measured" if found.extrapolated else ""
        images = "1 image" if found.device_batch_size == 1 else f"{found.device_batch_size} images"
        line += f", {found.latency_ms:.3g} ms{energy} for {images} on {found.device}{beyond}"
    if found.check is not None:
        check = found.check
        line += (
            f", measured {check.loss_nats:.3g} ± {check.loss_stderr_nats:.2g} nats and {check.agreement:.3f} agreement "
            f"on {check.images.num_images} held-out images, tokens chosen by {found.chosen_by}"
        )
    return line
