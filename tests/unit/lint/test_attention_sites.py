import pytest
from fakes.onnx_text import model_of, save_model

from heartvit_edge.lint.run import lint_file
from heartvit_edge.spec.target import TARGETS

ATTENTION = """g (float[N,{heads},{keys},{width}] q, float[N,{heads},{width},{keys}] k,
    float[N,{heads},{keys},{width}] v)
    => (float[N,{heads},{keys},{width}] y{more}) <float s = {{8.0}}, float[1,1,1,{keys}] m> {{
    a = MatMul(q, k)
    {between}
    w = Softmax <axis = {axis}> (b)
    {after}
    y = MatMul(w, v) }}"""


def _sites(tmp_path, *, heads=3, keys=16, width=64, between="b = Div(a, s)", axis=-1, after="", more=""):
    graph = ATTENTION.format(**{k: v for k, v in locals().items() if k != "tmp_path"})
    return lint_file(save_model(model_of(graph), tmp_path / "m.onnx"), TARGETS["trt-10.3"]).attention


@pytest.mark.parametrize(
    "between", ["b = Identity(a)", "b = Div(a, s)", "c = Mul(a, s)\n b = Add(c, m)", "c = Add(m, a)\n b = Mul(s, c)"]
)
def test_scale_and_mask_may_stand_before_the_softmax(between, tmp_path):
    (site,) = _sites(tmp_path, between=between)
    assert (site.why_not, site.head_dim, site.sequence) == (None, 64, 16)


@pytest.mark.parametrize(
    ("width", "fits"), [(8, False), (16, True), (20, False), (24, True), (256, True), (264, False)]
)
def test_heads_are_as_wide_as_the_fused_kernels_are(width, fits, tmp_path):
    (site,) = _sites(tmp_path, width=width)
    assert (site.why_not is None) is fits


BROKEN = {
    "a reshape before the softmax": (
        {"between": "t = Constant <value_ints = [0, 0, 0, 0]> ()\n b = Reshape(a, t)"},
        "Reshape stands between the first product and the softmax",
    ),
    "a softmax over another axis": ({"axis": 1}, "the softmax is not over the last axis"),
    "weights that are an output": ({"more": ", float[N,3,16,16] w"}, "the weights are an output of the graph"),
    "weights that are read elsewhere": (
        {"after": "z = ReduceMean <axes = [1]> (w)"},
        "the weights are read by ReduceMean too",
    ),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_attention_that_cannot_be_fused_says_why(broken, tmp_path):
    arguments, reason = broken
    (site,) = _sites(tmp_path, **arguments)
    assert site.why_not == reason


@pytest.mark.parametrize(("width", "keys", "fits"), [(64, 512, True), (64, 513, False), (40, 64, False)])
def test_at_int8_fewer_widths_and_keys_fit(width, keys, fits, tmp_path):
    graph = f"""g (float[N,3,{keys},{width}] q0, float[N,3,{width},{keys}] k0, float[N,3,{keys},{width}] v0)
        => (float[N,3,{keys},{width}] y) <float s = {{0.1}}, int8 z = {{0}}> {{
        {" ".join(f"i{t} = QuantizeLinear({t}0, s, z) {t} = DequantizeLinear(i{t}, s, z)" for t in "qkv")}
        a = MatMul(q, k)
        w = Softmax(a)
        y = MatMul(w, v) }}"""
    (site,) = lint_file(save_model(model_of(graph), tmp_path / "m.onnx"), TARGETS["trt-10.3"]).attention
    assert (site.why_not is None) is fits


def test_a_softmax_that_classifies_is_no_attention(tmp_path):
    model = model_of("g (float[N,8] x, float[8,4] w) => (float[N,4] y) { a = MatMul(x, w)\n y = Softmax(a) }")
    assert lint_file(save_model(model, tmp_path / "m.onnx"), TARGETS["trt-10.3"]).attention == ()


def test_an_attention_node_is_recognised(tmp_path):
    graph = """g (float[N,3,16,64] q, float[N,3,16,64] k, float[N,3,16,64] v) => (float[N,3,16,64] y) {
        y = Attention(q, k, v) }"""
    report = lint_file(save_model(model_of(graph, opset=23), tmp_path / "m.onnx"), TARGETS["trt-11.4"])
    assert (report.num_fused, report.findings) == (1, ())
