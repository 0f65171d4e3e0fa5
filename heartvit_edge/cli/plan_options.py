"""Options of the commands that make plans, and what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heartvit_edge.cli.console import progress_bar, say
from heartvit_edge.cli.host_options import parse_sites
from heartvit_edge.errors import InputError
from heartvit_edge.spec.budget import Budget, parse_joint

if TYPE_CHECKING:
    from heartvit_edge.allocation.accept import PlanningImages
    from heartvit_edge.allocation.plan import PlanOptions
    from heartvit_edge.data.images import ImageSet
    from heartvit_edge.data.listing import Listing
    from heartvit_edge.gating.gate import GateName
    from heartvit_edge.model.zoo import DenseModel
    from heartvit_edge.sensitivity.plan_images import PlanImages
    from heartvit_edge.sensitivity.table import ScoreTable
    from heartvit_edge.spec.sensitivity import SensitivityMap

PLAN_IMAGES = 64
DECIDING_PARTS = 8
"""Parts in which images decide between plans, so that a plan which is surely worse leaves early."""
CHECK_IMAGES = 128


class GateOption(str, Enum):
    """Gates that can be asked for."""

    class_attention = "class-attention"
    attention_received = "attention-received"


Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        help="What a plan may cost or lose: a share of the dense MACs such as 0.7, or macs=, params=, latency-ms=, "
        "energy-mj=, loss-nats=; joined by commas where one plan must meet several; repeat for more plans.",
    ),
]
Heads = Annotated[bool, typer.Option("--heads/--no-heads", help="Whether heads may be removed too.")]
Symmetric = Annotated[
    bool,
    typer.Option("--symmetric", help="Keep the same share of tokens at each site, and as many heads in each block."),
]
PlanSites = Annotated[
    str, typer.Option("--sites", help="Scored blocks before which tokens may go.", show_default="chosen by the solver")
]
MaxSites = Annotated[int | None, typer.Option(min=1, help="Most sites at which tokens go.", show_default="any")]
Nested = Annotated[
    bool, typer.Option("--nested", help="Let a larger budget's plan keep all that a smaller one's keeps.")
]
Table = Annotated[
    Path | None,
    typer.Option(
        "--device-table",
        help="What blocks cost on the device, from `heartvit-edge bench --profile-table`; needed for latency-ms and "
        "energy-mj.",
        show_default="none",
    ),
]
CheckImages = Annotated[
    int, typer.Option(min=0, help="Further images on which plans are checked; a loss budget needs some.")
]
Explain = Annotated[bool, typer.Option("--explain", help="Print each plan block by block, and what limits it.")]


def read_budgets(texts: Sequence[str]) -> list[tuple[Budget, ...]]:
    """Return the budgets of each plan in the order given, each once.

    Raises:
        InputError: If one cannot be read.
    """
    return list(dict.fromkeys(parse_joint(text) for text in texts))


def read_settings(
    heads: bool, symmetric: bool, sites: str, max_sites: int | None, device_table: Path | None
) -> PlanOptions:
    """Return what plans may look like.

    Raises:
        InputError: If the sites or the device table cannot be read, or a symmetric plan is to choose its sites.
    """
    from heartvit_edge.allocation.plan import PlanOptions
    from heartvit_edge.spec.device_table import DeviceTable

    if symmetric and max_sites is not None:
        raise InputError(
            "a symmetric plan drops tokens at every site, and --max-sites leaves some out", hint="leave one of them out"
        )
    return PlanOptions(
        prune_heads=heads,
        symmetric=symmetric,
        sites=tuple(sorted(set(parse_sites(sites)))),
        max_sites=max_sites,
        table=DeviceTable.read(device_table) if device_table is not None else None,
    )


def load_images(
    table: ScoreTable,
    data: Path,
    weights: list[Path] | None,
    plan_images: int,
    check_images: int,
    gate: GateName | None,
) -> tuple[PlanningImages, PlanningImages | None]:
    """Load the scored model, and images to improve and check its plans on; those to check on were not scored.

    Raises:
        InputError: If the images or the weights cannot be used, or these are not the scored model's.
    """
    from heartvit_edge.data.images import list_images, subset
    from heartvit_edge.model.zoo import load_dense

    info = table.info
    source = info.source
    files = " ".join(f"--weights {name}" for name in source.weights)
    if source.weights and not weights:
        raise InputError(f"{source.name} was scored with weights from files, and none is given", hint=files)
    kwargs = [f"{key}={value}" for key, value in source.model_kwargs]
    dense = load_dense(source.name, weights=weights or (), img_size=info.shape.img_size, model_kwargs=kwargs)
    if dense.source.weights_sha256 != source.weights_sha256:
        raise InputError(
            f"these are not the weights of {source.name} that were scored",
            hint=files or "leave --weights out: timm's own were scored",
        )
    listing = list_images(data, warn=say)
    seed = info.images.seed or 0
    used = info.images.num_images + (info.calibration_images.num_images if info.calibration_images else 0)
    scored = _scored_again(listing, info, used)
    if scored is None:
        say(f"{data} does not hold the images that were scored in their order: some of them may be checked on")
        wanted = min(plan_images, listing.num_images)
        with progress_bar("reading images", wanted) as advance:
            planning = subset(listing, wanted, seed, warn=say, progress=lambda *_: advance(1))
        used, deciding = len(planning), None
    else:
        planning, deciding = planning_part(scored, plan_images, seed)
    return running(dense, table, planning, deciding, draw_checks(listing, used, check_images, seed), gate)


def _scored_again(listing: Listing, info: SensitivityMap, used: int) -> ImageSet | None:
    """Return the scored images, drawn as they were; None where the listing gives others."""
    from heartvit_edge.data.images import subset
    from heartvit_edge.data.split import split

    if used > listing.num_images:
        return None
    seed = info.images.seed or 0
    with progress_bar("reading the scored images", used) as advance:
        images = subset(listing, used, seed, warn=say, progress=lambda *_: advance(1))
    scored = split(images, info.images.num_images, seed)[0]
    return scored if scored.sha256 == info.images.sha256 else None


def planning_part(scored: ImageSet, count: int, seed: int) -> tuple[ImageSet, ImageSet | None]:
    """Return that many of the scored images to improve plans on, and the others, which decide; None for too few.

    A choice by fewer images than plans were improved on would be no better than those plans.
    """
    from heartvit_edge.data.split import split

    planning, others = split(scored, min(count, len(scored)), seed)
    return planning, others if others is not None and len(others) >= len(planning) else None


def draw_checks(listing: Listing, used: int, count: int, seed: int) -> ImageSet | None:
    """Return images to check plans on, past the ``used`` first ones of the draw; None where none is left."""
    from heartvit_edge.data.images import subset

    left = listing.num_images - used
    if not count or left < 1:
        if count:
            say(f"{listing.name} has {listing.num_images} images: none is left to check plans on")
        return None
    with progress_bar("reading images", used + min(count, left)) as advance:
        images = subset(
            listing,
            count if count < left else None,
            seed,
            skip=used,
            warn=say,
            progress=lambda *_: advance(1),
        )
    if len(images) < count:
        say(f"{len(images)} of {count} images are left to check plans on")
    return images


def running(
    dense: DenseModel,
    table: ScoreTable,
    planning: ImageSet,
    deciding: ImageSet | None,
    checks: ImageSet | None,
    gate: GateName | None,
) -> tuple[PlanningImages, PlanningImages | None]:
    """Return what runs plans on the images, on a GPU where there is one, with bars on stderr.

    Args:
        dense: The model.
        table: Its scores.
        planning: Images to improve plans on.
        deciding: Images that decide between the plans found; None for none.
        checks: Images to check them on; None for none.
        gate: What chooses tokens; None: the scores.

    Raises:
        InputError: If the gate reads what the model does not have, or the scores are to choose and the scorer cannot be
            taken again on the tokens left.
    """
    import torch

    from heartvit_edge.allocation.accept import DecidingImages, PlanningImages
    from heartvit_edge.gating.gate import GATES, check_gate
    from heartvit_edge.sensitivity.plan_images import RESCORERS, load_plan_images
    from heartvit_edge.sensitivity.thinned import thin

    scorer = table.info.settings.scorer
    if gate is not None:
        check_gate(gate, dense.module)
    elif scorer not in RESCORERS:
        raise InputError(
            f"scorer {scorer} cannot be taken again on the tokens left, only {' and '.join(RESCORERS)} can",
            hint="let a gate choose the tokens: --gate class-attention",
        )
    dense.module.to("cuda" if torch.cuda.is_available() else "cpu")
    passing_bar = partial(progress_bar, transient=True)
    choose = None if gate is None else GATES[gate]

    def load(images: ImageSet) -> PlanImages:
        return load_plan_images(dense, images, table.info.settings, gate=choose, watch=passing_bar)

    improving, judges = load(planning), None
    if deciding is not None:
        judges = DecidingImages(
            deciding.ref(), tuple(partial(thin, part) for part in load(deciding).parts(DECIDING_PARTS))
        )
    chosen_by = gate or "scores"
    improved_on = PlanningImages(planning.ref(), partial(thin, improving), chosen_by, judges)
    checked_on = None if checks is None else PlanningImages(checks.ref(), partial(thin, load(checks)), chosen_by)
    return improved_on, checked_on
