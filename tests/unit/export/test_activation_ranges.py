"""The range that INT8 covers, against numpy's own percentiles and distributions whose answer is known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from heartvit_edge.errors import CheckError
from heartvit_edge.export.activation_ranges import (
    NUM_BINS,
    NUM_LEVELS,
    PERCENTILE,
    entropy_bins,
    histogram,
    measure_ranges,
    percentile_bins,
)


@pytest.fixture
def graph(tmp_path):
    """Return a graph that doubles its input ``x`` into ``twice``, and takes the root of ``twice`` as its output."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"], "double"),
        helper.make_node("Sqrt", ["twice"], ["root"], "sqrt"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1000]) for name in ("x", "root")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save_model(model, tmp_path / "g.onnx")
    return tmp_path / "g.onnx"


def batches(*sizes, scale=1.0, seed=0):
    """Return batches of normal noise, the last ten times as large."""
    random = np.random.default_rng(seed)
    found = [{"x": random.normal(0, scale, (size, 1000)).astype(np.float32)} for size in sizes]
    found[-1]["x"] *= 10
    return found


def test_minmax_is_the_largest_magnitude_of_all_batches_of_inputs_and_inner_tensors(graph):
    feeds = batches(2, 3, 1)
    largest = max(float(np.abs(feed["x"]).max()) for feed in feeds)
    assert measure_ranges(graph, ["x", "twice"], feeds, "minmax") == {"x": largest, "twice": 2 * largest}


def test_percentile_is_numpys_over_all_batches_to_within_a_bin(graph):
    feeds = batches(20, 20, 20)
    values = np.abs(np.concatenate([feed["x"].ravel() for feed in feeds])).astype(np.float64)
    found = measure_ranges(graph, ["twice"], feeds, "percentile")["twice"]
    assert found == pytest.approx(2 * np.percentile(values, PERCENTILE), abs=2 * 2 * values.max() / NUM_BINS)
    assert found < 2 * values.max()


@pytest.mark.parametrize("calibration", ["entropy", "percentile", "minmax"])
def test_how_images_are_split_into_batches_does_not_matter(graph, calibration):
    whole = batches(6)
    split = [{"x": whole[0]["x"][:1]}, {"x": whole[0]["x"][1:]}]
    names = ["x", "twice"]
    assert measure_ranges(graph, names, whole, calibration) == measure_ranges(graph, names, split, calibration)


def test_a_histogram_is_numpys_of_the_magnitudes():
    values = np.random.default_rng(0).normal(0, 3, (4, 500)).astype(np.float32)
    largest = float(np.abs(values).max())
    expected, _ = np.histogram(np.abs(values.astype(np.float64)), bins=NUM_BINS, range=(0, largest))
    found = histogram(values, largest)
    assert found.sum() == values.size
    assert np.abs(found.cumsum() - expected.cumsum()).max() <= 2  # values on an edge


def test_a_tensor_of_zeros_lies_in_the_first_bin():
    assert histogram(np.zeros((2, 3), dtype=np.float32), 0.0).tolist() == [6] + [0] * (NUM_BINS - 1)


def test_entropy_keeps_all_of_an_even_distribution_and_clips_a_lone_outlier():
    even = np.full(NUM_BINS, 100)
    assert entropy_bins(even) == NUM_BINS
    outlier = np.zeros(NUM_BINS, dtype=np.int64)
    outlier[: 2 * NUM_LEVELS] = np.linspace(20_000, 100, 2 * NUM_LEVELS).astype(np.int64)
    outlier[-1] = 1
    assert NUM_LEVELS <= entropy_bins(outlier) <= 3 * NUM_LEVELS


def test_percentile_counts_bins_from_one():
    assert percentile_bins(np.array([10, 0, 0])) == 1
    assert percentile_bins(np.array([1, 1])) == 2


def test_an_activation_that_is_not_finite_is_named(graph):
    feeds = [{"x": np.full((1, 1000), -1, dtype=np.float32)}]
    with pytest.raises(CheckError, match=r"activation root of g\.onnx is not finite"):
        measure_ranges(graph, ["root"], feeds, "minmax")
