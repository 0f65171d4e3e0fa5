import numpy as np
import onnx
import pytest
from fakes.onnx_text import model_of
from onnx import numpy_helper

from heartvit_edge.errors import InputError
from heartvit_edge.lint.run import lint_file
from heartvit_edge.spec.target import TARGETS, find_target

TARGET = TARGETS["trt-8.6"]


def _with_data(folder, *, location="weights.bin", shape=(64, 64)):
    model = model_of("g (float[N,64] x, int64[2] s) => (float[32,M] y) { a = MatMul(x, w)\n y = Reshape(a, s) }")
    values = np.ones(shape, np.float32)
    model.graph.initializer.extend(
        [numpy_helper.from_array(values, "w"), numpy_helper.from_array(np.array([32, -1]), "s")]
    )
    path = folder / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    if location != "weights.bin":
        stored = onnx.load(path, load_external_data=False)
        stored.graph.initializer[0].external_data[0].value = location
        onnx.save(stored, path)
    return path


def test_weights_in_another_file_are_not_needed_and_shapes_there_are_read(tmp_path):
    assert lint_file(_with_data(tmp_path), TARGET).findings == ()


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda path: (path.parent / "weights.bin").unlink(), "external data weights.bin is missing"),
        (lambda path: (path.parent / "weights.bin").write_bytes(b"1"), "has 1 bytes"),
        (lambda path: path.unlink(), "no file"),
        (lambda path: path.write_bytes(b"not a model" * 9), "is no ONNX model"),
        (lambda path: path.write_bytes(b""), "is no ONNX model"),
    ],
    ids=["missing", "cut short", "no file", "another file", "empty"],
)
def test_what_cannot_be_read_is_said(break_it, expected, tmp_path):
    path = _with_data(tmp_path)
    break_it(path)
    with pytest.raises(InputError, match=expected):
        lint_file(path, TARGET)


@pytest.mark.parametrize("location", ["../weights.bin", "/weights.bin"])
def test_data_outside_the_folder_is_refused(location, tmp_path):
    with pytest.raises(InputError, match="expected a file in the model's folder"):
        lint_file(_with_data(tmp_path, location=location), TARGET)


def test_an_unknown_target_is_refused_with_those_there_are():
    with pytest.raises(InputError, match=r"no target 'trt-9', only trt-8\.6, .*onnxruntime"):
        find_target("trt-9")


def test_shapes_that_contradict_each_other_are_an_input_error(tmp_path):
    model = model_of("g (float[2,3] x, float[4,5] w) => (float[2,5] y) { y = MatMul(x, w) }")
    onnx.save(model, tmp_path / "m.onnx")
    report = lint_file(tmp_path / "m.onnx", TARGETS["onnxruntime"])
    assert [finding.rule for finding in report.findings] == ["refused"]
