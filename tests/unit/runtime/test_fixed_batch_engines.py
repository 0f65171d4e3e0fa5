"""Engines of graphs with a constant batch: built for it without being told, and fed nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.adaptive_pack import make_adaptive_pack
from fakes.board import Board, noise
from fakes.machines import DESKTOP
from fakes.tensorrt_surface import VERSIONS

from heartvit_edge.bench.stored import StoredEngine, check_batch_sizes
from heartvit_edge.engines.build import build_engine
from heartvit_edge.errors import InputError
from heartvit_edge.runtime.open import open_runner
from heartvit_edge.runtime.tensorrt_runner import TensorRTRunner
from heartvit_edge.runtime.verify import verify_engine
from heartvit_edge.spec.engine import BatchRange, EngineManifest

BATCH = 3
ONLY = BatchRange(min=BATCH, opt=BATCH, max=BATCH)


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """Return folder and manifest of a pack by its form."""
    found = {}
    for form in ("static", "adaptive-shape"):
        folder = tmp_path_factory.mktemp(form) / "pack"
        found[form] = folder, make_adaptive_pack(folder, form, batch=BATCH)
    return found


def built(made, engines, batch=None, entry="macs-0.6"):
    folder = build_engine(
        *made, entry, "onnxruntime", "fp32", batch, engines, DESKTOP, force=False, verify=verify_engine
    )
    return EngineManifest.read(folder / "manifest.json"), folder


@pytest.mark.parametrize("form", ["static", "adaptive-shape"])
@pytest.mark.parametrize("asked", [None, ONLY])
def test_an_engine_serves_the_graphs_batch_and_refuses_another_by_its_number(packs, tmp_path, form, asked):
    manifest, folder = built(packs[form], tmp_path, asked)
    assert manifest.batch == ONLY
    with open_runner(manifest, folder) as runner:
        assert runner.infer(noise(BATCH))["logits"].shape == (BATCH, 5)
        for other in (1, BATCH + 1):
            with pytest.raises(InputError, match=f"a batch of {other} images, .* constant batch of {BATCH}"):
                runner.infer(noise(other))
    stored = [StoredEngine(manifest, folder)]
    check_batch_sizes(packs[form][0], tmp_path, stored, [BATCH])
    with pytest.raises(InputError, match=f"macs-0.6 has a constant batch of {BATCH}, found 8") as caught:
        check_batch_sizes(packs[form][0], tmp_path, stored, [8])
    assert f"--batch-size {BATCH}" in caught.value.hint


def test_an_engine_for_other_batches_is_refused_with_the_graphs(packs, tmp_path):
    with pytest.raises(InputError, match=f"constant batch of {BATCH}, found --batch-size 1:1:8") as caught:
        built(packs["static"], tmp_path, BatchRange())
    assert "without --fixed-batch 3" in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("form", ["static", "adaptive-shape"])
def test_every_tensorrt_is_given_no_range_of_a_constant_batch_and_answers(packs, tmp_path, monkeypatch, version, form):
    board = Board(tmp_path, monkeypatch, version, make_pack=lambda _: packs[form][1])
    board.folder = packs[form][0]
    manifest, folder = board.build(entry="macs-0.6", batch=ONLY)
    assert board.script.arguments("IOptimizationProfile.set_shape") == []
    counts = board.script.arguments("IOptimizationProfile.set_shape_input")
    profiles = board.script.arguments("IBuilderConfig.add_optimization_profile")
    assert (len(profiles), len(counts)) == ((0, 0) if form == "static" else (2, 4))  # a profile a budget
    with TensorRTRunner(manifest, folder, board.cuda, board.scratch) as runner:
        for _ in range(3):  # plain, captured, launched
            found, expected = runner.infer(noise(BATCH)), board.expected(noise(BATCH), "macs-0.6")
            np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-4)
        with pytest.raises(InputError, match="constant batch of 3"):
            runner.infer(noise(2))


def test_a_stem_and_its_tails_of_one_image_answer_one_image(tmp_path):
    made = tmp_path / "pack", make_adaptive_pack(tmp_path / "pack", "adaptive-input", buckets=2, budgets=1, batch=1)
    manifest, folder = built(made, tmp_path / "engines", entry="macs-0.8")
    assert {part.batch.max for part in manifest.parts} == {1}
    with open_runner(manifest, folder) as runner:
        assert runner.infer(noise(1))["kept_1"].shape == (1, manifest.buckets[-1])
        with pytest.raises(InputError, match="constant batch of 1"):
            runner.infer(noise(2))
