"""One defect of each kind is planted, and exactly it is found."""

import numpy as np
import onnx
import pytest
from fakes.onnx_text import model_of, save_model
from onnx import TensorProto, helper, numpy_helper

from heartvit_edge.lint.run import lint_file
from heartvit_edge.spec.target import TARGETS

RELU = "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"
TRT = [name for name in TARGETS if name != "onnxruntime"]


def _found(model, tmp_path, target="trt-10.3", *, static=False):
    report = lint_file(save_model(model, tmp_path / "m.onnx"), TARGETS[target], static=static)
    return [(finding.severity, finding.rule, finding.op) for finding in report.findings]


@pytest.mark.parametrize("target", TARGETS)
def test_a_plain_graph_is_clean(target, tmp_path):
    assert _found(model_of(RELU), tmp_path, target) == []


# graph, opset, target, severity, rule, operator
PLANTED = {
    "operator not taken": (
        "g (float[N,4] x) => (int64[M] y) { y, a, b, c = Unique <axis: int = 1> (x) }".replace("y, a", "v, y"),
        17,
        "trt-8.6",
        ("error", "operator", "Unique"),
    ),
    "operator of a later release": (
        "g (float[N,4] x) => (float[N,4] y) { y = Mish(x) }",
        18,
        "trt-8.6",
        ("error", "operator", "Mish"),
    ),
    "sorted is 0": (
        "g (float[N,9] x) => (float[N,3] v, int64[N,3] i) <int64[1] k = {3}> { v, i = TopK <sorted = 0> (x, k) }",
        17,
        "trt-10.3",
        ("error", "limit", "TopK"),
    ),
    "K above the limit": (
        "g (float[N,9000] x) => (float[N,M] v, int64[N,M] i) <int64[1] k = {3841}> { v, i = TopK(x, k) }",
        17,
        "trt-8.6",
        ("error", "limit", "TopK"),
    ),
    "K from scores": (
        """g (float[N,9] x) => (float[N,M] v, int64[N,M] i) {
            best = ArgMax <axis = 1, keepdims = 0> (x)
            one = Constant <value_ints = [1]> ()
            k = Reshape(best, one)
            v, i = TopK(x, k) }""",
        17,
        "trt-10.3",
        ("error", "shape-tensor", "TopK"),
    ),
    "shape from a float input": (
        "g (float[N,8] x, float[2] s) => (float[A,B] y) { t = Cast <to = 7> (s)\n y = Reshape(x, t) }",
        17,
        "trt-10.3",
        ("error", "shape-tensor", "Reshape"),
    ),
    "size from data": (
        "g (float[N,4] x) => (int64[2,M] y) { y = NonZero(x) }",
        17,
        "trt-10.3",
        ("warning", "data-dependent", "NonZero"),
    ),
    "ScatterND with a reduction": (
        """g (float[8] x, int64[3,1] i, float[3] u) => (float[8] y) { y = ScatterND <reduction = "add"> (x, i, u) }""",
        17,
        "trt-10.3",
        ("error", "scatter", "ScatterND"),
    ),
    "ScatterElements with a reduction": (
        """g (float[8] x, int64[3] i, float[3] u) => (float[8] y) {
            y = ScatterElements <reduction = "add"> (x, i, u) }""",
        17,
        "trt-8.6",
        ("error", "scatter", "ScatterElements"),
    ),
    "branches of two ranks": (
        """g (bool c, float[1,4] x) => (float[M] y) {
            y = If (c) <
                then_branch = a () => (float[1,4] p) { p = Identity(x) },
                else_branch = b () => (float[4] q) { z = Constant <value_ints = [0]> ()
                    q = Squeeze(x, z) }> }""",
        17,
        "trt-10.3",
        ("error", "if-branches", "If"),
    ),
    "double": (
        "g (double[N,4] x) => (double[N,4] y) { y = Relu(x) }",
        17,
        "trt-10.3",
        ("warning", "dtype", ""),
    ),
    "uint16": (
        "g (uint16[N,4] x) => (float[N,4] y) { y = Cast <to = 1> (x) }",
        17,
        "trt-10.3",
        ("error", "dtype", ""),
    ),
    "text": (
        "g (string[N] x) => (string[N] y) { y = Identity(x) }",
        17,
        "trt-8.6",
        ("error", "dtype", ""),
    ),
    "bfloat16 before it was known": (
        "g (bfloat16[N,4] x) => (bfloat16[N,4] y) { y = Relu(x) }",
        17,
        "trt-8.6",
        ("error", "dtype", ""),
    ),
    "bfloat16 where the operator lacks it": (
        "g (bfloat16[1,2,8,8] x, bfloat16[1,8,8,2] p) => (bfloat16[1,2,8,8] y) { y = GridSample(x, p) }",
        20,
        "trt-10.3",
        ("error", "operator-type", "GridSample"),
    ),
    "product of integers": (
        "g (int32[N,4] x, int32[4,4] w) => (int32[N,4] y) { y = MatMul(x, w) }",
        17,
        "trt-10.3",
        ("error", "operator-type", "MatMul"),
    ),
    "computing with uint8": (
        "g (uint8[N,4] x) => (bool[N,4] y) { y = Greater(x, x) }",
        17,
        "trt-10.3",
        ("error", "uint8", "Greater"),
    ),
    "computing with int8": (
        "g (int8[N,4] x) => (int8[N,4] y) { y = Abs(x) }",
        17,
        "trt-10.3",
        ("error", "quantized-type", "Abs"),
    ),
    "asymmetric quantization": (
        "g (float[N,4] x) => (int8[N,4] y) <float s = {0.1}, int8 z = {3}> { y = QuantizeLinear(x, s, z) }",
        17,
        "trt-10.3",
        ("error", "limit", "QuantizeLinear"),
    ),
    "a quantized bias": (
        "g (float[N,4] x) => (float[N,4] y) <float s = {0.1}, int32[4] b = {1,2,3,4}> {\n"
        "c = DequantizeLinear(b, s)\n y = Add(x, c) }",
        17,
        "trt-10.3",
        ("error", "limit", "DequantizeLinear"),
    ),
    "axes that are computed": (
        "g (float[N,4] x, int64[1] a) => (float[N,1] y) { y = ReduceSum(x, a) }",
        17,
        "trt-10.3",
        ("error", "limit", "ReduceSum"),
    ),
    "dilated pooling": (
        "g (float[N,3,9,9] x) => (float[N,3,5,5] y) { y = MaxPool <kernel_shape = [3,3], dilations = [2,2]> (x) }",
        17,
        "trt-10.3",
        ("error", "limit", "MaxPool"),
    ),
    "antialias": (
        """g (float[1,3,8,8] x) => (float[1,3,4,4] y) <int64[4] s = {1,3,4,4}> {
            y = Resize <mode = "linear", antialias = 1> (x, , , s) }""",
        18,
        "trt-10.3",
        ("error", "limit", "Resize"),
    ),
    "training mode": (
        "g (float[N,4] x) => (float[N,4] y) <float r = {0.5}, bool t = {1}> { y = Dropout(x, r, t) }",
        17,
        "trt-10.3",
        ("error", "limit", "Dropout"),
    ),
    "a mean that is an output": (
        "g (float[N,4] x) => (float[N,4] y, float[N,1] m) <float[4] s = {1,1,1,1}> { y, m = LayerNormalization(x, s) }",
        17,
        "trt-10.3",
        ("error", "limit", "LayerNormalization"),
    ),
    "diagonal of an equation": (
        """g (float[4,4] x) => (float[4] y) { y = Einsum <equation = "ii->i"> (x) }""",
        17,
        "trt-8.6",
        ("error", "limit", "Einsum"),
    ),
    "two unknown sizes": (
        """g (float[N,M,6] x) => (float[A,B,C,D] y) <int64[2] t = {2,3}> {
            s = Shape <end = 2> (x)
            u = Concat <axis = 0> (s, t)
            y = Reshape(x, u) }""",
        17,
        "trt-10.3",
        ("warning", "dynamic-reshape", "Reshape"),
    ),
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_a_planted_defect_and_no_other_is_found(planted, tmp_path):
    graph, opset, target, expected = planted
    found = _found(model_of(graph, opset=opset), tmp_path, target)
    if opset > TARGETS[target].max_opset:  # the operator came with that opset
        found.remove(("error", "opset", ""))
    assert found == [expected]


@pytest.mark.parametrize("name", ["sorted is 0", "size from data", "asymmetric quantization", "two unknown sizes"])
def test_what_tensorrt_refuses_is_not_held_against_onnxruntime(name, tmp_path):
    graph, opset, *_ = PLANTED[name]
    assert [rule for _, rule, _ in _found(model_of(graph, opset=opset), tmp_path, "onnxruntime")] == (
        ["data-dependent"] if name == "size from data" else []
    )


def test_an_unsorted_top_k_is_read_as_a_sorted_one_by_8_6(tmp_path):
    graph, opset, *_ = PLANTED["sorted is 0"]
    assert _found(model_of(graph, opset=opset), tmp_path, "trt-8.6") == []


@pytest.mark.parametrize("target", TRT)
def test_a_count_that_is_an_integer_input_is_taken(target, tmp_path):
    graph = "g (float[N,9] x, int64[1] k) => (float[N,M] v, int64[N,M] i) { v, i = TopK(x, k) }"
    assert _found(model_of(graph), tmp_path, target) == []


def test_a_count_that_follows_from_a_shape_is_taken(tmp_path):
    graph = """g (float[N,M] x) => (float[N,K] v, int64[N,K] i) {
        s = Shape <start = 1, end = 2> (x)
        two = Constant <value_ints = [2]> ()
        k = Div(s, two)
        v, i = TopK(x, k) }"""
    assert _found(model_of(graph), tmp_path) == []


def test_a_shape_from_operators_on_constants_alone_is_taken(tmp_path):
    graph = """g (float[8] x) => (float[A,B] y) <float[2] f = {2.0, 4.0}> {
        r = Softmax(f)
        o = NonZero(f)
        l = Squeeze(o)
        s = Cast <to = 7> (r)
        y = Reshape(x, l) }"""
    assert [rule for _, rule, _ in _found(model_of(graph), tmp_path)] == []


@pytest.mark.parametrize("target", TRT)
@pytest.mark.parametrize("graph", [PLANTED["size from data"][0], PLANTED["ScatterElements with a reduction"][0]])
def test_a_static_form_forbids_sizes_from_data_and_sums_without_an_order(graph, target, tmp_path):
    assert [severity for severity, *_ in _found(model_of(graph), tmp_path, target, static=True)] == ["error"]


def test_one_unknown_size_is_no_finding(tmp_path):
    graph = """g (float[N,4,6] x) => (float[A,B,C,D] y) <int64[3] t = {4,2,3}> {
        s = Shape <end = 1> (x)
        u = Concat <axis = 0> (s, t)
        y = Reshape(x, u) }"""
    assert _found(model_of(graph), tmp_path) == []


@pytest.mark.parametrize(
    ("target", "opset", "rules"),
    [("trt-8.6", 18, ["opset"]), ("trt-10.3", 21, ["opset"]), ("trt-10.16", 24, []), ("onnxruntime", 22, ["opset"])],
)
def test_an_opset_above_the_target_s_is_an_error(target, opset, rules, tmp_path):
    assert _found(model_of(RELU, opset=opset), tmp_path, target) == [("error", rule, "") for rule in rules]


def test_an_old_opset_is_a_warning(tmp_path):
    assert _found(model_of(RELU, opset=8), tmp_path) == [("warning", "opset", "")]


@pytest.mark.parametrize(("target", "severity"), [("trt-8.6", "warning"), ("onnxruntime", "error")])
def test_a_new_ir_version_is_refused_by_onnxruntime_alone(target, severity, tmp_path):
    assert _found(model_of(RELU, ir_version=12), tmp_path, target) == [(severity, "ir-version", "")]


def test_an_operator_of_another_domain_is_an_error(tmp_path):
    graph = "g (float[N,4] x) => (float[N,4] y) { y = com.microsoft.BiasGelu(x, x) }"
    model = model_of(graph, domains=', "com.microsoft" : 1')
    assert _found(model, tmp_path) == [("error", "operator", "BiasGelu")]


def _with_function(body):
    model = model_of("g (float[N,4] x) => (float[N,4] y) { y = own.f(x) }", domains=', "own" : 1')
    node = helper.make_node(body, ["a"], ["b"])
    model.functions.append(helper.make_function("own", "f", ["a"], ["b"], [node], [helper.make_opsetid("", 17)]))
    return model


def test_what_a_local_function_holds_is_checked(tmp_path):
    assert _found(_with_function("Relu"), tmp_path, "trt-10.3") == []
    assert _found(_with_function("Det"), tmp_path, "trt-10.3")[0][2] == "Det"


def test_8_6_reads_no_local_functions(tmp_path):
    assert _found(_with_function("Relu"), tmp_path, "trt-8.6") == [("error", "local-function", "")]


def test_what_a_branch_holds_is_checked(tmp_path):
    graph = """g (bool c, float[3,3] x) => (float y) {
        y = If (c) <then_branch = a () => (float p) { p = Det(x) },
            else_branch = b () => (float q) { q = ReduceMax <keepdims = 0> (x) }> }"""
    assert _found(model_of(graph), tmp_path) == [("error", "operator", "Det")]


def test_a_branch_that_a_constant_chooses_may_have_another_rank(tmp_path):
    graph = PLANTED["branches of two ranks"][0].replace("(bool c, float[1,4] x)", "(float[1,4] x)")
    graph = graph.replace("{\n            y = If", "<bool c = {1}> {\n            y = If", 1)
    assert _found(model_of(graph), tmp_path) == []


def test_onnx_s_own_checker_is_asked(tmp_path):
    model = model_of(RELU)
    model.graph.node[0].input[0] = "nobody"
    assert ("error", "invalid", "") in _found(model, tmp_path)


def test_onnxruntime_itself_is_asked_where_it_is_installed(tmp_path):
    model = model_of("g (float[N,4] x) => (float[N,4] y) { y = nobody.Knows(x) }", domains=', "nobody" : 1')
    assert _found(model, tmp_path, "onnxruntime") == [("error", "refused", "")]


def test_errors_come_first_and_name_node_reason_and_cure(tmp_path):
    graph = (
        """g (double[N,9] x) => (double[N,3] v, int64[N,3] i) <int64[1] k = {3}> { v, i = TopK <sorted = 0> (x, k) }"""
    )
    model = model_of(graph)
    model.graph.node[0].name = "best"
    report = lint_file(save_model(model, tmp_path / "m.onnx"), TARGETS["trt-10.3"])
    assert [finding.severity for finding in report.findings] == ["error", "warning"]
    line = report.findings[0].line()
    assert line.startswith("error: best (TopK): sorted is 0, expected 1 [limit]; call topk(sorted=True)")


def test_a_node_without_a_name_is_called_by_its_output(tmp_path):
    report = lint_file(
        save_model(model_of(PLANTED["computing with int8"][0]), tmp_path / "m.onnx"), TARGETS["trt-10.3"]
    )
    assert report.findings[0].node == "y"


def test_an_input_that_is_listed_as_a_stored_value_too_is_a_constant(tmp_path):
    model = model_of("g (float[8] x, int64[2] s) => (float[2,4] y) { y = Reshape(x, s) }")
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 4]), "s"))
    assert _found(model, tmp_path) == []


