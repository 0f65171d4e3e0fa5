"""The comparison of a graph with PyTorch sees what it is there to see."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from fakes.tiny_vit import images, make_vit, plan_of
from fakes.written_graph import write_graph

from heartvit_edge.errors import CheckError
from heartvit_edge.export.parity import TOLERANCE, Graph, check_parity, parity_batches
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.model.zoo import _shape


def make_gated(gate="class-attention"):
    dense = make_vit()
    return GatedViT(dense, plan_of(_shape(dense), {2: 9}), gate).eval(), _shape(dense)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    model, shape = make_gated()
    path = tmp_path_factory.mktemp("parity") / "m.onnx"
    write_graph(model, shape, path)
    return model, path


@pytest.fixture
def batches():
    return [images(4, seed=1).numpy(), images(3, seed=2).numpy()]


def shifted(model, amount):
    """Return a copy whose first logit is larger by ``amount``."""
    other = copy.deepcopy(model)
    other.backbone.head.bias[0] += amount
    return other


def test_the_graph_of_the_model_passes_and_the_figures_are_those_of_a_second_run(written, batches):
    import onnxruntime

    model, path = written
    parity = check_parity(model, Graph(path), batches, "macs-0.5")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = [model(torch.from_numpy(batch))[0].numpy() for batch in batches]
    found = [session.run(["logits"], {"images": batch})[0] for batch in batches]
    assert (parity.num_images, parity.kept_token_mismatches, parity.tolerance) == (7, 0, TOLERANCE)
    assert parity.logit_scale == pytest.approx(max(np.abs(logits).max() for logits in expected))
    largest = max(np.abs(one - other).max() for one, other in zip(expected, found, strict=True))
    assert parity.max_abs_error == pytest.approx(largest, rel=1e-3, abs=1e-7)


def test_the_error_is_the_largest_difference_of_a_logit(written, batches):
    model, path = written
    scale = max(abs(model(torch.from_numpy(batch))[0]).max().item() for batch in batches)
    amount = 0.5 * TOLERANCE * scale
    assert check_parity(shifted(model, amount), Graph(path), batches, "x").max_abs_error == pytest.approx(
        amount, rel=0.05
    )


def test_logits_beyond_the_tolerance_fail_and_the_entry_is_named(written, batches):
    model, path = written
    with pytest.raises(
        CheckError, match=r"macs-0\.5: logits differ from PyTorch by 0\.1, more than 0\.0001 of"
    ) as caught:
        check_parity(shifted(model, 0.1), Graph(path), batches, "macs-0.5")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("size", [4, 3])
def test_a_difference_in_one_batch_alone_is_seen(written, batches, size):
    model, path = written

    class OffInBatchesOfThatSize(torch.nn.Module):
        def forward(self, inputs):
            logits, kept = model(inputs)
            return logits + (0.1 if len(inputs) == size else 0), kept

    with pytest.raises(CheckError, match="logits differ"):
        check_parity(OffInBatchesOfThatSize(), Graph(path), batches, "x")


def test_a_graph_that_keeps_other_tokens_fails_even_where_no_logits_can_be_compared(written, batches):
    other, _ = make_gated("attention-received")
    with pytest.raises(CheckError, match="7 of 7 images keep other tokens than in PyTorch"):
        check_parity(other, Graph(written[1]), batches, "x")


def test_one_image_in_fifty_may_keep_another_token_and_its_logits_are_not_compared(written):
    model, path = written
    batch = images(50, seed=3).numpy()

    class OtherTokenOnce(torch.nn.Module):
        def __init__(self, count):
            super().__init__()
            self.count = count

        def forward(self, inputs):
            logits, kept = model(inputs)
            logits, kept = logits.clone(), kept.clone()
            logits[: self.count] += 9
            kept[: self.count, 0] = -1
            return logits, kept

    parity = check_parity(OtherTokenOnce(1), Graph(path), [batch], "x")
    assert parity.kept_token_mismatches == 1
    assert parity.max_abs_error < 1e-4 * parity.logit_scale
    with pytest.raises(CheckError, match="2 of 50 images keep other tokens"):
        check_parity(OtherTokenOnce(2), Graph(path), [batch], "x")


def test_one_image_in_fifty_may_merge_a_token_into_another_and_no_more(tmp_path):
    dense = make_vit()
    model = GatedViT(dense, plan_of(_shape(dense), {2: 9}), None, "merge").eval()
    write_graph(model, _shape(dense), tmp_path / "m.onnx")
    batch = images(50, seed=3).numpy()

    class OtherLogits(torch.nn.Module):
        def __init__(self, count):
            super().__init__()
            self.count = count

        def forward(self, inputs):
            logits, kept = model(inputs)
            logits = logits.clone()
            logits[: self.count] += 1
            return logits, kept

    assert check_parity(model, Graph(tmp_path / "m.onnx"), [batch], "x", merges=True).kept_token_mismatches == 0
    parity = check_parity(OtherLogits(1), Graph(tmp_path / "m.onnx"), [batch], "x", merges=True)
    assert parity.kept_token_mismatches == 1
    assert parity.max_abs_error < 1e-4 * parity.logit_scale
    with pytest.raises(CheckError, match="2 of 50 images keep or merge other tokens"):
        check_parity(OtherLogits(2), Graph(tmp_path / "m.onnx"), [batch], "x", merges=True)
    with pytest.raises(CheckError, match="logits differ"):
        check_parity(OtherLogits(1), Graph(tmp_path / "m.onnx"), [batch], "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_fail(tmp_path, batches, value):
    model, shape = make_gated()
    model.backbone.head.bias[1] = value
    write_graph(model, shape, tmp_path / "m.onnx")
    with pytest.raises(CheckError, match=r"macs-0\.5: the logits are not all finite") as caught:
        check_parity(model, Graph(tmp_path / "m.onnx"), batches, "macs-0.5")
    assert "weights" in caught.value.hint


def test_each_batch_size_is_tried_in_turn_and_every_image_is_in_one_batch():
    stack = np.arange(20, dtype=np.float32).reshape(20, 1, 1, 1)
    found = parity_batches(stack, (1, 2, 8))
    assert [len(batch) for batch in found] == [1, 2, 8, 1, 2, 6]
    assert np.concatenate(found).tolist() == stack.tolist()


def test_the_batch_sizes_that_were_compared_are_stored(written):
    model, path = written
    parity = check_parity(model, Graph(path), [images(3).numpy(), images(1).numpy(), images(3).numpy()], "x")
    assert parity.batch_sizes == (1, 3)
