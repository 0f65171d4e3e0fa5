"""Scores know their sites, and calibration corrects what is predicted."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.artefacts import every_artefact
from fakes.small_plans import SHAPE, make_table
from pydantic import ValidationError

from heartvit_edge.spec.sensitivity import Calibration, ScoreSettings, SensitivityMap


@pytest.mark.parametrize("sites", [(), (3, 1), (2, 2), (0, 2), (-1,)])
def test_sites_are_ascending_blocks_from_1_on(sites):
    with pytest.raises(ValidationError, match="sites"):
        ScoreSettings(sites=sites)


def test_a_site_past_the_last_block_is_refused():
    info = make_table({}).info
    with pytest.raises(ValidationError, match="site 4 is past the last block 3"):
        SensitivityMap.model_validate(info.model_dump() | {"settings": ScoreSettings(sites=(1, SHAPE.depth))})


def test_an_unknown_scorer_is_refused():
    with pytest.raises(ValidationError, match="scorer"):
        ScoreSettings(scorer="guess", sites=(1,))


def test_sites_are_block_numbers_again_when_read(tmp_path):
    info = every_artefact()["sensitivity-map"]
    info.write(tmp_path / "sensitivity.json")
    assert SensitivityMap.read(tmp_path / "sensitivity.json").site_mean == {1: 0.5, 3: 0.25}


def _calibration(**changes):
    fields = {
        "component": "token",
        "scale": 2.0,
        "exponent": 0.5,
        "spearman": 0.9,
        "r_squared": 0.8,
        "median_factor": 1.2,
        "num_points": 100,
        "num_images": 4,
    }
    return Calibration(**fields | changes)


@pytest.mark.parametrize("predicted", [0.0, 0.01, 4.0])
def test_the_correction_is_a_line_between_logarithms(predicted):
    corrected = _calibration().correct(predicted)
    expected = np.exp(np.log(2) + 0.5 * np.log(predicted)) if predicted else 0.0
    assert corrected == pytest.approx(expected)


@pytest.mark.parametrize(
    "change",
    [{"spearman": 1.01}, {"r_squared": 1.01}, {"median_factor": 0.99}, {"scale": 0.0}, {"exponent": -1.0}],
    ids=lambda change: next(iter(change)),
)
def test_a_figure_outside_its_range_is_refused(change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        _calibration(**change)


def test_the_correction_of_a_component_is_found_by_its_name():
    info = make_table({}).info.model_copy(update={"calibration": (_calibration(), _calibration(component="head"))})
    assert info.calibration_of("head") == _calibration(component="head")
    assert info.calibration_of("token-set") is None
