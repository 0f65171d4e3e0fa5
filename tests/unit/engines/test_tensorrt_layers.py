"""The layer table is what the engine inspector says: precision of each layer, and attention that is one kernel."""

from __future__ import annotations

import json

import pytest

from heartvit_edge.engines.tensorrt_layers import parse_layers
from heartvit_edge.errors import CheckError


def layer(name, written, *, kind="kgen", tactic="", metadata=""):
    """Return a layer as the inspector of TensorRT 10 writes it."""
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{"Name": "x", "Format/Datatype": "Float"}],
        "Outputs": [{"Name": "y", "Dimensions": [1, 3], "Format/Datatype": text} for text in written],
        "TacticName": tactic,
        "StreamId": 0,
        "Metadata": metadata,
    }


def table(*layers):
    """Return the layers of the inspector's JSON."""
    return parse_layers(json.dumps({"Layers": layers, "Bindings": ["images", "logits"]}), "0" * 64)


@pytest.mark.parametrize(
    ("written", "precision"),
    [
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("Row major linear FP16 format", "fp16"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Row major linear FP32", "fp32"),
        ("Row major Int8 format", "int8"),
        ("BFloat16", "bf16"),
        ("Int64", "int64"),
        ("Row major linear BOOL", "bool"),
        ("N/A due to dynamic shapes", "N/A due to dynamic shapes"),
    ],
)
def test_the_precision_is_that_of_what_the_layer_gives(written, precision):
    assert table(layer("a", [written])).layers[0].precision == precision


def test_a_layer_of_several_outputs_or_none_says_so():
    found = table(layer("a", ["Half", "Half", "Int32"]), layer("b", []))
    assert [one.precision for one in found.layers] == ["fp16+int32", "none"]


def test_layers_are_counted_by_precision_the_most_frequent_first():
    found = table(layer("a", ["Float"]), layer("b", ["Half"]), layer("c", ["Half"]))
    assert list(found.by_precision().items()) == [("fp16", 2), ("fp32", 1)]


def test_the_graph_s_nodes_are_read_from_the_metadata():
    found = table(layer("a", ["Half"], metadata="[ONNX Layer: /norm/Cast][ONNX Layer: /norm/LayerNormalization]"))
    assert found.layers[0].nodes == ("/norm/Cast", "/norm/LayerNormalization")


def test_attention_in_one_kernel_is_known_by_the_kernel_and_not_by_the_graph_s_names():
    found = table(
        layer("_gemm_mha_v2_myl0_6", ["Half"]),
        layer("__mye8037_gemm_mha_v2", ["Half"]),
        layer("fused", ["Half"], tactic="sm80_fmha_v2_f16_64_S_32_sm86"),
        layer("/encoder/layers_1/mha/attn/value/MatMul_myl0_9", ["Half"], kind="gemm", tactic="sm80_xmma_gemm_f16"),
        layer("/blocks.0/attn/Softmax", ["Float"], metadata="[ONNX Layer: /blocks.0/attention/fmha]"),
    )
    assert found.num_fused_attention == 3


def test_where_a_region_s_inside_is_not_told_the_number_is_unknown():
    region = layer("{ForeignNode[/blocks.0/Add.../head/Gemm]}", ["Float"], kind="Myelin")
    assert table(region).num_fused_attention is None
    assert table(region, layer("a", ["Half"], tactic="fmha_v2_flash_attention_fp16")).num_fused_attention == 1


def test_a_later_spelling_of_the_data_type_is_read():
    described = layer("a", [])
    described["Outputs"] = [{"Name": "y", "Format": "Row major linear", "Datatype": "FP16"}]
    assert table(described).layers[0].precision == "fp16"


@pytest.mark.parametrize("text", ["", "{", '{"Layers": ["a", "b"]}', '{"Bindings": []}', '{"Layers": [{"Name": "a"}]}'])
def test_a_table_that_cannot_be_read_is_an_error(text):
    with pytest.raises(CheckError, match="the engine inspector's table cannot be read"):
        parse_layers(text, "0" * 64)


def test_a_profiles_layers_are_those_that_end_in_its_number():
    text = json.dumps({"Layers": [layer(name, ["Half"]) for name in ("a", "b", "a [profile 1]", "a [profile 10]")]})
    assert [[one.name for one in parse_layers(text, "0" * 64, number).layers] for number in (0, 1, 10)] == [
        ["a", "b"],
        ["a [profile 1]"],
        ["a [profile 10]"],
    ]


def test_layers_that_do_not_name_their_profile_are_given_to_none():
    text = json.dumps({"Layers": [layer("a", ["Half"]), layer("a", ["Half"])]})
    assert len(parse_layers(text, "0" * 64).layers) == 2
    with pytest.raises(CheckError, match="does not say which optimization profile"):
        parse_layers(text, "0" * 64, 0)
