"""One graph for any number of tokens: it answers as the model of each plan, whatever is fused or merged."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fakes.tiny_vit import images, make_vit, plan_of
from fakes.written_graph import write_graph

from heartvit_edge.errors import InputError
from heartvit_edge.export.any_count import AnyCountViT, check_counts, count_limits, sweep
from heartvit_edge.gating.gate import default_gate
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.reduce import reduction_at
from heartvit_edge.gating.token_gate import make_token_gate
from heartvit_edge.model.zoo import _shape

HEADS = {0: [0, 2, 3], 2: [1]}
SITES = (1, 3)
NUM_PATCHES = 16
FORBIDDEN = {"NonZero", "If", "Loop", "Scan", "Unique", "Compress", "ScatterND", "ScatterElements"}


def gated(variant, counts, reduction="drop", *, learned=False):
    dense = make_vit(variant)
    shape = _shape(dense)
    plan = plan_of(shape, {site: shape.num_prefix_tokens + k for site, k in zip(SITES, counts, strict=True)}, HEADS)
    gate = None if reduction == "merge" else default_gate(shape)
    if learned:
        torch.manual_seed(0)
        gate = make_token_gate(plan)
    return GatedViT(dense, plan, gate, reduction).eval(), shape


def session_of(path, save_to=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


CASES = [
    ("plain", "drop", False),
    ("registers", "fuse", False),
    ("average pooling", "fuse", False),
    ("plain", "merge", False),
    ("average pooling", "merge", False),
    ("average pooling", "join", True),
    ("average pooling without class token", "drop", True),
]


@pytest.mark.parametrize(("variant", "reduction", "learned"), CASES)
def test_one_graph_answers_as_the_model_of_each_plan_at_every_batch_size(tmp_path, variant, reduction, learned):
    model, shape = gated(variant, (9, 6), reduction, learned=learned)
    write_graph(AnyCountViT(model), shape, tmp_path / "m.onnx")
    operators = {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    assert not operators & FORBIDDEN
    session = session_of(tmp_path / "m.onnx")
    reductions = [reduction_at(reduction, site, shape.depth) for site in SITES]
    for number, counts in enumerate(sweep([(9, 6), (12, 7)], reductions, NUM_PATCHES)):
        batch = (1, 2, 5)[number % 3]
        feeds = {f"num_keep_{site}": np.array(count) for site, count in zip(SITES, counts, strict=True)}
        logits, *kept = session.run(None, feeds | {"images": images(batch, seed=number).numpy()})
        if counts[0] < NUM_PATCHES and counts[1] < counts[0]:  # a plan of its own
            constant, _ = gated(variant, counts, reduction)
            constant.gate = model.gate
            expected, *expected_kept = constant(images(batch, seed=number))
        else:
            tensors = [torch.tensor(count) for count in counts]
            expected, *expected_kept = AnyCountViT(model)(images(batch, seed=number), *tensors)
        assert abs(logits - expected.detach().numpy()).max() <= 2e-5 * abs(logits).max()
        assert [found.tolist() for found in kept] == [found.tolist() for found in expected_kept]


def test_keeping_every_token_is_the_dense_model(tmp_path):
    model, shape = gated("plain", (9, 6))
    write_graph(AnyCountViT(model), shape, tmp_path / "m.onnx")
    feeds = {f"num_keep_{site}": np.array(NUM_PATCHES) for site in SITES}
    logits, *kept = session_of(tmp_path / "m.onnx").run(None, feeds | {"images": images(3).numpy()})
    whole, _ = gated("plain", (9, 6))
    dense = GatedViT(make_vit(), plan_of(shape, kept_heads=HEADS), None).eval()
    assert torch.equal(whole.backbone.head.weight, dense.backbone.head.weight)
    assert abs(logits - dense(images(3))[0].numpy()).max() <= 1e-5 * abs(logits).max()
    assert all(found.tolist() == [list(range(NUM_PATCHES))] * 3 for found in kept)


def test_onnx_runtime_fuses_as_much_as_in_the_graph_of_constant_counts(tmp_path):
    model, shape = gated("plain", (9, 6))
    counts = []
    for name, source in (("constant", model), ("any", AnyCountViT(model))):
        write_graph(source, shape, tmp_path / f"{name}.onnx")
        session_of(tmp_path / f"{name}.onnx", tmp_path / f"{name}.opt.onnx")
        nodes = onnx.load(tmp_path / f"{name}.opt.onnx").graph.node
        counts.append(collections.Counter(node.op_type for node in nodes))
    constant, any_count = counts
    assert constant["FusedMatMul"] == constant["BiasGelu"] == shape.depth
    more = {name: any_count[name] - constant[name] for name in any_count | constant}
    shapes = {"Reshape", "Slice", "Split", "Shape", "Gather", "Unsqueeze", "Concat", "Cast"}
    assert {name for name, count in more.items() if count} <= shapes
    assert sum(abs(count) for count in more.values()) <= 4 * len(SITES)


def test_the_inputs_are_images_and_one_number_a_site(tmp_path):
    model, shape = gated("plain", (9, 6))
    write_graph(AnyCountViT(model), shape, tmp_path / "m.onnx")
    found = onnx.load(tmp_path / "m.onnx").graph
    kinds = [(info.name, info.type.tensor_type.elem_type, len(info.type.tensor_type.shape.dim)) for info in found.input]
    integer = onnx.TensorProto.INT64
    assert kinds == [("images", onnx.TensorProto.FLOAT, 4), ("num_keep_1", integer, 0), ("num_keep_3", integer, 0)]
    assert [info.name for info in found.output] == ["logits", "kept_1", "kept_3"]


@pytest.mark.parametrize("reduction", ["drop", "fuse", "join", "merge"])
def test_the_sweep_has_the_plans_the_fewest_and_the_most_and_all_within_the_limits(reduction):
    reductions = [reduction_at(reduction, site, 12) for site in (3, 6, 9)]
    found = sweep([(100, 60, 40)], reductions, 196)
    assert found[0] == (100, 60, 40)
    assert len(found) == 6
    for counts in found:
        entering = 196
        for one, count in zip(reductions, counts, strict=True):
            fewest, most = count_limits(one, entering)
            assert fewest <= count <= most
            entering = count
    ends = {
        "drop": ((1, 1, 1), (196,) * 3),
        "fuse": ((4, 3, 2), (195, 194, 193)),
        "join": ((3, 2, 1), (196, 195, 194)),
        "merge": ((98, 49, 25), (195, 194, 193)),
    }
    assert (found[1], found[-1]) == ends[reduction]


def test_a_site_that_merges_more_than_half_is_refused_with_what_can_be_done():
    check_counts((98, 49), SITES, ["merge"] * 2, 196)
    check_counts((1, 1), SITES, ["drop"] * 2, 196)
    check_counts((2, 1), SITES, ["drop", "join"], 196)
    with pytest.raises(InputError, match=r"keeps 48 of 98 patch tokens at block 3, .* leaves at least 49") as caught:
        check_counts((98, 48), SITES, ["drop", "merge"], 196)
    assert "--form static" in caught.value.hint
