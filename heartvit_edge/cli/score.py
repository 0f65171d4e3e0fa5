"""``heartvit-edge score``: from a model and images to a sensitivity map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heartvit_edge.cli import host_options as options
from heartvit_edge.cli.console import is_first_process, progress_bar, say

if TYPE_CHECKING:
    from heartvit_edge.sensitivity.table import ScoreTable


MANY_CLASSES = 100


def score(
    model: options.Model,
    data: options.Data,
    out: Annotated[Path, typer.Option(help="Folder for the scores.", show_default=False)],
    weights: options.Weights = None,
    img_size: options.ImgSize = None,
    model_kwargs: options.ModelKwargs = None,
    num_images: options.NumImages = 256,
    held_out_images: options.HeldOutImages = 16,
    scorer: options.ScorerOption = options.ScorerName.removal_gate,
    sites: options.Sites = "",
    probes: options.Probes = None,
    unit_groups: options.UnitGroups = 0,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 8,
    explain: Annotated[bool, typer.Option("--explain", help="Print a summary of the scores.")] = False,
    force: options.Force = False,
) -> None:
    """Score how much loss each token and head of MODEL is worth on the images of DATA.

    Prints the path of the sensitivity map. Scores that exist for the same model, images and settings are not computed
    again; a run that was killed goes on from its last finished batch. torchrun or accelerate launch share the images
    among several processes, GPUs or machines.

    Example: heartvit-edge score deit_small_patch16_224 --data images/ --out scores
    """
    given = options.load_host_input(model, weights, img_size, model_kwargs, data, num_images, held_out_images, seed)
    table = run_score(
        given,
        out,
        scorer=scorer,
        sites=sites,
        probes=probes,
        unit_groups=unit_groups,
        seed=seed,
        batch_size=batch_size,
        force=force,
    )
    if not is_first_process():
        return
    if explain:
        from heartvit_edge.sensitivity.explain import explain_map

        typer.echo(explain_map(table.info))
    from heartvit_edge.sensitivity.table import MAP_FILE

    typer.echo(out / MAP_FILE)


def run_score(
    given: options.HostInput,
    out: Path,
    *,
    scorer: options.ScorerName,
    sites: str,
    probes: int | None,
    unit_groups: int,
    seed: int,
    batch_size: int,
    force: bool,
) -> ScoreTable:
    """Score with a bar on stderr and return the table; the arguments are the options of ``score``."""
    from heartvit_edge.sensitivity.score import make_settings, score
    from heartvit_edge.sensitivity.scorers import SCORERS
    from heartvit_edge.sensitivity.table import MAP_FILE

    settings = make_settings(
        given.dense.shape.depth,
        scorer=scorer.value,
        sites=options.parse_sites(sites),
        num_probes=probes,
        unit_groups=unit_groups,
        seed=seed,
    )
    classes = given.dense.shape.num_classes
    if settings.scorer == "removal-gate" and classes >= MANY_CLASSES:
        say(f"removal-gate runs one backward pass for each of {classes} classes; --scorer fisher-mc runs 8 instead")
    existed = (out / MAP_FILE).exists()
    held_out = given.held_out if SCORERS[settings.scorer].in_nats else None
    total = len(given.scored) + (len(held_out) if held_out is not None else 0)
    with progress_bar(f"scoring by {settings.scorer}", total) as advance:
        table = score(
            given.dense,
            given.scored,
            settings,
            out=out,
            held_out=held_out,
            batch_size=batch_size,
            force=force,
            advance=advance,
        )
    if existed and not force:
        say(f"scores in {out} fit and are used again")
    return table
