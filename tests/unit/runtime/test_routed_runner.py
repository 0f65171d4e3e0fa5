"""Engines of a stem and tails: mixed batches come back in order, each image as by itself."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.adaptive_pack import make_adaptive_pack
from fakes.board import Board, noise
from fakes.machines import DESKTOP
from fakes.tensorrt_surface import VERSIONS

from heartvit_edge.bench.accuracy import Engine, evaluate
from heartvit_edge.engines.build import build_engine
from heartvit_edge.engines.store import load_engine
from heartvit_edge.errors import CheckError
from heartvit_edge.runtime.open import open_runner
from heartvit_edge.runtime.routed_runner import RoutedRunner
from heartvit_edge.runtime.tensorrt_runner import TensorRTRunner
from heartvit_edge.runtime.verify import compare, verify_engine
from heartvit_edge.spec.engine import BatchRange, EngineManifest
from heartvit_edge.spec.route import route, tails_of
from heartvit_edge.spec.routing import NOT_KEPT
from heartvit_edge.spec.tensor import TensorInfo

ENTRY = "macs-0.6"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "pack"
    return folder, make_adaptive_pack(folder, "adaptive-input")


def build(made, engines, entry=ENTRY, batch=None):
    batch = batch or BatchRange()
    folder = build_engine(
        *made, entry, "onnxruntime", "fp32", batch, engines, DESKTOP, force=False, verify=verify_engine
    )
    return load_engine(folder, DESKTOP), folder


@pytest.fixture(scope="module")
def engine(made, tmp_path_factory):
    return build(made, tmp_path_factory.mktemp("engines"))


@pytest.fixture
def spread():
    """Return images that need different numbers of tokens: noise, and flat ones with a bright patch."""
    images = noise(8)
    for row in range(0, 8, 2):
        images[row] *= 0.05
        images[row, :, : 8 * (1 + row // 4), :8] += 3
    return images


def test_a_mixed_batch_answers_each_image_as_by_itself(made, engine, spread):
    manifest, folder = engine
    assert [part.name for part in manifest.parts] == ["stem", *(f"tail-{bucket}" for bucket in manifest.buckets)]
    taken = set()
    with open_runner(manifest, folder) as runner:
        together = runner.infer(spread)
        for row, image in enumerate(spread):
            alone = runner.infer(image[None])
            np.testing.assert_allclose(together["logits"][row], alone["logits"][0], atol=1e-4)
            for name in ("kept_1", "kept_3"):
                np.testing.assert_array_equal(together[name][row], alone[name][0])
            taken.add(int((alone["kept_1"] != NOT_KEPT).sum()))
        assert list(together) == [info.name for info in manifest.outputs]
        assert [values.shape[1] for values in together.values()] == [info.shape[1] for info in manifest.outputs]
    assert len(taken) > 1
    assert taken <= set(made[1].entry(ENTRY).routing.buckets)


def test_a_later_batch_and_its_order_leave_the_answers_alone(engine, spread):
    with open_runner(*engine) as runner:
        first = runner.infer(spread)["logits"]
        before = first.copy()
        turned = runner.infer(spread[::-1])["logits"]
        (many,) = [found["logits"] for found in runner.infer_many([spread])]
    np.testing.assert_array_equal(first, before)
    np.testing.assert_allclose(turned[::-1], before, atol=1e-4)
    np.testing.assert_array_equal(many, before)


def test_tails_serve_a_part_of_the_smallest_batch(made, tmp_path, spread):
    manifest, folder = build(made, tmp_path, batch=BatchRange(min=8, opt=8, max=8))
    assert [part.batch.min for part in manifest.parts] == [8, *[1] * len(manifest.buckets)]
    with open_runner(manifest, folder) as runner:
        assert runner.infer(spread)["logits"].shape == (8, 5)


def test_an_altered_tail_is_refused(made, tmp_path):
    _, folder = build(made, tmp_path)
    path = sorted(folder.glob("tail-*.onnx"))[0]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckError, match=r"tail-.*\.onnx was altered"):
        load_engine(folder, DESKTOP)


def test_a_tail_that_answers_otherwise_is_found_by_the_check(engine):
    manifest, folder = engine
    with open_runner(manifest, folder) as runner:
        found = runner.infer(noise(4))
    wrong = found | {"logits": found["logits"] + 1}
    with pytest.raises(CheckError, match="is off its graph"):
        compare(found, wrong, manifest)


def test_evaluation_counts_the_patches_of_each_image_alone(made, engine, tmp_path, spread):
    manifest, folder = engine
    with open_runner(*build(made, tmp_path, "dense")) as dense, open_runner(manifest, folder) as runner:
        engines = [Engine("dense", "0", dense.infer), Engine(ENTRY, "1", runner.infer)]
        _, samples = evaluate(engines, [spread], None, 8, made[1].preprocessing, 8, lambda *_: None)
        lengths = [len(dict(sample.kept[ENTRY])[1]) for sample in samples]
        assert lengths == (runner.infer(spread)["kept_1"] != NOT_KEPT).sum(axis=1).tolist()


def test_an_image_takes_the_smallest_tail_that_keeps_enough_or_the_largest():
    needed = np.array([1, 4, 5, 8, 9, 99], dtype=np.int32)
    assert tails_of(needed, (4, 8)).tolist() == [0, 0, 1, 1, 1, 1]


def test_rows_are_picked_and_put_back_and_short_ones_filled():
    outputs = (
        TensorInfo(name="logits", dtype="float32", shape=(None, 1)),
        TensorInfo(name="kept_1", dtype="int32", shape=(None, 3)),
    )

    def stem(given):
        return {"tokens": given["images"] * 10, "num_keep": given["images"][:, 0].astype(np.int32)}

    def tail(count):
        def run(state):
            kept = np.tile(np.arange(count, dtype=np.int32), (len(state["tokens"]), 1))
            return {"logits": state["tokens"] + count, "kept_1": kept}

        return run

    images = np.array([[3], [1], [2], [1]], dtype=np.float32)
    found = route({"images": images}, stem, [tail(1), tail(3)], (1, 3), outputs)
    assert found["logits"][:, 0].tolist() == [33, 11, 23, 11]
    assert found["kept_1"].tolist() == [[0, 1, 2], [0, -1, -1], [0, 1, 2], [0, -1, -1]]
    alone = route({"images": images[1:2]}, stem, [tail(1), tail(3)], (1, 3), outputs)
    assert alone["kept_1"].tolist() == [[0, -1, -1]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 5e-2)])
def test_every_tensorrt_builds_stem_and_tails_and_answers_mixed_batches(
    made, engine, tmp_path, monkeypatch, spread, version, precision, tolerance
):
    board = Board(tmp_path, monkeypatch, version, make_pack=lambda _: made[1])
    board.folder = made[0]
    manifest, folder = board.build(precision, entry=ENTRY, batch=BatchRange(min=1, opt=2, max=8))
    assert manifest.parts[0].file == manifest.file == "stem.plan"
    assert {path.name for path in folder.iterdir()} >= {part.file for part in manifest.parts}
    parts = [
        TensorRTRunner(manifest.of_part(part), folder, board.cuda, board.scratch).__enter__() for part in manifest.parts
    ]
    runner = RoutedRunner(EngineManifest.read(folder / "manifest.json"), parts)
    with open_runner(*engine) as reference:
        expected = reference.infer(spread)
    for _ in range(3):
        found = runner.infer(spread)
        same = (found["kept_3"] == expected["kept_3"]).all(axis=1)
        assert same.mean() >= 0.5
        scale = abs(expected["logits"]).max()
        assert abs(found["logits"] - expected["logits"])[same].max() <= tolerance * scale
