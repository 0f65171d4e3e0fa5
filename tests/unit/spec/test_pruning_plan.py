"""A plan fits its model, and says where tokens go."""

from __future__ import annotations

import pytest
from fakes.small_plans import SHAPE, SOURCE
from pydantic import ValidationError

from heartvit_edge.errors import InputError
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.plan import BlockPlan, PruningPlan


def _plan(num_tokens=(17, 17, 17, 17), kept_heads=(0, 1, 2), **changes):
    fields = {
        "source": SOURCE,
        "shape": SHAPE,
        "budgets": (Budget(limit=0.5),),
        "blocks": tuple(BlockPlan(kept_heads=kept_heads, num_tokens=count) for count in num_tokens),
        "predicted_loss_nats": 0.1,
        "macs": 30,
        "dense_macs": 40,
        "scorer": "removal-gate",
        "sensitivity_sha256": "1" * 64,
    }
    return PruningPlan(**fields | changes)


@pytest.mark.parametrize(
    ("num_tokens", "sites"),
    [
        ((17, 17, 17, 17), {}),
        ((17, 12, 12, 4), {1: 12, 3: 4}),
        ((17, 16, 15, 14), {1: 16, 2: 15, 3: 14}),
        ((12, 12, 12, 12), {0: 12}),
    ],
)
def test_sites_are_the_blocks_before_which_tokens_go(num_tokens, sites):
    assert _plan(num_tokens).sites == sites


@pytest.mark.parametrize(
    ("num_tokens", "kept_heads", "dense"),
    [((17,) * 4, (0, 1, 2), True), ((17,) * 4, (0, 1), False), ((17, 17, 17, 9), (0, 1, 2), False)],
)
def test_a_plan_is_dense_where_no_token_and_no_head_goes(num_tokens, kept_heads, dense):
    assert _plan(num_tokens, kept_heads).is_dense is dense


def test_the_share_of_macs_is_taken_of_the_dense_model():
    assert _plan().macs_fraction == 0.75


def test_tokens_that_grow_are_refused():
    with pytest.raises(ValidationError, match=r"block 2 keeps 12 tokens, expected more than the 1 prefix .* most 8"):
        _plan((17, 8, 12, 12))


def test_more_tokens_than_the_model_has_are_refused():
    with pytest.raises(ValidationError, match="block 0 keeps 18 tokens"):
        _plan((18, 17, 17, 17))


def test_a_plan_without_a_patch_token_is_refused():
    with pytest.raises(ValidationError, match="block 3 keeps 1 tokens, expected more than the 1 prefix tokens"):
        _plan((17, 17, 17, 1))


def test_a_plan_has_one_entry_a_block():
    with pytest.raises(ValidationError, match="plan has 3 blocks, the model 4"):
        _plan((17, 17, 17))


def test_a_head_that_the_model_lacks_is_refused():
    with pytest.raises(ValidationError, match="block 0 keeps head 3 of 3"):
        _plan(kept_heads=(0, 3))


@pytest.mark.parametrize("heads", [(), (1, 0), (1, 1), (-1, 0)])
def test_kept_heads_are_ascending_indices_and_never_none(heads):
    with pytest.raises(ValidationError, match="kept_heads"):
        BlockPlan(kept_heads=heads, num_tokens=5)


def test_a_negative_loss_is_refused():
    with pytest.raises(ValidationError, match="predicted_loss_nats"):
        _plan(predicted_loss_nats=-0.1)


def test_a_broken_plan_in_a_file_is_told_in_one_line(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(_plan().to_json().replace('"num_tokens": 17', '"num_tokens": 19', 1))
    with pytest.raises(InputError) as caught:
        PruningPlan.read(path)
    assert str(caught.value) == (
        f"{path} is not a valid pruning-plan: the whole: Value error, block 0 keeps 19 tokens, expected more than the "
        "1 prefix tokens and at most 17"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"source": SOURCE.model_copy(update={"weights_sha256": "f" * 64})},
        {"budgets": (Budget(limit=0.5000001),)},
        {"num_tokens": (17, 17, 17, 16)},
        {"kept_heads": (0, 2)},
        {"predicted_loss_nats": 0.1 + 2**-54},
        {"macs": 31},
        {"dense_macs": 41},
        {"scorer": "taylor"},
        {"sensitivity_sha256": None},
        {"prune_heads": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_counts_in_the_digest(change):
    assert _plan(**change).digest() != _plan().digest()