def test_quantization_to_int8_with_zero_at_zero_is_clean(tmp_path):
    graph = """g (float[N,4] x) => (float[N,4] y) <float s = {0.1}, int8 z = {0}> {
        q = QuantizeLinear(x, s, z)
        y = DequantizeLinear(q, s, z) }"""
    assert all(_found(model_of(graph), tmp_path, target) == [] for target in TARGETS)


def test_pixels_as_uint8_that_are_cast_at_once_are_clean(tmp_path):
    graph = "g (uint8[N,4] x) => (float[N,4] y) { y = Cast <to = 1> (x) }"
    assert all(_found(model_of(graph), tmp_path, target) == [] for target in TARGETS)


def test_uint8_zero_points_are_refused(tmp_path):
    graph = """g (float[N,4] x) => (float[N,4] y) <float s = {0.1}, uint8 z = {0}> {
        q = QuantizeLinear(x, s, z)
        y = DequantizeLinear(q, s, z) }"""
    assert {rule for _, rule, _ in _found(model_of(graph), tmp_path)} == {"limit"}


def test_elements_are_named_as_onnx_names_them():
    known = {TensorProto.DataType.Name(number) for number in TensorProto.DataType.values()}
    named = set().union(*(target.types | target.quantized | set(target.narrowed) for target in TARGETS.values()))
    assert named <= known


def test_the_ir_versions_are_those_of_the_onnx_that_targets_are_built_on():
    ir_version = {release: ir for release, ir, *_ in helper.VERSION_TABLE}
    built_on = {"trt-8.6": "1.13.1", "trt-10.3": "1.16.0", "trt-10.16": "1.19.0", "trt-11.4": "1.20.0"}
    built_on["onnxruntime"] = "1.16.0"  # of 1.20
    assert {name: target.max_ir_version for name, target in TARGETS.items()} == {
        name: ir_version[release] for name, release in built_on.items()
    }


def test_no_model_of_onnx_s_backend_tests_breaks_the_lint():
    from pathlib import Path

    root = Path(onnx.__file__).parent / "backend" / "test" / "data"
    files = sorted(root.rglob("model.onnx"))[::4]
    assert len(files) > 20
    assert all(lint_file(file, TARGETS["trt-10.3"]).num_nodes > 0 for file in files)
