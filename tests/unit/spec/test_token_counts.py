"""Token counts that a site may keep."""

from __future__ import annotations

import pytest
from fakes.small_plans import SHAPE, VIT_B

from heartvit_edge.spec.model import ModelShape


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (8, 16, 24, 32, 40, 48, 56, 64, 65)),
        ({"img_size": 32}, (4, 8, 12, 16, 17)),
        ({"img_size": 16}, (2, 3, 4, 5)),
        ({"img_size": 8}, (2,)),
        ({"num_prefix_tokens": 9}, (16, 24, 32, 40, 48, 56, 64, 72, 73)),
        ({"num_prefix_tokens": 8}, (16, 24, 32, 40, 48, 56, 64, 72)),
        ({"num_prefix_tokens": 0}, (8, 16, 24, 32, 40, 48, 56, 64)),
    ],
)
def test_token_counts_are_multiples_of_the_step_that_keep_a_patch_and_all_tokens(changes, expected):
    shape = ModelShape(**SHAPE.model_dump() | {"img_size": 64} | changes)
    assert shape.token_counts() == expected


def test_the_step_may_be_another():
    shape = ModelShape(**SHAPE.model_dump() | {"img_size": 64})
    assert shape.token_counts(step=16) == (16, 32, 48, 64, 65)


def test_vit_b_has_25_token_counts():
    assert len(VIT_B.token_counts()) == 25
