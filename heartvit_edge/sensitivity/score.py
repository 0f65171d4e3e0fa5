"""From a dense model and images to a sensitivity map."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heartvit_edge.data.images import ImageSet
from heartvit_edge.data.preprocess import preprocess
from heartvit_edge.errors import InputError
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.sensitivity.calibrate import calibrate
from heartvit_edge.sensitivity.gates import GateLayout
from heartvit_edge.sensitivity.scorers import DEFAULT_PROBES, SCORERS, Batch, Scores
from heartvit_edge.sensitivity.shards import World, join_shards, run_shards
from heartvit_edge.sensitivity.table import ARRAYS_FILE, MAP_FILE, ScoreTable, read_table, write_arrays
from heartvit_edge.spec.files import sha256_bytes
from heartvit_edge.spec.sensitivity import Calibration, Scorer, ScoreSettings, SensitivityMap

Array = NDArray[np.float32]
Advance = Callable[[int], None]

_SHARDS_FOLDER = ".shards"


def default_sites(depth: int) -> tuple[int, ...]:
    """Return a quarter, half and three quarters of the depth: blocks 3, 6 and 9 of 12."""
    return tuple(sorted({max(1, round(depth * part / 4)) for part in (1, 2, 3)} & set(range(1, depth))))


def make_settings(
    depth: int,
    *,
    scorer: Scorer = "removal-gate",
    sites: tuple[int, ...] = (),
    num_probes: int | None = None,
    unit_groups: int = 0,
    seed: int = 0,
) -> ScoreSettings:
    """Return complete settings for a model of that depth.

    Raises:
        InputError: If a site is not a block from 1 on, or a draw count is given to an exact scorer or below two.
    """
    chosen = tuple(sorted(set(sites))) or default_sites(depth)
    if not chosen or chosen[0] < 1 or chosen[-1] >= depth:
        raise InputError(
            f"sites {sites} must be blocks 1 to {depth - 1} of this model", hint="for example --sites 3,6,9"
        )
    stochastic = SCORERS[scorer].stochastic
    if num_probes is not None and not stochastic:
        raise InputError(f"scorer {scorer} is exact and takes no --probes", hint="leave --probes out")
    if num_probes is not None and num_probes < 2:
        raise InputError(f"--probes must be at least 2, found {num_probes}", hint="--probes 8")
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
    bounded by one batch of ``batch_size`` images. Under ``torchrun`` the images are shared among the processes, and
    rank 0 writes.

    Args:
        dense: The dense model.
        images: Images to score.
        settings: What is asked of the scorer.
        out: Folder of the result.
        held_out: Images on which predicted is compared with measured loss; None: no calibration.
        batch_size: Images a forward.
        force: Replace scores in ``out`` that were made from something else.
        advance: Told the images done after each batch.

    Returns:
        The stored scores.

    Raises:
        InputError: If ``out`` holds scores of something else and ``force`` is not set.
    """
    info = SCORERS[settings.scorer]
    held_ref = held_out.ref() if held_out is not None and info.in_nats else None
    layout = GateLayout(dense.shape, settings.sites, settings.unit_groups, info.scale_tokens)
    if (out / MAP_FILE).exists():
        stored = read_table(out)
        difference = _difference(stored.info, dense, images, settings, held_ref is not None)
        if not difference:
            advance(len(images) + (len(held_out) if held_out is not None and held_ref else 0))
            return stored
        if not force:
            raise InputError(f"{out} holds scores of another {difference}", hint="name another folder, or add --force")
    world = World.join()
    device = torch.device("cuda", world.rank % torch.cuda.device_count()) if torch.cuda.is_available() else "cpu"
    dense.module.to(device)
    key = sha256_bytes(
        dense.source.weights_sha256.encode(), images.ref().sha256.encode(), settings.model_dump_json().encode()
    )
    work = out / _SHARDS_FOLDER / f"{key[:16]}-{batch_size}"

    def compute(number: int, inputs: Tensor) -> dict[str, Array]:
        start = number * batch_size
        labels = images.labels
        batch = Batch(
            model=dense.module,
            layout=layout,
            images=inputs.to(device),
            labels=None if labels is None else torch.from_numpy(labels[start : start + len(inputs)]).to(device),
            num_probes=settings.num_probes or 0,
            generator=torch.Generator().manual_seed(settings.seed * 1_000_003 + number),
        )
        return _named(info.score(batch), settings)

    shards = run_shards(_own_batches(images, dense, batch_size, world), compute, work, advance)
    arrays = join_shards(world.gather(shards))
    table = ScoreTable(
        info=_summary(dense, images, settings, arrays),
        tokens={site: arrays[f"tokens_{site}"] for site in settings.sites if f"tokens_{site}" in arrays},
        heads=arrays.get("heads"),
        units=arrays.get("units"),
    )
    if world.rank == 0:
        points: tuple[Calibration, ...] = ()
        if held_out is not None and held_ref is not None:
            points = calibrate(dense, held_out, layout, settings, advance=advance)
        digest = write_arrays(out, arrays, force=True)
        found = table.info.model_copy(
            update={"arrays_sha256": digest, "calibration": points, "calibration_images": held_ref}
        )
        found.write(out / MAP_FILE, force=True)
        shutil.rmtree(out / _SHARDS_FOLDER, ignore_errors=True)
        table = ScoreTable(info=found, tokens=table.tokens, heads=table.heads, units=table.units)
    world.leave()
    return table


