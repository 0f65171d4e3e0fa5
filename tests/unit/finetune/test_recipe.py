"""A recipe becomes timm's optimiser and schedule, and is refused where it cannot be followed."""

from __future__ import annotations

import math

import pytest
from fakes.small_finetune import RECIPE, image_parts, write_images
from fakes.tiny_vit import make_vit, plan_of
from fakes.trainable_gate import TrainableGate

from heartvit_edge.errors import InputError
from heartvit_edge.finetune.distill import Student
from heartvit_edge.finetune.recipe import (
    check_recipe,
    make_optimizer,
    make_schedule,
    optimizers,
    removal_temperature,
)
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.model.zoo import _shape


def recipe(**settings):
    return RECIPE.model_validate(RECIPE.model_dump() | settings)


def trained(**settings):
    """Return a gated model with a gate that has weights, ready to train, and its optimiser."""
    dense = make_vit()
    model = GatedViT(dense, plan_of(_shape(dense), {2: 9}), TrainableGate(32, 1))
    wanted = recipe(**settings)
    Student(model, gates_only=wanted.gates_only)
    return model, make_optimizer(model, wanted)


def rates(schedule, optimizer, steps):
    found = []
    for step in range(steps):
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_matrices_of_the_backbone_decay_and_vectors_and_positions_do_not():
    model, optimizer = trained(weight_decay=0.05, learning_rate=1e-4, gate_learning_rate=1e-2)
    decay = {id(value): group["weight_decay"] for group in optimizer.param_groups for value in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for name, value in model.named_parameters():
        plain = value.ndim > 1 and not name.endswith(("pos_embed", "cls_token"))
        assert decay[id(value)] == (0.05 if plain else 0.0), name


def test_a_gate_has_a_learning_rate_of_its_own():
    model, optimizer = trained(learning_rate=1e-4, gate_learning_rate=1e-2)
    rate = {id(value): group["lr"] for group in optimizer.param_groups for value in group["params"]}
    for name, value in model.named_parameters():
        assert rate[id(value)] == (1e-2 if name.startswith("gate.") else 1e-4)


def test_gates_alone_are_all_that_the_optimiser_sees():
    model, optimizer = trained(gates_only=True)
    seen = {id(value) for group in optimizer.param_groups for value in group["params"]}
    assert seen == {id(value) for value in model.gate.parameters()}


def test_the_cosine_schedule_warms_up_and_falls_by_half_a_cosine():
    _, optimizer = trained(learning_rate=1e-2, min_learning_rate=1e-4)
    wanted = recipe(epochs=4, learning_rate=1e-2, min_learning_rate=1e-4, warmup_epochs=0.5)
    found = rates(make_schedule(optimizer, wanted, 10), optimizer, 40)
    assert found[:5] == pytest.approx([1e-4 + step / 5 * (1e-2 - 1e-4) for step in range(5)])
    expected = [1e-4 + 0.5 * (1e-2 - 1e-4) * (1 + math.cos(math.pi * step / 40)) for step in range(5, 40)]
    assert found[5:] == pytest.approx(expected)


@pytest.mark.parametrize(("name", "middle"), [("linear", 0.5), ("constant", 1.0)])
def test_the_other_schedules_are_what_their_names_say(name, middle):
    _, optimizer = trained(learning_rate=1e-2)
    wanted = recipe(epochs=4, learning_rate=1e-2, min_learning_rate=0.0, schedule=name)
    found = rates(make_schedule(optimizer, wanted, 10), optimizer, 40)
    assert (found[0], found[20]) == pytest.approx((1e-2, middle * 1e-2))


@pytest.mark.parametrize("anneal", ["cosine", "exponential"])
def test_the_removal_s_temperature_falls_from_its_start_to_its_end(anneal):
    found = [removal_temperature(2.0, 0.02, anneal, done / 10) for done in range(11)]
    assert (found[0], found[-1]) == pytest.approx((2.0, 0.02))
    assert found == sorted(found, reverse=True)
    assert found[5] == pytest.approx(1.01 if anneal == "cosine" else 0.2)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "lamb", "nadamw"])
def test_timm_s_optimisers_can_be_named(name):
    assert name in optimizers()
    trained(optimizer=name)


@pytest.fixture
def unlabelled(tmp_path):
    return image_parts(write_images(tmp_path / "bare.npz", labelled=False))[0]


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"optimizer": "adamww"}, "timm has no optimiser 'adamww'", "--optimizer adamw"),
        ({"optimizer": "bnbadam"}, "timm has no optimiser 'bnbadam' that fits here", "--optimizer"),
        (
            {"label_weight": 0.5},
            "--label-weight 0.5 needs labels, and bare.npz has none",
            "distillation needs no labels",
        ),
        ({"batch_size": 10, "accumulate": 3}, "a step takes 30 images, and there are 24", "--batch-size 8"),
        ({"gates_only": True, "token_weight": 1.0}, "which --gates-only leaves alone", "leave them out"),
        ({"gates_only": True, "gate_weight": 0.0}, "nothing would be trained", "leave one of them out"),
    ],
)
def test_what_cannot_be_followed_is_refused(unlabelled, settings, message, hint):
    with pytest.raises(InputError, match=message) as caught:
        check_recipe(recipe(**settings), unlabelled, control=False)
    assert hint in caught.value.hint


def test_gates_alone_need_no_control(unlabelled):
    check_recipe(recipe(gates_only=True), unlabelled, control=False)
    with pytest.raises(InputError, match="the dense model is its own control"):
        check_recipe(recipe(gates_only=True), unlabelled, control=True)
