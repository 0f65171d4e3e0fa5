"""An engine that answers other than its graph is found out; one that rounds is not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from fakes.machines import DESKTOP
from fakes.tiny_pack import make_tiny_pack

from heartvit_edge.engines.build import build_engine
from heartvit_edge.errors import CheckError
from heartvit_edge.runtime.verify import compare, verify_engine
from heartvit_edge.spec.engine import BatchRange, EngineManifest
from heartvit_edge.spec.files import sha256_file


@pytest.fixture
def engine(tmp_path):
    """Return a function that builds the macs-0.5 engine; it gives manifest, folder and graph."""
    pack = make_tiny_pack(tmp_path / "pack")

    def build(precision="fp32", batch=None):
        folder = build_engine(
            tmp_path / "pack",
            pack,
            "macs-0.5",
            "onnxruntime",
            precision,
            batch or BatchRange(),
            tmp_path / "engines",
            DESKTOP,
            force=True,
        )
        return EngineManifest.read(folder / "manifest.json"), folder, tmp_path / "pack/macs-0.5.onnx"

    return build


@pytest.fixture
def outputs():
    """Return plausible outputs: two images, three classes, four kept patches."""
    return {
        "logits": np.array([[1.0, -2.0, 0.5], [0.2, 0.1, 4.0]], dtype=np.float32),
        "kept_1": np.array([[0, 3, 5, 9], [1, 2, 3, 4]], dtype=np.int32),
    }


def altered(engine, change):
    """Return manifest, folder and graph after ``change`` was made to the engine's own graph."""
    manifest, folder, onnx_path = engine
    model = onnx.load(folder / manifest.file)
    change(model.graph)
    onnx.save_model(model, folder / manifest.file)
    return manifest.model_copy(update={"sha256": sha256_file(folder / manifest.file)}), folder, onnx_path


def set_weight(graph, name, value):
    """Fill a weight of the graph with one value."""
    weight = next(weight for weight in graph.initializer if weight.name == name)
    array = np.full(tuple(weight.dims), value, dtype=np.float32)
    weight.CopyFrom(onnx.numpy_helper.from_array(array, name))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("batch", [BatchRange(), BatchRange(min=1, opt=1, max=1), BatchRange(min=6, opt=8, max=8)])
def test_a_right_engine_passes_at_every_batch_range(engine, precision, batch):
    verify_engine(*engine(precision, batch))


def test_an_engine_with_another_weight_is_found_out(engine):
    wrong = altered(engine(), lambda graph: set_weight(graph, "head.bias", 0.5))
    with pytest.raises(CheckError, match=r"engine macs-0\.5 \(onnxruntime, fp32\) is off its graph: logits differs by"):
        verify_engine(*wrong)


def test_an_engine_that_answers_nan_is_found_out(engine):
    wrong = altered(engine("fp32"), lambda graph: set_weight(graph, "head.bias", np.nan))
    with pytest.raises(CheckError, match="answers logits with values that are not finite"):
        verify_engine(*wrong)


def test_an_engine_that_keeps_other_tokens_is_found_out(engine):
    wrong = altered(engine(), lambda graph: set_weight(graph, "gate.weight", 1.0))
    with pytest.raises(CheckError, match="keeps other tokens than its graph: kept_1 overlaps by"):
        verify_engine(*wrong)


def test_fp16_may_be_off_by_more_than_fp32(engine, outputs):
    manifest = engine()[0]
    found = outputs | {"logits": outputs["logits"] + np.float32(0.1)}
    compare(outputs, found, manifest.model_copy(update={"precision": "fp16"}))
    with pytest.raises(CheckError, match=r"differs by up to 0\.1, allowed 0\.004"):
        compare(outputs, found, manifest)


def test_the_logits_of_an_image_that_keeps_another_token_are_not_compared(engine, outputs):
    manifest = engine()[0].model_copy(update={"precision": "fp16"})
    many = {name: np.concatenate([value] * 4) for name, value in outputs.items()}
    found = {name: value.copy() for name, value in many.items()}
    found["kept_1"][0] = [0, 3, 5, 8]
    found["logits"][0] = 100.0
    compare(many, found, manifest)
    found["logits"][1] = 100.0
    with pytest.raises(CheckError, match="logits differs"):
        compare(many, found, manifest)


def test_kept_tokens_out_of_order_are_found_out(engine, outputs):
    found = outputs | {"kept_1": outputs["kept_1"][:, ::-1].copy()}
    with pytest.raises(CheckError, match="answers kept_1 out of order"):
        compare(outputs, found, engine()[0])


def test_fp32_must_keep_the_same_tokens_on_some_image(engine):
    many = {
        "logits": np.zeros((2, 3), dtype=np.float32),
        "kept_1": np.stack([np.arange(0, 100, dtype=np.int32), np.arange(0, 100, dtype=np.int32)]),
    }
    found = many | {"kept_1": many["kept_1"].copy()}
    found["kept_1"][:, -1] = 120  # one near tie in each image: an overlap of 99 %
    with pytest.raises(CheckError, match="on every one of 2 images"):
        compare(many, found, engine()[0])
    compare(many, found, engine()[0].model_copy(update={"precision": "fp16"}))
