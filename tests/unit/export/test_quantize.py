"""INT8 in the graph: where pairs stand, what scales they have, and that their arithmetic is that of integers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from fakes.other_precisions import compare_graphs, write_precisions
from fakes.tiny_vit import images, make_vit, plan_of
from fakes.written_graph import write_graph

from heartvit_edge.errors import CheckError, InputError
from heartvit_edge.export.precision import Precisions, describe
from heartvit_edge.export.quantize import add_switches, find_layers, quantize
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.graph.half import write_half
from heartvit_edge.model.zoo import _shape

FEEDS = [{"images": images(8, seed=1).numpy()}, {"images": images(4, seed=2).numpy()}]
BLOCK = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return the FP32 graph of a pruned tiny ViT, and its dense shape."""
    dense = make_vit()
    shape = _shape(dense)
    path = tmp_path_factory.mktemp("int8") / "m.onnx"
    write_graph(GatedViT(dense, plan_of(shape, {1: 12, 2: 9}), "class-attention").eval(), shape, path)
    return path, shape


@pytest.fixture
def copied(exported, tmp_path):
    """Return a copy of the graph, beside which others may be written, and the shape."""
    return Path(shutil.copy(exported[0], tmp_path / "m.onnx")), exported[1]


@pytest.fixture(scope="module")
def written(exported):
    """Return the INT8 graph and what the pack says of it."""
    path, shape = exported
    (graph,) = write_precisions(path, shape, Precisions(("int8",), "minmax", 1.0, FEEDS), FEEDS)
    return path.with_name(graph.onnx), graph


def constants(model):
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def producers(model):
    return {name: node for node in model.graph.node for name in node.output}


def test_layers_are_found_by_their_names_in_order_without_the_products_of_attention(exported):
    path, shape = exported
    blocks = [f"blocks.{block}.{layer}" for block in range(4) for layer in BLOCK]
    assert list(find_layers(onnx.load(path).graph, shape)) == ["patch_embed.proj", *blocks, "head"]


@pytest.mark.parametrize("variant", ["no query, key and value bias", "SwiGLU", "average pooling"])
def test_layers_of_other_vits_are_as_many_as_there_are_linear_layers(tmp_path, variant):
    from torch import nn

    dense = make_vit(variant)
    write_graph(GatedViT(dense, plan_of(_shape(dense)), None).eval(), _shape(dense), tmp_path / "m.onnx")
    layers = find_layers(onnx.load(tmp_path / "m.onnx").graph, _shape(dense))
    assert len(layers) == sum(isinstance(module, (nn.Linear, nn.Conv2d)) for module in dense.modules())


def test_inputs_and_weights_of_layers_have_pairs_and_nothing_else_has(written, exported):
    model = onnx.load(written[0])
    made = producers(model)
    layers = {node.name for node in find_layers(onnx.load(exported[0]).graph, exported[1]).values()}
    for node in model.graph.node:
        kinds = [made[name].op_type if name in made else "" for name in node.input]
        if node.name in layers:
            assert kinds[:2] == ["DequantizeLinear"] * 2, node.name
            assert "DequantizeLinear" not in kinds[2:], node.name  # biases
        elif node.op_type == "DequantizeLinear":
            assert kinds[0] == "QuantizeLinear"
        else:
            assert "DequantizeLinear" not in kinds, node.name


def test_zero_points_are_0_and_scales_are_the_largest_magnitude_over_127(written, exported):
    model, values = onnx.load(written[0]), constants(onnx.load(written[0]))
    session = onnxruntime.InferenceSession(exported[0], providers=["CPUExecutionProvider"])
    assert len(session.get_outputs()) == 3
    pixels = max(np.abs(feed["images"]).max() for feed in FEEDS)
    seen = 0
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        scale, zero = (values[name] for name in node.input[1:])
        assert zero.dtype == np.int8
        assert not zero.any()
        if node.input[0] in values:
            weight = values[node.input[0]]
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            others = tuple(index for index in range(weight.ndim) if index != axis)
            np.testing.assert_allclose(scale, np.abs(weight).max(axis=others) / 127, rtol=1e-6)
            seen += 1
        elif node.input[0] == "images":
            assert scale == pytest.approx(pixels / 127)
            seen += 1
    assert seen == 19


