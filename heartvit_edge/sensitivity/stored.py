"""The stored form of scores: what they were made from, whether those in a folder are the ones wanted, and writing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.data.images import ImageSet
from heartvit_edge.errors import CheckError, InputError
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.sensitivity.scorers import SCORERS
from heartvit_edge.sensitivity.shards import Array, Shard
from heartvit_edge.sensitivity.table import ARRAYS_FILE, MAP_FILE, ScoreTable, make_table, read_table, write_arrays
from heartvit_edge.spec.files import sha256_bytes
from heartvit_edge.spec.sensitivity import Calibration, DropCurve, ScoreSettings, SensitivityMap


def blank_map(
    dense: DenseModel, images: ImageSet, settings: ScoreSettings, held_out: ImageSet | None
) -> SensitivityMap:
    """Return the map with all that scores are made from, and no score yet."""
    info = SCORERS[settings.scorer]
    labels = images.labels if info.labelled else None
    own_answers = "; labels are the model's own answers" if info.labelled and labels is None else ""
    return SensitivityMap(
        source=dense.source,
        shape=dense.shape,
        preprocessing=dense.preprocessing,
        images=images.ref(),
        labels_sha256=None if labels is None else sha256_bytes(labels.astype("<i8").tobytes()),
        settings=settings,
        estimator=info.estimator + own_answers,
        in_nats=info.in_nats,
        arrays=ARRAYS_FILE,
        arrays_sha256="0" * 64,
        calibration_images=None if held_out is None else held_out.ref(),
    )


def stored_scores(out: Path, wanted: SensitivityMap, *, force: bool) -> ScoreTable | None:
    """Return the scores in ``out`` where they are those wanted; None where there are none or they may be replaced.

    Raises:
        InputError: If they are of something else, or malformed, and ``force`` is not set.
        CheckError: If they were altered and ``force`` is not set.
    """
    if not (out / MAP_FILE).exists():
        return None
    try:
        stored = read_table(out)
        if difference := _difference(stored.info, wanted):
            raise InputError(f"{out} holds scores of another {difference}", hint="name another folder, or add --force")
    except (InputError, CheckError):
        if force:
            return None
        raise
    return stored


def _difference(stored: SensitivityMap, wanted: SensitivityMap) -> str:
    """Return what the stored map was made from that differs, in words; empty where nothing does."""

    def held_out(found: SensitivityMap) -> str | None:
        return None if found.calibration_images is None else found.calibration_images.sha256

    there, here = _origin(stored), _origin(wanted)
    differing = [words for words in here if there[words] != here[words]]
    if held_out(stored) != held_out(wanted):
        differing.append("set of held-out images")
    return ", ".join(differing)


def scores_key(blank: SensitivityMap) -> str:
    """Return the SHA-256 of everything that the scores of single images depend on."""
    return sha256_bytes(json.dumps(_origin(blank)).encode())


def _origin(found: SensitivityMap) -> dict[str, object]:
    """Return what scores are made from, each under its name in words; names of files play no part."""
    return {
        "model": [found.source.model_dump(mode="json", exclude={"weights"}), found.shape.model_dump(mode="json")],
        "preprocessing": found.preprocessing.model_dump(mode="json"),
        "image set": found.images.sha256,
        "set of labels": found.labels_sha256,
        "scorer or setting": found.settings.model_dump(mode="json"),
    }


def store_scores(
    out: Path,
    blank: SensitivityMap,
    arrays: Shard,
    calibration: tuple[Calibration, ...],
    drop_curves: tuple[DropCurve, ...],
) -> ScoreTable:
    """Write the arrays and the map that sums them up into ``out``, and return both."""
    tables = {name: _mean_and_stderr(arrays[name]) for name in ("heads", "units") if name in arrays}
    sites = {
        site: _mean_and_stderr(arrays[f"tokens_{site}"].mean(axis=1))
        for site in blank.settings.sites
        if f"tokens_{site}" in arrays
    }
    fields: dict[str, object] = {
        "arrays_sha256": write_arrays(out, arrays, force=True),
        "site_mean": {site: float(mean) for site, (mean, _) in sites.items()},
        "site_stderr": {site: float(error) for site, (_, error) in sites.items()},
        "calibration": calibration,
        "drop_curves": drop_curves,
    }
    for name, (mean, error) in tables.items():
        fields |= {f"{name}_mean": mean.tolist(), f"{name}_stderr": error.tolist()}
    info = SensitivityMap.model_validate(blank.model_dump() | fields)
    info.write(out / MAP_FILE, force=True)
    return make_table(info, arrays)


def _mean_and_stderr(values: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean over the first axis and its standard error (0 for a single image)."""
    wide = values.astype(np.float64)
    mean = wide.mean(axis=0)
    if len(wide) < 2:
        return mean, np.zeros_like(mean)
    return mean, wide.std(axis=0, ddof=1) / len(wide) ** 0.5
