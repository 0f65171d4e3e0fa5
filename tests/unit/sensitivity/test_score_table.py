"""Stored scores: what is written is read again, and altered or missing arrays are refused."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.small_scores import image_set, tiny_dense

from heartvit_edge.errors import CheckError, InputError
from heartvit_edge.sensitivity.score import score
from heartvit_edge.sensitivity.table import read_table
from heartvit_edge.spec.sensitivity import ScoreSettings, SensitivityMap


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores")
    settings = ScoreSettings(scorer="fisher-mc", sites=(1, 3), num_probes=2, unit_groups=2)
    return folder, score(tiny_dense(), image_set(5), settings, out=folder)


def test_a_table_is_read_as_it_was_written(made):
    folder, table = made
    found = read_table(folder)
    assert found.info == table.info
    assert list(found.tokens) == [1, 3]
    for site in (1, 3):
        assert found.tokens[site].dtype == np.float32
        np.testing.assert_array_equal(found.tokens[site], table.tokens[site])
    np.testing.assert_array_equal(found.heads, table.heads)
    np.testing.assert_array_equal(found.units, table.units)


def test_the_file_holds_every_array_that_the_map_promises(made):
    folder, _ = made
    with np.load(folder / "sensitivity.npz") as stored:
        shapes = {name: stored[name].shape for name in stored.files}
    plain = {"tokens_1": (5, 16), "tokens_3": (5, 16), "heads": (5, 4, 4), "units": (5, 4, 2)}
    assert shapes == plain | {f"{name}_stderr": shape for name, shape in plain.items()}


def test_the_map_sums_up_the_arrays(made):
    _, table = made
    info = table.info
    for name, values in (("heads", table.heads), ("units", table.units)):
        np.testing.assert_allclose(getattr(info, f"{name}_mean"), values.mean(axis=0, dtype=float), rtol=1e-6)
        stderr = np.std(values.astype(float), axis=0, ddof=1) / np.sqrt(5)
        np.testing.assert_allclose(getattr(info, f"{name}_stderr"), stderr, rtol=1e-6)
    for site, values in table.tokens.items():
        means = values.mean(axis=1)
        assert info.site_mean[site] == pytest.approx(means.mean(), rel=1e-6)
        assert info.site_stderr[site] == pytest.approx(means.std(ddof=1) / 5**0.5, rel=1e-5)
    assert (info.images, info.settings.scorer, info.in_nats) == (image_set(5).ref(), "fisher-mc", True)
    assert info.source == tiny_dense().source


def test_a_map_survives_its_file(made):
    folder, table = made
    assert SensitivityMap.read(folder / "sensitivity.json") == table.info


def copied(made, tmp_path):
    folder, _ = made
    for name in ("sensitivity.json", "sensitivity.npz"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    return tmp_path


def test_altered_arrays_are_refused(made, tmp_path):
    folder = copied(made, tmp_path)
    with np.load(folder / "sensitivity.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["heads"] = arrays["heads"] + 1
    np.savez(folder / "sensitivity.npz", **arrays)
    with pytest.raises(CheckError, match=r"sensitivity\.npz was altered") as caught:
        read_table(folder)
    assert caught.value.exit_code == 5
    assert caught.value.hint == "score again with --force"


def test_missing_arrays_or_a_missing_map_are_refused(made, tmp_path):
    folder = copied(made, tmp_path)
    (folder / "sensitivity.npz").unlink()
    with pytest.raises(InputError, match=r"cannot read .*sensitivity\.npz"):
        read_table(folder)
    (folder / "sensitivity.json").unlink()
    with pytest.raises(InputError, match="holds no scores"):
        read_table(folder)
