"""``heartvit-edge plan``: from scores and budgets to pruning plans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heartvit_edge.cli import host_options as options
from heartvit_edge.cli.console import say
from heartvit_edge.errors import InputError
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.plan import PruningPlan

if TYPE_CHECKING:
    from heartvit_edge.sensitivity.table import ScoreTable

Budgets = Annotated[
    list[str] | None,
    typer.Option("--budget", help="Share of the dense MACs that may stay, such as 0.7; repeat for more."),
]
Heads = Annotated[bool, typer.Option("--heads/--no-heads", help="Whether heads may be removed too.")]


def plan(
    scores: Annotated[Path, typer.Argument(help="Folder that `heartvit-edge score` wrote.", show_default=False)],
    budget: Budgets = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the plans.", show_default="SCORES/plans")] = None,
    heads: Heads = True,
    force: options.Force = False,
) -> None:
    """Find the plan of least predicted loss within each budget.

    Prints the path of each plan.

    Example: heartvit-edge plan scores --budget 0.7 --budget 0.5
    """
    from heartvit_edge.sensitivity.table import read_table

    if not budget:
        raise InputError("no --budget was given", hint=f"heartvit-edge plan {scores} --budget 0.7")
    folder = out if out is not None else scores / "plans"
    made = run_plans(read_table(scores), parse_budgets(budget), folder, prune_heads=heads, force=force)
    for found in made:
        typer.echo(plan_path(folder, found.budgets[0]))


def parse_budgets(texts: Sequence[str]) -> list[Budget]:
    """Return the budgets in the order given, each once.

    Raises:
        InputError: If one cannot be read.
    """
    return list(dict.fromkeys(Budget.parse(text) for text in texts))


def plan_path(folder: Path, budget: Budget) -> Path:
    """Return where the plan for a budget is stored."""
    return folder / f"{budget.label}.json"


def run_plans(
    table: ScoreTable, budgets: Sequence[Budget], folder: Path, *, prune_heads: bool, force: bool
) -> list[PruningPlan]:
    """Return a plan for each budget, from ``folder`` where one made of the same scores is there, and store the others.

    Raises:
        InputError: If ``folder`` holds a plan for the budget that was made of other scores and ``force`` is not set.
        InfeasibleError: If a budget cannot be met.
    """
    from heartvit_edge.allocation.plan import make_plan

    digest = table.info.digest()
    plans = []
    for budget in budgets:
        path = plan_path(folder, budget)
        if path.exists() and not force:
            stored = PruningPlan.read(path)
            if stored.sensitivity_sha256 != digest or stored.prune_heads != prune_heads:
                raise InputError(
                    f"{path} was made of other scores or settings",
                    hint="name another folder with --out, or add --force",
                )
            say(f"plan {path} fits and is used again")
        else:
            stored = make_plan(table, budget, prune_heads=prune_heads)
            stored.write(path, force=force)
        say(_describe(stored))
        plans.append(stored)
    return plans


def _describe(found: PruningPlan) -> str:
    """Return a plan in one line."""
    sites = ", ".join(f"{count} tokens from block {site}" for site, count in found.sites.items()) or "all tokens"
    heads = sum(len(block.kept_heads) for block in found.blocks)
    loss = "unknown" if found.predicted_loss_nats is None else f"{found.predicted_loss_nats:.3g} nats"
    return (
        f"{found.budgets[0].label}: {found.macs_fraction:.3f} of {found.dense_macs / 1e9:.2f} GMACs, {sites}, "
        f"{heads} of {found.shape.depth * found.shape.num_heads} heads, "
        f"predicted loss {loss}"
    )
