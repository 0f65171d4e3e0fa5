"""Scoring a whole image set: bounded, resumable, reproducible, and in full precision whatever surrounds it."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes.small_scores import image_set, tiny_dense

from heartvit_edge.data.preprocess import preprocess
from heartvit_edge.errors import CheckError, InputError
from heartvit_edge.model.forward import forward
from heartvit_edge.sensitivity.draws import CALIBRATION, RESCORING, SCORING, image_generator
from heartvit_edge.sensitivity.score import make_settings, score
from heartvit_edge.sensitivity.scorers import SCORERS
from heartvit_edge.sensitivity.table import read_table
from heartvit_edge.spec.sensitivity import ScoreSettings

SETTINGS = ScoreSettings(sites=(1, 3), unit_groups=4)
STOCHASTIC = SETTINGS.model_copy(update={"scorer": "fisher-mc", "num_probes": 3})
LITERAL = SETTINGS.model_copy(update={"scorer": "heart-literal", "num_probes": 3})


def arrays(table):
    """Return all scores of a table by name."""
    named = {f"tokens_{site}": values for site, values in table.tokens.items()}
    return named | {"heads": table.heads, "units": table.units}


def assert_same(found, expected, tolerance=0.0):
    found, expected = arrays(found), arrays(expected)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=tolerance, atol=tolerance * np.abs(values).max())


class Counted:
    """A scorer that counts the images it is given, and fails after so many calls."""

    def __init__(self, monkeypatch, name="removal-gate", fails_after=None):
        self.sizes, self.fails_after, self.info = [], fails_after, SCORERS[name]
        monkeypatch.setitem(SCORERS, name, replace(self.info, score=self))

    def __call__(self, batch):
        if len(self.sizes) == self.fails_after:
            raise RuntimeError("killed")
        self.sizes.append(len(batch.images))
        return self.info.score(batch)


def test_the_scorer_sees_no_more_than_one_batch_of_images_at_a_time(tmp_path, monkeypatch):
    counted = Counted(monkeypatch)
    score(tiny_dense(), image_set(7), SETTINGS, out=tmp_path, batch_size=3)
    assert counted.sizes == [3, 3, 1]


@pytest.mark.parametrize("scorer", SCORERS)
def test_scores_do_not_depend_on_the_batch_size(scorer, tmp_path):
    settings = make_settings(4, scorer=scorer, sites=(1, 3), num_probes=2 if SCORERS[scorer].stochastic else None)
    found = score(tiny_dense(), image_set(5), settings, out=tmp_path / "a", batch_size=2)
    expected = score(tiny_dense(), image_set(5), settings, out=tmp_path / "b", batch_size=5)
    for name, values in arrays(expected).items():
        if values is not None:
            assert np.abs(arrays(found)[name] - values).max() <= 1e-6 * max(1, np.abs(values).max()), name


def test_each_row_is_the_score_of_the_image_in_its_place(tmp_path):
    table = score(tiny_dense(), image_set(5), SETTINGS, out=tmp_path / "all", batch_size=2)
    one = replace(image_set(5), num_images=1, labels=None, decode=lambda _: image_set(5).read(3))
    alone = score(tiny_dense(), one, SETTINGS, out=tmp_path / "one")
    for name, values in arrays(alone).items():
        np.testing.assert_allclose(arrays(table)[name][3], values[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("settings", [SETTINGS, STOCHASTIC], ids=["exact", "stochastic"])
def test_a_killed_run_goes_on_from_its_last_batch_and_ends_the_same(settings, tmp_path, monkeypatch):
    whole = score(tiny_dense(), image_set(9), settings, out=tmp_path / "whole", batch_size=2)
    with monkeypatch.context() as patch:
        Counted(patch, settings.scorer, fails_after=2)
        with pytest.raises(RuntimeError, match="killed"):
            score(tiny_dense(), image_set(9), settings, out=tmp_path / "killed", batch_size=2)
    assert not (tmp_path / "killed" / "sensitivity.json").exists()
    counted, told = Counted(monkeypatch, settings.scorer), []
    found = score(tiny_dense(), image_set(9), settings, out=tmp_path / "killed", batch_size=2, advance=told.append)
    assert counted.sizes == [2, 2, 1]
    assert told == [2, 2, 2, 2, 1]
    assert_same(found, whole)
    assert found.info == whole.info
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["sensitivity.json", "sensitivity.npz"]


def changed(**fields):
    return {"images": image_set(4), "settings": SETTINGS, "dense": tiny_dense()} | fields


OTHERS = {
    "an image set": changed(images=image_set(4, seed=1)),
    "a scorer": changed(settings=STOCHASTIC),
    "a site": changed(settings=SETTINGS.model_copy(update={"sites": (2,)})),
    "a seed": changed(settings=SETTINGS.model_copy(update={"seed": 1})),
    "a preprocessing": changed(
        dense=replace(
            tiny_dense(), preprocessing=tiny_dense().preprocessing.model_copy(update={"interpolation": "box"})
        )
    ),
    "an argument of the model": changed(
        dense=replace(
            tiny_dense(),
            source=tiny_dense().source.model_copy(update={"model_kwargs": (("num_heads", "2"),)}),
        )
    ),
    "held-out images": changed(held_out=image_set(2, seed=9)),
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    return folder, score(tiny_dense(), image_set(4), SETTINGS, out=folder)


def copied(scored, tmp_path):
    for path in scored[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_equal_inputs_use_the_stored_scores_again(scored, tmp_path, monkeypatch):
    out = copied(scored, tmp_path)
    counted, told = Counted(monkeypatch), []
    found = score(tiny_dense(), image_set(4), SETTINGS, out=out, batch_size=3, advance=told.append)
    assert (counted.sizes, told) == ([], [4])
    assert_same(found, scored[1])


def test_a_renamed_weights_file_or_image_folder_changes_nothing(scored, tmp_path, monkeypatch):
    out, counted = copied(scored, tmp_path), Counted(monkeypatch)
    dense = replace(tiny_dense(), source=tiny_dense().source.model_copy(update={"weights": ("moved.pt",)}))
    score(dense, replace(image_set(4), name="moved"), SETTINGS, out=out)
    assert counted.sizes == []


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_scores_of_something_else_are_replaced_only_with_force(other, scored, tmp_path, monkeypatch):
    out = copied(scored, tmp_path)
    counted = Counted(monkeypatch, other["settings"].scorer)
    with pytest.raises(InputError, match="holds scores of another") as caught:
        score(other.pop("dense"), other.pop("images"), other.pop("settings"), out=out, **other)
    assert caught.value.hint == "name another folder, or add --force"
    assert counted.sizes == []
    assert read_table(out).info == scored[1].info


def test_force_replaces_scores_of_something_else_and_altered_ones(scored, tmp_path):
    out = copied(scored, tmp_path)
    found = score(tiny_dense(), image_set(4, seed=1), SETTINGS, out=out, force=True)
    assert found.info.images == image_set(4, seed=1).ref()
    assert_same(read_table(out), found)
    (out / "sensitivity.npz").write_bytes(b"altered")
    with pytest.raises(CheckError, match="was altered"):
        score(tiny_dense(), image_set(4, seed=1), SETTINGS, out=out)
    again = score(tiny_dense(), image_set(4, seed=1), SETTINGS, out=out, force=True)
    assert_same(again, found)


def test_labels_count_only_for_scorers_that_read_them(tmp_path, monkeypatch):
    relabelled = replace(image_set(4), labels=(image_set(4).labels + 1) % 5)
    score(tiny_dense(), image_set(4), LITERAL, out=tmp_path / "literal")
    with pytest.raises(InputError, match="another set of labels"):
        score(tiny_dense(), relabelled, LITERAL, out=tmp_path / "literal")
    score(tiny_dense(), image_set(4), SETTINGS, out=tmp_path / "fisher")
    counted = Counted(monkeypatch)
    score(tiny_dense(), relabelled, SETTINGS, out=tmp_path / "fisher")
    assert counted.sizes == []


def test_the_map_says_when_the_models_own_answers_stood_in_for_labels(tmp_path):
    found = score(tiny_dense(), image_set(2, labelled=False), LITERAL, out=tmp_path / "a").info
    assert found.estimator.endswith("labels are the model's own answers")
    assert found.labels_sha256 is None
    assert "own answers" not in score(tiny_dense(), image_set(2), LITERAL, out=tmp_path / "b").info.estimator


def test_the_seed_alone_decides_the_draws(tmp_path):
    found = [
        score(tiny_dense(), image_set(3), settings, out=tmp_path / name)
        for name, settings in (
            ("a", STOCHASTIC),
            ("b", STOCHASTIC),
            ("c", STOCHASTIC.model_copy(update={"seed": 1})),
        )
    ]
    assert_same(found[1], found[0])
    assert found[1].info.arrays_sha256 == found[0].info.arrays_sha256
    assert not np.allclose(found[2].heads, found[0].heads, rtol=1e-2)
    assert not np.allclose(found[0].heads[0] / found[0].heads[0].sum(), found[0].heads[1] / found[0].heads[1].sum())


def test_draws_of_images_purposes_and_seeds_are_unrelated():
    states = {
        torch.rand(1, generator=image_generator(seed, purpose, index)).item()
        for seed in range(4)
        for purpose in (SCORING, CALIBRATION, RESCORING)
        for index in range(50)
    }
    assert len(states) == 4 * 3 * 50


def test_calibration_is_stored_with_the_images_it_was_made_on(tmp_path):
    told = []
    found = score(
        tiny_dense(), image_set(4), SETTINGS, out=tmp_path, held_out=image_set(3, seed=1), advance=told.append
    ).info
    assert [one.component for one in found.calibration] == ["token", "head", "token-set", "token-set-path"]
    assert [curve.site for curve in found.drop_curves] == list(found.settings.sites)
    assert [one.num_points for one in found.calibration] == [3 * 2 * 8, 3 * 12, 3 * 2 * 2, 3 * 2 * 2]
    assert found.calibration_images == image_set(3, seed=1).ref()
    assert found.calibration_of("head") == found.calibration[1]
    assert sum(told) == 4 + 3


def test_a_calibration_that_could_not_be_fitted_is_still_the_one_asked_for(tmp_path, monkeypatch):
    found = score(tiny_dense(), image_set(4), SETTINGS, out=tmp_path, held_out=image_set(1, seed=1)).info
    assert (found.calibration, found.calibration_images) == ((), image_set(1, seed=1).ref())
    counted = Counted(monkeypatch)
    score(tiny_dense(), image_set(4), SETTINGS, out=tmp_path, held_out=image_set(1, seed=1))
    assert counted.sizes == []


def test_scores_that_are_no_loss_are_not_compared_with_one(tmp_path):
    settings = SETTINGS.model_copy(update={"scorer": "token-norm", "unit_groups": 0})
    told = []
    found = score(
        tiny_dense(), image_set(4), settings, out=tmp_path, held_out=image_set(2, seed=1), advance=told.append
    ).info
    assert (found.calibration, found.calibration_images, sum(told)) == ((), None, 4)


@pytest.mark.parametrize("settings", [SETTINGS, STOCHASTIC, LITERAL], ids=lambda settings: settings.scorer)
def test_scoring_never_calls_fused_attention(settings, tmp_path, monkeypatch):
    def fused(*_, **__):
        raise AssertionError("fused attention has no second derivative")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused)
    dense = tiny_dense()
    with pytest.raises(AssertionError, match="fused attention"):
        dense.module(torch.zeros(1, 3, 32, 32))
    found = score(dense, image_set(2), settings, out=tmp_path, held_out=image_set(2, seed=1))
    assert np.isfinite(found.heads).all()


@pytest.mark.parametrize("settings", [SETTINGS, LITERAL], ids=lambda settings: settings.scorer)
def test_autocast_and_no_grad_around_scoring_change_nothing(settings, tmp_path):
    dense, images = tiny_dense(), image_set(3)
    expected = score(dense, images, settings, out=tmp_path / "plain", held_out=image_set(2, seed=1))
    inputs = torch.from_numpy(next(preprocess(images, dense.preprocessing, 3)))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert forward(dense.module, inputs).dtype == torch.bfloat16
        found = score(dense, images, settings, out=tmp_path / "around", held_out=image_set(2, seed=1))
    assert_same(found, expected)
    assert found.info == expected.info


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_refused(dtype, tmp_path):
    dense = replace(tiny_dense(), module=copy.deepcopy(tiny_dense().module).to(dtype))
    with pytest.raises(InputError, match=f"cls_token is {str(dtype)[6:]}, scoring needs float32"):
        score(dense, image_set(2), SETTINGS, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_everything_that_a_scorer_is_given_and_returns_is_float32(tmp_path, monkeypatch):
    seen = set()

    class Watched(Counted):
        def __call__(self, batch):
            scores = super().__call__(batch)
            seen.update(value.dtype for value in (batch.images, scores.tokens, scores.heads, scores.units))
            return scores

    Watched(monkeypatch)
    score(tiny_dense(), image_set(2), SETTINGS, out=tmp_path)
    assert seen == {torch.float32}


@pytest.mark.parametrize(("depth", "sites"), [(12, tuple(range(1, 12))), (4, (1, 2, 3)), (2, (1,))])
def test_every_block_but_the_first_is_a_site_where_none_is_named(depth, sites):
    assert make_settings(depth) == ScoreSettings(sites=sites)


def test_settings_are_completed_and_checked():
    assert make_settings(12, sites=(9, 3, 6, 3)) == ScoreSettings(sites=(3, 6, 9))
    assert make_settings(12, scorer="fisher-mc", sites=(6, 3)).num_probes == 8
    assert make_settings(12, scorer="fisher-mc", sites=(6, 3)).sites == (3, 6)
    for wrong, message in (
        ({"sites": (0, 3)}, "blocks 1 to 11"),
        ({"sites": (12,)}, "blocks 1 to 11"),
        ({"num_probes": 4}, "takes no --probes"),
        ({"scorer": "fisher-mc", "num_probes": 1}, "at least 2, found 1"),
        ({"scorer": "token-norm", "unit_groups": 4}, "scores no MLP units"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            make_settings(12, **wrong)
        assert caught.value.hint
    with pytest.raises(InputError, match="blocks 1 to 0"):
        make_settings(1)


def test_unit_groups_must_divide_the_hidden_units(tmp_path):
    settings = SETTINGS.model_copy(update={"unit_groups": 12})
    with pytest.raises(InputError, match="12 unit groups do not divide the 128 hidden units") as caught:
        score(tiny_dense(), image_set(1), settings, out=tmp_path)
    assert caught.value.hint == "for example --unit-groups 8"


def test_no_shard_is_left_beside_the_scores(scored):
    assert sorted(path.name for path in scored[0].iterdir()) == ["sensitivity.json", "sensitivity.npz"]
