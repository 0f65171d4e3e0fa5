"""A plan fits its model, and says where tokens go."""

from __future__ import annotations

import pytest
from fakes.small_plans import SHAPE, SOURCE
from pydantic import ValidationError

from heartvit_edge.errors import InputError
from heartvit_edge.spec.budget import Budget, parse_joint
from heartvit_edge.spec.model import ImageSetRef
from heartvit_edge.spec.plan import BlockPlan, PlanCheck, PruningPlan

IMAGES = ImageSetRef(name="held out", num_images=8, sha256="8" * 64, labelled=False, seed=0)
CHECK = PlanCheck(images=IMAGES, loss_nats=0.12, loss_stderr_nats=0.01, num_agreeing=6)


def _plan(num_tokens=(17, 17, 17, 17), kept_heads=(0, 1, 2), kept_units=None, **changes):
    fields = {
        "source": SOURCE,
        "shape": SHAPE,
        "budgets": (Budget(limit=0.5),),
        "blocks": tuple(
            BlockPlan(kept_heads=kept_heads, num_tokens=count, kept_units=kept_units) for count in num_tokens
        ),
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


@pytest.mark.parametrize(("kept_units", "dense"), [(None, True), ((0, 1, 2, 3), True), ((0, 1, 3), False)])
def test_a_plan_is_dense_where_no_unit_group_goes(kept_units, dense):
    assert _plan(kept_units=kept_units, unit_groups=4).is_dense is dense


def test_the_share_of_macs_is_taken_of_the_dense_model():
    assert _plan().macs_fraction == 0.75


def test_the_share_of_weights_is_known_where_they_were_counted():
    assert _plan(params=30, dense_params=40).params_fraction == 0.75
    assert _plan().params_fraction is None


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


@pytest.mark.parametrize("units", [(), (1, 0), (1, 1), (-1, 0)])
def test_kept_units_are_ascending_indices_and_never_none(units):
    with pytest.raises(ValidationError, match="kept_units"):
        BlockPlan(kept_heads=(0,), num_tokens=5, kept_units=units)


@pytest.mark.parametrize("unit_groups", [0, 2, 3])
def test_a_unit_group_that_was_not_scored_is_refused(unit_groups):
    with pytest.raises(ValidationError, match=f"block 0 keeps unit group 3 of {unit_groups}"):
        _plan(kept_units=(0, 3), unit_groups=unit_groups)


def test_the_label_is_that_of_the_budgets_and_dense_where_there_are_none():
    assert _plan().label == "macs-0.5"
    assert _plan(budgets=parse_joint("loss-nats=0.1,macs=0.7")).label == "macs-0.7+loss-nats-0.1"
    assert _plan(budgets=()).label == "dense"


def test_agreement_is_the_share_of_images_with_the_dense_models_answer():
    assert CHECK.agreement == 0.75


def test_a_check_may_lose_less_than_nothing_by_rounding_but_its_error_may_not():
    assert PlanCheck(images=IMAGES, loss_nats=-1e-9, loss_stderr_nats=0.0, num_agreeing=8).agreement == 1
    with pytest.raises(ValidationError, match="loss_stderr_nats"):
        PlanCheck(images=IMAGES, loss_nats=0.1, loss_stderr_nats=-0.1, num_agreeing=6)


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
        {"kept_units": (0, 1), "unit_groups": 2},
        {"unit_groups": 2},
        {"symmetric": True},
        {"allowed_sites": (1, 3)},
        {"max_sites": 2},
        {"predicted_loss_stderr_nats": 0.01},
        {"refined_on": IMAGES},
        {"chosen_by": "scores"},
        {"check": CHECK},
        {"check": CHECK.model_copy(update={"num_agreeing": 5})},
        {"check": CHECK.model_copy(update={"num_tightenings": 1})},
        {"latency_ms": 3.5},
        {"energy_mj": 3.5},
        {"params": 30, "dense_params": 40},
        {"device": "a board"},
        {"device_batch_size": 4},
        {"extrapolated": True},
        {"device_table_sha256": "2" * 64},
        {"binding": ("macs",)},
        {"nats_per_percent": 0.001},
        {"nested_in_sha256": "3" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_counts_in_the_digest(change):
    assert _plan(**change).digest() != _plan().digest()


def test_a_plan_of_every_field_is_read_as_it_was_written(tmp_path):
    plan = _plan(
        (17, 12, 12, 8),
        (0, 2),
        (0, 1),
        unit_groups=4,
        budgets=parse_joint("macs=0.5,latency-ms=4"),
        allowed_sites=(1, 3),
        max_sites=2,
        predicted_loss_stderr_nats=0.01,
        refined_on=IMAGES,
        chosen_by="class-attention",
        check=CHECK,
        latency_ms=3.5,
        energy_mj=40.0,
        params=30,
        dense_params=40,
        device="tensorrt fp16 on a board",
        device_batch_size=4,
        extrapolated=True,
        device_table_sha256="2" * 64,
        binding=("latency-ms",),
        nats_per_percent=0.001,
        nested_in_sha256="3" * 64,
    )
    plan.write(tmp_path / "plan.json")
    assert PruningPlan.read(tmp_path / "plan.json") == plan