def _own_batches(images: ImageSet, dense: DenseModel, batch_size: int, world: World) -> Iterator[tuple[int, Tensor]]:
    """Yield the number and inputs of every batch of this process: rank r takes batches r, r + size, ..."""
    for number in range(world.rank, -(-len(images) // batch_size), world.size):
        chosen = range(number * batch_size, min((number + 1) * batch_size, len(images)))
        inputs = next(preprocess((images.read(index) for index in chosen), dense.preprocessing, batch_size))
        yield number, torch.from_numpy(inputs)


def _named(scores: Scores, settings: ScoreSettings) -> dict[str, Array]:
    """Return the scores under the names that the map's file uses."""
    named: dict[str, Tensor | None] = {"heads": scores.heads, "units": scores.units}
    named |= {"heads_stderr": scores.heads_stderr, "units_stderr": scores.units_stderr}
    for order, site in enumerate(settings.sites):
        named[f"tokens_{site}"] = None if scores.tokens is None else scores.tokens[:, order]
        named[f"tokens_{site}_stderr"] = None if scores.tokens_stderr is None else scores.tokens_stderr[:, order]
    return {name: value.detach().to("cpu", torch.float32).numpy() for name, value in named.items() if value is not None}


def _difference(
    stored: SensitivityMap, dense: DenseModel, images: ImageSet, settings: ScoreSettings, calibrated: bool
) -> str:
    """Return what the stored map was made from that differs, in words; empty where nothing does."""
    checks = {
        "model": stored.source.weights_sha256 == dense.source.weights_sha256 and stored.shape == dense.shape,
        "preprocessing": stored.preprocessing == dense.preprocessing,
        "image set": stored.images.sha256 == images.ref().sha256,
        "scorer or setting": stored.settings == settings,
        "calibration": bool(stored.calibration) == calibrated,
    }
    return ", ".join(name for name, same in checks.items() if not same)


def _mean_and_stderr(values: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean over the first axis and its standard error (0 for a single image)."""
    wide = values.astype(np.float64)
    mean = wide.mean(axis=0)
    if len(wide) < 2:
        return mean, np.zeros_like(mean)
    return mean, wide.std(axis=0, ddof=1) / len(wide) ** 0.5


def _summary(dense: DenseModel, images: ImageSet, settings: ScoreSettings, arrays: dict[str, Array]) -> SensitivityMap:
    """Return the map of the arrays, before they are stored and calibrated."""
    means: dict[str, NDArray[np.float64]] = {}
    errors: dict[str, NDArray[np.float64]] = {}
    for name in ("heads", "units"):
        if name in arrays:
            means[name], errors[name] = _mean_and_stderr(arrays[name])
    sites = {
        site: _mean_and_stderr(arrays[f"tokens_{site}"].mean(axis=1))
        for site in settings.sites
        if f"tokens_{site}" in arrays
    }

    def rows(table: dict[str, NDArray[np.float64]], name: str) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(row) for row in table[name].tolist()) if name in table else ()

    info = SCORERS[settings.scorer]
    return SensitivityMap(
        source=dense.source,
        shape=dense.shape,
        preprocessing=dense.preprocessing,
        images=images.ref(),
        settings=settings,
        estimator=info.estimator,
        in_nats=info.in_nats,
        arrays=ARRAYS_FILE,
        arrays_sha256="0" * 64,
        heads_mean=rows(means, "heads"),
        heads_stderr=rows(errors, "heads"),
        units_mean=rows(means, "units"),
        units_stderr=rows(errors, "units"),
        site_mean={site: float(mean) for site, (mean, _) in sites.items()},
        site_stderr={site: float(error) for site, (_, error) in sites.items()},
    )
