"""``heartvit-edge plan``: from scores and budgets to pruning plans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heartvit_edge.cli import host_options as options
from heartvit_edge.cli import plan_options
from heartvit_edge.cli.make_plans import Request, check_wanted, plan_path, run_plans
from heartvit_edge.errors import InputError

if TYPE_CHECKING:
    from heartvit_edge.gating.gate import GateName


def plan(
    scores: Annotated[Path, typer.Argument(help="Folder that `heartvit-edge score` wrote.", show_default=False)],
    budget: plan_options.Budgets = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the plans.", show_default="SCORES/plans")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Images to improve and check plans on, as for score.", show_default="none: not measured"),
    ] = None,
    weights: options.Weights = None,
    plan_images: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Scored images on which plans are improved; the others decide.",
            show_default=str(plan_options.PLAN_IMAGES),
        ),
    ] = None,
    check_images: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Further images on which plans are checked; a loss budget needs some.",
            show_default=str(plan_options.CHECK_IMAGES),
        ),
    ] = None,
    gate: Annotated[
        plan_options.GateOption | None,
        typer.Option(help="What chooses tokens while plans are measured.", show_default="the scores"),
    ] = None,
    heads: plan_options.Heads = True,
    symmetric: plan_options.Symmetric = False,
    sites: plan_options.PlanSites = "",
    max_sites: plan_options.MaxSites = None,
    nested: plan_options.Nested = False,
    device_table: plan_options.Table = None,
    explain: plan_options.Explain = False,
    force: options.Force = False,
) -> None:
    """Find the plan of least loss within each budget or, for a loss budget, the plan of least cost.

    From scores alone a plan's loss is a prediction. With --data plans are also run on images, where scores taken again
    at each site choose the tokens, or a gate: they are improved by what their neighbours lose there, and then checked
    on other images; a loss budget needs that. Prints the path of each plan.

    Example: heartvit-edge plan scores --data images/ --budget 0.7 --budget macs=0.5,loss-nats=0.2
    """
    from heartvit_edge.allocation.limits import CostModel
    from heartvit_edge.sensitivity.table import read_table

    if not budget:
        raise InputError("no --budget was given", hint=f"heartvit-edge plan {scores} --budget 0.7")
    measuring = {"--weights": weights, "--gate": gate, "--plan-images": plan_images, "--check-images": check_images}
    idle = next((option for option, value in measuring.items() if value is not None and value != []), None)
    if data is None and idle is not None:
        raise InputError(f"{idle} is for measuring plans, which needs --data", hint="--data images/")
    improve_on = plan_options.PLAN_IMAGES if plan_images is None else plan_images
    check_on = plan_options.CHECK_IMAGES if check_images is None else check_images
    wanted = plan_options.read_budgets(budget)
    settings = plan_options.read_settings(heads, symmetric, sites, max_sites, device_table)
    check_wanted(wanted, settings, nested=nested, checked=data is not None and check_on > 0)
    table = read_table(scores)
    CostModel(table.info.shape, table.info.settings.unit_groups, settings.table)  # refuses a table that does not fit
    request = Request(table, wanted, settings, nested=nested)
    if data is not None:
        chosen: GateName | None = gate.value if gate is not None else None
        images = plan_options.load_images(table, data, weights, improve_on, check_on, chosen)
        request = request.measured_on(*images)
    folder = out if out is not None else scores / "plans"
    made = run_plans(request, folder, explain=explain, force=force)
    for found in made:
        typer.echo(plan_path(folder, found.budgets))
