"""A model's dimensions."""

from __future__ import annotations

import pytest
from fakes.small_plans import SHAPE, VIT_B
from pydantic import ValidationError

from heartvit_edge.spec.model import ModelShape


def _shape(**changes):
    return ModelShape(**SHAPE.model_dump() | changes)


def test_vit_b_has_14_by_14_patches_and_a_class_token():
    assert (VIT_B.grid_size, VIT_B.num_patches, VIT_B.num_tokens) == (14, 196, 197)


def test_a_model_may_have_no_prefix_token():
    assert _shape(num_prefix_tokens=0, pool="avg").num_tokens == 16


def test_patches_must_tile_the_image():
    with pytest.raises(ValidationError, match="img_size 30 is not a multiple of patch_size 8"):
        _shape(img_size=30)


def test_there_are_no_fewer_than_no_prefix_tokens():
    with pytest.raises(ValidationError, match="num_prefix_tokens must not be negative, found -1"):
        _shape(num_prefix_tokens=-1)


@pytest.mark.parametrize(
    "name", ["img_size", "patch_size", "embed_dim", "depth", "num_heads", "head_dim", "num_classes"]
)
def test_every_dimension_is_positive(name):
    with pytest.raises(ValidationError, match=name):
        _shape(**{name: 0})


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValidationError, match="'token', 'token\\+distillation' or 'avg'"):
        _shape(pool="map")


@pytest.mark.parametrize(
    ("depth", "blocks"), [(12, (3, 6, 9)), (24, (6, 12, 18)), (4, (1, 2, 3)), (3, (1, 2)), (2, (1,)), (1, ())]
)
def test_quarter_blocks_lie_at_quarters_of_the_depth_and_never_at_block_0(depth, blocks):
    assert _shape(depth=depth).quarter_blocks == blocks