def test_a_layer_answers_as_the_product_of_integers():
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weight = random.normal(0, 1, (6, 4)).astype(np.float32)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in (("x", 6), ("y", 4))
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "layer")],
        "g",
        ends[:1],
        ends[1:],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    values = random.normal(0, 1, (3, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        quantize(model, ["layer"], {"x": 1.5}).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    scale, scales = np.float32(1.5 / 127), np.abs(weight).max(axis=0) / 127
    inputs = np.rint(values / scale).clip(-128, 127).astype(np.int64)
    expected = (inputs @ np.rint(weight / scales).astype(np.int64)) * (scale * scales)
    np.testing.assert_allclose(session.run(None, {"x": values})[0], expected, rtol=1e-5)


def test_onnxruntime_runs_the_products_of_the_blocks_on_integers(written, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that such a file is for one machine
    onnxruntime.InferenceSession(written[0], options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert operators.count("MatMulIntegerToFloat") == 16
    assert "MatMul" in operators  # those of attention, which are not quantised


def test_switches_turn_the_graph_into_the_exact_one_and_the_quantised_one(exported, written):
    path, shape = exported
    model = onnx.load(path)
    layers = find_layers(model.graph, shape)
    whole = onnx.load(written[0])
    names = {node.name: f"{layer}.on" for layer, node in layers.items()}
    add_switches(whole, names)
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    for on, file in ((False, path), (True, written[0])):
        alone = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        switches = {switch: np.array(on) for switch in names.values()}
        found, expected = session.run(["logits"], FEEDS[0] | switches)[0], alone.run(["logits"], FEEDS[0])[0]
        np.testing.assert_allclose(found, expected, atol=2e-2 if on else 1e-5)  # a rounding may fall the other way


def test_int8_is_close_to_fp32_and_says_how_it_was_made(written):
    graph = written[1]
    assert graph.fidelity.num_images == 12
    assert graph.fidelity.cosine > 0.99
    assert (graph.quantization.calibration, graph.quantization.num_images) == ("minmax", 12)
    assert (graph.quantization.num_quantized, graph.quantization.left_out) == (18, ())
    agreeing = f"m.int8: {graph.fidelity.num_agreeing} of 12 images are given the class of FP32"
    assert describe("m", graph).startswith(agreeing)


def test_without_a_loss_to_allow_layers_are_left_out_the_most_harmful_first(copied, written):
    path, shape = copied
    limit = written[1].quantization.loss_nats / 4
    (graph,) = write_precisions(path, shape, Precisions(("int8",), "minmax", limit, FEEDS), FEEDS)
    made = graph.quantization
    assert 0 < made.num_quantized < 18
    assert made.loss_nats <= limit
    assert made.num_quantized + len(made.left_out) == 18
    losses = [layer.loss_nats for layer in made.left_out]
    assert losses == sorted(losses, reverse=True)
    pairs = sum(node.op_type == "QuantizeLinear" for node in onnx.load(path.with_name(graph.onnx)).graph.node)
    assert pairs == 2 * made.num_quantized
    text = describe("m", graph)
    assert f"{len(losses)} left out for what each loses alone, in nats: {made.left_out[0].name} (" in text


def test_a_limit_that_no_layer_meets_is_a_failed_check(copied):
    path, shape = copied
    with pytest.raises(CheckError, match=r"m\.int8: no layer can be INT8 within 0 nats; .* alone loses") as caught:
        write_precisions(path, shape, Precisions(("int8",), "minmax", 0.0, FEEDS), FEEDS)
    assert caught.value.hint.startswith("allow more, such as --int8-loss ")


def test_int8_without_images_is_refused():
    with pytest.raises(InputError, match="INT8 needs images"):
        Precisions(("int8",))


def test_a_graph_that_is_fp16_already_has_nothing_to_quantise(exported, tmp_path):
    path, shape = exported
    write_half(path, tmp_path / "half.onnx", shape)
    with pytest.raises(CheckError, match="no matrix product with FP32 weights"):
        write_precisions(tmp_path / "half.onnx", shape, Precisions(("int8",), "minmax", 1.0, FEEDS), FEEDS)
    with pytest.raises(CheckError, match="has FP16 weights already"):
        write_precisions(tmp_path / "half.onnx", shape, Precisions(("fp16",)), FEEDS)


def test_the_rest_of_an_int8_graph_can_be_fp16_and_its_products_stay_int8(exported, written, tmp_path):
    """What TensorRT 10 and later are given: Q/DQ pairs in FP16 need opset 19."""
    write_half(written[0], tmp_path / "both.onnx", exported[1])
    model = onnx.load(tmp_path / "both.onnx")
    values = constants(model)
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) == 4 * 18
    assert {values[node.input[1]].dtype for node in pairs} == {np.dtype(np.float16)}
    assert model.opset_import[0].version == 19
    both, alone = (
        compare_graphs(exported[0], path, FEEDS, "int8").cosine for path in (tmp_path / "both.onnx", written[0])
    )
    assert both == pytest.approx(alone, abs=2e-3)


WRITE = """
import sys, numpy as np
from pathlib import Path
from fakes.other_precisions import write_precisions
from heartvit_edge.export.precision import Precisions
from heartvit_edge.spec.model import ModelShape
feeds = [{"images": np.load(sys.argv[2])}]
shape = ModelShape.model_validate_json(sys.argv[3])
for graph in write_precisions(Path(sys.argv[1]), shape, Precisions(("fp16", "int8"), "entropy", 1.0, feeds), feeds):
    print(graph.onnx_sha256)
"""


def test_two_processes_write_the_same_bytes(exported, tmp_path):
    path, shape = exported
    np.save(tmp_path / "images.npy", FEEDS[0]["images"])
    found = []
    for seed in ("1", "2"):
        copy = tmp_path / seed / "m.onnx"
        copy.parent.mkdir()
        copy.write_bytes(path.read_bytes())
        done = subprocess.run(
            [sys.executable, "-c", WRITE, copy, tmp_path / "images.npy", shape.model_dump_json()],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        )
        found.append(done.stdout.split())
    assert found[0] == found[1]
    assert len(found[0]) == 2
