"""One optimization profile spans the batch sizes; a graph that is told how many tokens stay has one a budget."""

from __future__ import annotations

import pytest
from fakes.tensorrt_double import Script, make_tensorrt
from fakes.tensorrt_surface import VERSIONS

from heartvit_edge.engines.profiles import add_profiles, make_profiles
from heartvit_edge.engines.tensorrt_module import collecting_logger
from heartvit_edge.errors import CheckError
from heartvit_edge.spec.engine import BatchRange
from heartvit_edge.spec.pack import TensorInfo

IMAGES = TensorInfo(name="images", dtype="float32", shape=(None, 3, 32, 32))
KEEP = (
    TensorInfo(name="num_keep_3", dtype="int64", shape=(1,)),
    TensorInfo(name="num_keep_6", dtype="int64", shape=()),
)
BATCH = BatchRange(min=1, opt=2, max=4)
SHAPES = ((1, 3, 32, 32), (2, 3, 32, 32), (4, 3, 32, 32))


def test_a_graph_with_constant_token_counts_has_one_profile_over_its_batch_sizes():
    (profile,) = make_profiles((IMAGES,), BATCH)
    assert profile.shapes == {"images": SHAPES}
    assert profile.values == {}


def test_a_graph_that_is_told_the_token_counts_has_one_profile_a_budget():
    first, second = make_profiles(
        (IMAGES, *KEEP), BATCH, [{"num_keep_3": 137, "num_keep_6": 96}, {"num_keep_3": 64, "num_keep_6": 32}]
    )
    assert first.shapes == second.shapes == {"images": SHAPES}
    assert first.values == {"num_keep_3": ((137,),) * 3, "num_keep_6": ((96,),) * 3}
    assert second.values == {"num_keep_3": ((64,),) * 3, "num_keep_6": ((32,),) * 3}


def test_a_budget_that_leaves_a_count_open_is_refused():
    with pytest.raises(CheckError, match="no number of kept tokens for num_keep_6"):
        make_profiles((IMAGES, *KEEP), BATCH, [{"num_keep_3": 137}])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_release_takes_shapes_and_values_of_each_profile_in_order(version):
    script = Script()
    trt = make_tensorrt(version, script)
    logger, log = collecting_logger(trt)
    builder = trt.Builder(logger)
    budgets = [{"num_keep_3": count, "num_keep_6": count // 2} for count in (128, 64)]
    add_profiles(builder, builder.create_builder_config(), make_profiles((IMAGES, *KEEP), BATCH, budgets), log)
    shapes = script.arguments("IOptimizationProfile.set_shape")
    assert shapes == [dict(input="images", min=SHAPES[0], opt=SHAPES[1], max=SHAPES[2])] * 2
    values = script.arguments("IOptimizationProfile.set_shape_input")
    assert [(one["input"], one["min"], one["max"]) for one in values] == [
        ("num_keep_3", (128,), (128,)),
        ("num_keep_6", (64,), (64,)),
        ("num_keep_3", (64,), (64,)),
        ("num_keep_6", (32,), (32,)),
    ]
