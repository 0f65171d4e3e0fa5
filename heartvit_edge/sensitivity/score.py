"""From a dense model and images to a sensitivity map."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from heartvit_edge.data.images import ImageSet
from heartvit_edge.data.preprocess import preprocess
from heartvit_edge.errors import InputError
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.sensitivity.calibrate import Points, fit_points, measure_points
from heartvit_edge.sensitivity.curves import Drops, fit_drops
from heartvit_edge.sensitivity.draws import SCORING, image_generator
from heartvit_edge.sensitivity.gates import GateLayout
from heartvit_edge.sensitivity.precision import check_precision, full_precision
from heartvit_edge.sensitivity.scorers import DEFAULT_PROBES, SCORERS, Batch, Scores
from heartvit_edge.sensitivity.shards import Shard, join_shards, run_shards
from heartvit_edge.sensitivity.stored import blank_map, scores_key, store_scores, stored_scores
from heartvit_edge.sensitivity.table import ScoreTable
from heartvit_edge.sensitivity.world import World, join_world
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.sensitivity import Component, Scorer, ScoreSettings, SensitivityMap

Advance = Callable[[int], None]

_SHARDS_FOLDER = ".shards"


def make_settings(
    depth: int,
    *,
    scorer: Scorer = "removal-gate",
    sites: tuple[int, ...] = (),
    num_probes: int | None = None,
    unit_groups: int = 0,
    seed: int = 0,
) -> ScoreSettings:
    """Return complete settings for a model of that depth; without sites, every block but the first is one.

    Raises:
        InputError: If a site is not a block from 1 on, a draw count is given to an exact scorer or is below two, or
            unit groups are given to a scorer that scores none.
    """
    chosen = tuple(sorted(set(sites))) or tuple(range(1, depth))
    if not chosen or chosen[0] < 1 or chosen[-1] >= depth:
        raise InputError(
            f"sites {sites} must be blocks 1 to {depth - 1} of this model", hint="for example --sites 3,6,9"
        )
    stochastic, by_gates = SCORERS[scorer].stochastic, SCORERS[scorer].by_gates
    if num_probes is not None and not stochastic:
        raise InputError(f"scorer {scorer} is exact and takes no --probes", hint="leave --probes out")
    if num_probes is not None and num_probes < 2:
        raise InputError(f"--probes must be at least 2, found {num_probes}", hint="--probes 8")
    if unit_groups and not by_gates:
        raise InputError(f"scorer {scorer} scores no MLP units", hint="leave --unit-groups out")
    return ScoreSettings(
        scorer=scorer,
        sites=chosen,
        num_probes=(num_probes or DEFAULT_PROBES) if stochastic else None,
        unit_groups=unit_groups,
        seed=seed,
    )


def score(
    dense: DenseModel,
    images: ImageSet,
    settings: ScoreSettings,
    *,
    out: Path,
    held_out: ImageSet | None = None,
    batch_size: int = 8,
    force: bool = False,
    advance: Advance = lambda _: None,
) -> ScoreTable:
    """Score every image, calibrate on held-out ones, and store the map and its arrays in ``out``.

    Scores of the same model, images and settings that ``out`` holds already are read, not computed again. Memory is
    bounded by one batch of ``batch_size`` images. Under ``torchrun`` or ``accelerate launch`` the images are shared
    among the processes: rank 0 writes, and each returns the whole.

    Args:
        dense: The dense model, float32; moved to this process's GPU where there is one.
        images: Images to score.
        settings: What is asked of the scorer.
        out: Folder of the result.
        held_out: Images on which predicted is compared with measured loss; None: no calibration.
        batch_size: Images a forward.
        force: Replace scores in ``out`` that were made from something else.
        advance: Told, at rank 0, how many more images are done by all processes.

    Returns:
        The stored scores.

    Raises:
        InputError: If ``out`` holds scores of something else and ``force`` is not set, the settings do not fit the
            model, or the weights are in half precision.
        CheckError: If the scores in ``out`` were altered and ``force`` is not set.
        MachineError: If another process of the run has ended.
    """
    check_precision(dense.module)
    _check_groups(dense.shape, settings.unit_groups)
    used = held_out if SCORERS[settings.scorer].in_nats else None
    with join_world() as world:
        device = world.device()
        tell = advance if world.rank == 0 else lambda _: None
        wanted = blank_map(dense, images, settings, used)
        stored = world.share(stored_scores(out, wanted, force=force) if world.rank == 0 else None)
        if stored is not None:
            tell(len(images) + (len(used) if used is not None else 0))
            return stored
        dense.module.to(device)
        with full_precision(device):
            table = _compute(dense, images, used, wanted, out, batch_size, world, tell)
        shutil.rmtree(out / _SHARDS_FOLDER, ignore_errors=True)
    return table


def _compute(
    dense: DenseModel,
    images: ImageSet,
    held_out: ImageSet | None,
    blank: SensitivityMap,
    out: Path,
    batch_size: int,
    world: World,
    tell: Advance,
) -> ScoreTable:
    """Score this process's share of the images, and join and store everything at rank 0."""
    settings = blank.settings
    info = SCORERS[settings.scorer]
    layout = GateLayout(dense.shape, settings.sites, settings.unit_groups, info.scale_tokens)
    device = next(dense.module.parameters()).device

    def compute(number: int) -> Shard:
        chosen = range(number * batch_size, min((number + 1) * batch_size, len(images)))
        inputs = next(preprocess((images.read(index) for index in chosen), dense.preprocessing, batch_size))
        labels = None if images.labels is None else torch.from_numpy(images.labels[chosen.start : chosen.stop])
        batch = Batch(
            model=dense.module,
            layout=layout,
            images=torch.from_numpy(inputs).to(device),
            labels=None if labels is None else labels.to(device),
            num_probes=settings.num_probes or 0,
            generators=[image_generator(settings.seed, SCORING, index) for index in chosen],
        )
        return _named(info.score(batch), settings)

    def after_batch(number: int) -> None:
        tell(min((number + world.size) * batch_size, len(images)) - number * batch_size)

    numbers = range(world.rank, -(-len(images) // batch_size), world.size)
    work = out / _SHARDS_FOLDER / f"{scores_key(blank)[:16]}-{batch_size}"
    own = run_shards(numbers, compute, work, after_batch)
    points: dict[Component, Points] = {}
    drops: Drops = {}
    if held_out is not None:
        last = len(held_out)
        points, drops = measure_points(
            dense,
            held_out,
            range(world.rank, last, world.size),
            layout,
            settings,
            advance=lambda number: tell(min(number + world.size, last) - number),
        )
    parts = world.gather((own, points, drops))
    table = None
    if world.rank == 0:
        arrays = join_shards({number: shard for shards, _, _ in parts for number, shard in shards.items()})
        calibration = fit_points(found for _, found, _ in parts)
        table = store_scores(out, blank, arrays, calibration, fit_drops(found for _, _, found in parts))
    shared = world.share(table)
    assert shared is not None
    return shared


def _check_groups(shape: ModelShape, unit_groups: int) -> None:
    """Return only if the groups divide the MLP's hidden units.

    Raises:
        InputError: If they do not.
    """
    hidden = shape.mlp_hidden_dim
    if unit_groups and hidden % unit_groups:
        lower = max(groups for groups in range(1, min(unit_groups, hidden) + 1) if hidden % groups == 0)
        raise InputError(
            f"{unit_groups} unit groups do not divide the {hidden} hidden units of a block evenly",
            hint=f"for example --unit-groups {lower}",
        )


def _named(scores: Scores, settings: ScoreSettings) -> Shard:
    """Return the scores under the names that the map's file uses."""
    named: dict[str, Tensor | None] = {"heads": scores.heads, "units": scores.units}
    named |= {"heads_stderr": scores.heads_stderr, "units_stderr": scores.units_stderr}
    for order, site in enumerate(settings.sites):
        named[f"tokens_{site}"] = None if scores.tokens is None else scores.tokens[:, order]
        named[f"tokens_{site}_stderr"] = None if scores.tokens_stderr is None else scores.tokens_stderr[:, order]
    return {name: value.detach().to("cpu", torch.float32).numpy() for name, value in named.items() if value is not None}
