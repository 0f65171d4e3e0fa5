"""``heartvit-edge lint``: what it prints, and how it exits."""

from __future__ import annotations

import json

import pytest
from fakes.onnx_text import model_of, save_model
from fakes.tiny_pack import make_tiny_pack

GOOD = "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"
BAD = "g (float[3,3] x) => (float y) { y = Det(x) }"


@pytest.fixture
def graph(tmp_path):
    return lambda text, name="m.onnx", **given: save_model(model_of(text, **given), tmp_path / name)


def test_a_clean_graph_prints_nothing_and_exits_0(run_cli, graph):
    result = run_cli("lint", graph(GOOD))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "m.onnx: opset 17, for TensorRT 8.6: 0 errors, 0 warnings" in result.stderr


def test_an_error_is_printed_with_node_reason_and_cure_and_exits_5(run_cli, graph):
    result = run_cli("lint", graph(BAD), "--target", "trt-10.3")
    assert result.exit_code == 5
    assert result.stdout == "m.onnx: error: y (Det): TensorRT 10.3 does not take Det [operator]; export without it\n"
    assert "error: TensorRT 10.3 would refuse m.onnx: y: TensorRT 10.3 does not take Det" in result.stderr


def test_a_warning_alone_exits_0(run_cli, graph):
    result = run_cli("lint", graph("g (double[N,4] x) => (double[N,4] y) { y = Relu(x) }"))
    assert (result.exit_code, result.stdout.count("\n")) == (0, 1)


def test_static_turns_a_size_from_data_into_an_error(run_cli, graph):
    path = graph("g (float[N,4] x) => (int64[2,M] y) { y = NonZero(x) }")
    assert run_cli("lint", path).exit_code == 0
    assert run_cli("lint", path, "--static").exit_code == 5


def test_reports_as_json_are_whole(run_cli, graph):
    result = run_cli("lint", graph(BAD), "--json")
    (report,) = json.loads(result.stdout)
    assert result.exit_code == 5
    assert {"file": "m.onnx", "target": "trt-8.6", "opset": 17, "num_nodes": 1}.items() <= report.items()
    assert [(found["severity"], found["op"]) for found in report["findings"]] == [("error", "Det")]


@pytest.mark.parametrize("target", ["trt-8.6", "trt-10.3", "trt-10.16", "trt-11.4", "onnxruntime"])
def test_a_pack_is_clean_for_every_target(run_cli, tmp_path, target):
    make_tiny_pack(tmp_path / "pack")
    result = run_cli("lint", tmp_path / "pack", "--target", target)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.count(" 0 errors, 0 warnings") > 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["missing.onnx"], "no file"),
        (["text.onnx"], "is no ONNX model"),
        (["."], "is not a budget pack"),
        (["m.onnx", "--target", "trt-9"], "no target 'trt-9', only trt-8.6"),
    ],
)
def test_what_cannot_be_checked_exits_2(run_cli, graph, tmp_path, words, expected):
    graph(GOOD)
    (tmp_path / "text.onnx").write_text("no model " * 50)
    name, *rest = words
    result = run_cli("lint", tmp_path / name, *rest)
    assert (result.exit_code, result.stdout) == (2, "")
    assert expected in result.stderr
