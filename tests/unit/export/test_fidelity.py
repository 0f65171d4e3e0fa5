"""How close two graphs are: figures against closed forms, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from fakes.other_precisions import compare_graphs
from onnx import TensorProto, helper, numpy_helper
from scipy.special import rel_entr, softmax

from heartvit_edge.errors import CheckError
from heartvit_edge.export.fidelity import check_half, kl_nats
from heartvit_edge.export.half_rounding import open_rounded
from heartvit_edge.graph.half import write_half
from heartvit_edge.spec.precision import Fidelity

LOGITS = np.array([[3.0, 4.0, 0.0], [1.0, 0.0, 0.0]], dtype=np.float32)


@pytest.fixture
def save(tmp_path):
    """Return a function that writes a graph ``images`` (B, 3) -> ``images * scale + shift`` and kept tokens."""

    def run(name, scale=(1, 1, 1), shift=(0, 0, 0), kept=None):
        nodes = [
            helper.make_node("Mul", ["images", "scale"], ["scaled"], "scale_node"),
            helper.make_node("Add", ["scaled", "shift"], ["logits"], "shift_node"),
        ]
        weights = {"scale": np.array(scale, dtype=np.float32), "shift": np.array(shift, dtype=np.float32)}
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])]
        if kept is not None:
            weights["tokens"] = np.array(kept, dtype=np.int32)
            nodes.append(helper.make_node("Identity", ["tokens"], ["kept_1"], "kept_node"))
            outputs.append(helper.make_tensor_value_info("kept_1", TensorProto.INT32, ["batch", len(kept[0])]))
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3])
        stored = [numpy_helper.from_array(value, key) for key, value in weights.items()]
        graph = helper.make_graph(nodes, "g", [images], outputs, stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save_model(model, tmp_path / f"{name}.onnx")
        return tmp_path / f"{name}.onnx"

    return run


def test_kl_is_scipys():
    other = LOGITS + np.array([[0.5, -0.25, 0], [0, 2, 0]], dtype=np.float32)
    expected = rel_entr(softmax(LOGITS, axis=1), softmax(other, axis=1)).sum(axis=1)
    np.testing.assert_allclose(kl_nats(LOGITS, other), expected, rtol=1e-6)


def test_a_graph_is_as_close_as_can_be_to_itself(save):
    found = compare_graphs(save("a"), save("b"), [{"images": LOGITS}], "int8")
    assert found == Fidelity(
        num_images=2,
        cosine=1,
        same_tokens_cosine=1,
        kl_nats=0,
        num_agreeing=2,
        num_other_tokens=0,
        kept_overlap=1,
    )


def test_figures_are_those_of_the_logits_over_all_batches(save):
    feeds = [{"images": LOGITS[:1]}, {"images": LOGITS[1:]}]
    found = compare_graphs(save("a"), save("b", shift=(0, 0, 5)), feeds, "int8")
    other = LOGITS + np.array([0, 0, 5], dtype=np.float32)
    cosines = [25 / (5 * np.sqrt(50)), 1 / np.sqrt(26)]
    assert found.cosine == pytest.approx(np.mean(cosines))
    assert found.same_tokens_cosine == pytest.approx(np.mean(cosines))
    assert found.kl_nats == pytest.approx(rel_entr(softmax(LOGITS, 1), softmax(other, 1)).sum(axis=1).mean(), rel=1e-6)
    assert (found.num_images, found.num_agreeing, found.agreement) == (2, 0, 0.0)


def test_an_image_that_keeps_other_tokens_is_counted_and_its_logits_are_not_of_the_same_tokens(save):
    reference = save("a", kept=[[0, 1], [0, 2]])
    other = save("b", shift=(0, 0, 5), kept=[[0, 1], [1, 2]])
    found = compare_graphs(reference, other, [{"images": LOGITS}], "int8")
    assert found.num_other_tokens == 1
    assert found.same_tokens_cosine == pytest.approx(25 / (5 * np.sqrt(50)))
    assert found.kept_overlap == 0.75
    everywhere = save("c", kept=[[1, 1], [1, 2]])
    assert compare_graphs(reference, everywhere, [{"images": LOGITS}], "int8").same_tokens_cosine is None


def test_every_value_of_an_fp16_graph_is_rounded_as_numpy_rounds(save, shape):
    """The product and the sum are each rounded, where ONNX Runtime alone would round neither."""
    scale, shift = (3.7, 1.001, 0.3), (1000.0, -1.0, 0.1)
    reference = save("a", scale, shift)
    half = reference.with_name("half.onnx")
    write_half(reference, half, shape)
    session = open_rounded(half)
    images = np.random.default_rng(0).normal(0, 2, (50, 3)).astype(np.float32)
    expected = images.astype(np.float16) * np.array(scale, np.float16) + np.array(shift, np.float16)
    np.testing.assert_array_equal(session.run(None, {"images": images})[0], expected.astype(np.float32))


def test_a_value_between_that_fp16_cannot_hold_is_seen(save, shape):
    """Twice 6e4 is beyond FP16's 65504, though the output is small again."""
    reference = save("a", scale=(6e4, 1, 1), shift=(-6e4, 0, 0))
    half = reference.with_name("half.onnx")
    write_half(reference, half, shape)
    with pytest.raises(CheckError, match=r"half: the logits are not all finite, in FP32 they are") as caught:
        compare_graphs(reference, half, [{"images": np.full((1, 3), 2, dtype=np.float32)}], "fp16")
    assert caught.value.exit_code == 5


@pytest.fixture
def shape():
    from fakes.tiny_pack import SHAPE

    return SHAPE


def test_fp16_needs_a_mean_cosine_of_four_nines_where_tokens_are_the_same_and_nearly_all_tokens():
    close = Fidelity(
        num_images=64,
        cosine=0.99,
        same_tokens_cosine=0.9999,
        kl_nats=0.0,
        num_agreeing=64,
        num_other_tokens=14,
        kept_overlap=0.9,
    )
    check_half(close, "dense.fp16")
    with pytest.raises(CheckError, match=r"dense\.fp16: .* is 0\.999890 on the 50 images .* expected 0\.9999"):
        check_half(close.model_copy(update={"same_tokens_cosine": 0.99989}), "dense.fp16")
    with pytest.raises(CheckError, match=r"in FP32 is unknown on the 0 images that keep the same tokens"):
        check_half(close.model_copy(update={"same_tokens_cosine": None, "num_other_tokens": 64}), "x")
    with pytest.raises(CheckError, match=r"89\.9% of the tokens that it keeps are those that FP32 keeps, expected 90%"):
        check_half(close.model_copy(update={"kept_overlap": 0.899}), "x")


def test_of_a_few_images_all_may_keep_another_token_and_none_may_keep_quite_others():
    close = Fidelity(
        num_images=11,
        cosine=0.97,
        same_tokens_cosine=None,
        kl_nats=0.01,
        num_agreeing=11,
        num_other_tokens=11,
        kept_overlap=0.95,
    )
    check_half(close, "x", few=True)
    with pytest.raises(CheckError, match=r"x: 85\.0% of the tokens"):
        check_half(close.model_copy(update={"kept_overlap": 0.85}), "x", few=True)
    with pytest.raises(CheckError, match="mean cosine"):
        check_half(close.model_copy(update={"same_tokens_cosine": 0.99}), "x", few=True)
