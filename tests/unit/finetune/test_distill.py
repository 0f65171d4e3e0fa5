"""The terms of the loss, against their definitions written out."""

from __future__ import annotations

import pytest
import torch
from fakes.small_finetune import HEADS, RECIPE
from fakes.tiny_vit import images, make_vit, plan_of
from fakes.trainable_gate import TrainableGate
from torch.nn import functional

from heartvit_edge.finetune.distill import Student, answer_of, relative_error, softened_kl, weighted_terms
from heartvit_edge.gating.gate import default_gate
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.relaxed import relaxed_logits
from heartvit_edge.model.zoo import _shape

VARIANTS = ("plain", "distilled", "registers", "average pooling", "average pooling without class token")
ALL_TERMS = RECIPE.model_copy(
    update={"temperature": 2.0, "token_weight": 0.5, "feature_weight": 0.25, "label_weight": 3.0, "gate_weight": 7.0}
)


def pair(variant="plain", gate=None):
    """Return a dense model as a gated one, and one that keeps 12 and then 6 of 16 patches."""
    dense = make_vit(variant)
    shape = _shape(dense)
    tokens = {1: shape.num_prefix_tokens + 12, 3: shape.num_prefix_tokens + 6}
    pruned = GatedViT(dense, plan_of(shape, tokens, HEADS), gate or default_gate(shape))
    return GatedViT(dense, plan_of(shape), None).eval(), pruned.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_answer_holds_the_model_s_logits_and_what_its_classifier_reads(variant):
    dense, pruned = pair(variant)
    batch = images(3)
    for model in (dense, pruned):
        answer = answer_of(model, batch)
        torch.testing.assert_close(answer.logits, model(batch)[0], rtol=0, atol=0)
        assert answer.feature.shape == (3, 32)
    torch.testing.assert_close(answer_of(pruned, batch).patches, pruned(batch)[-1])
    if variant != "distilled":  # which has two classifiers
        torch.testing.assert_close(pruned.backbone.head(answer_of(pruned, batch).feature), pruned(batch)[0])


def test_every_term_is_its_definition_times_its_weight():
    dense, pruned = pair(gate=TrainableGate(32, 1))
    batch, labels = images(4), torch.tensor([0, 1, 2, 3])
    target, answer = answer_of(dense, batch), Student(pruned)(batch, 0.5)
    terms = weighted_terms(answer, target, labels, ALL_TERMS, 1)
    assert set(terms) == {"kl", "gate_kl", "label", "token", "feature"}
    warm = (target.logits / 2).softmax(dim=1)
    for name, logits, weight in (("kl", answer.logits, 1), ("gate_kl", answer.relaxed, 7)):
        divergence = functional.kl_div((logits / 2).log_softmax(dim=1), warm, reduction="batchmean")
        torch.testing.assert_close(terms[name], weight * 4 * divergence)
    torch.testing.assert_close(terms["label"], 3 * functional.cross_entropy(answer.logits, labels))
    rows = [target.tokens[image, 1 + kept.long()] for image, kept in enumerate(pruned(batch)[-1])]
    difference = answer.tokens[:, 1:] - torch.stack(rows)
    torch.testing.assert_close(terms["token"], 0.5 * difference.pow(2).sum() / torch.stack(rows).pow(2).sum())
    feature = (answer.feature - target.feature).pow(2).sum() / target.feature.pow(2).sum()
    torch.testing.assert_close(terms["feature"], 0.25 * feature)


def test_the_gradient_of_the_divergence_is_exactly_zero_where_the_logits_are_the_same():
    dense = 20 * torch.randn(6, 100, generator=torch.Generator().manual_seed(0))
    found = dense.clone().requires_grad_(True)
    loss = softened_kl(dense, found, 3.0)
    loss.backward()
    assert (loss.item(), found.grad.abs().max().item()) == (0.0, 0.0)


def test_all_patches_are_compared_where_none_are_dropped():
    dense, _ = pair()
    model = make_vit(seed=1)
    other = GatedViT(model, plan_of(_shape(model)), None)
    answer, target = answer_of(other, images(2)), answer_of(dense, images(2))
    terms = weighted_terms(answer, target, torch.zeros(2), RECIPE.model_copy(update={"token_weight": 1.0}), 1)
    torch.testing.assert_close(terms["token"], relative_error(answer.tokens[:, 1:], target.tokens[:, 1:]))


def test_with_the_dense_weights_only_the_labels_teach():
    dense, _ = pair()
    answer = answer_of(dense, images(4))
    terms = weighted_terms(answer, answer, torch.zeros(4, dtype=torch.int64), ALL_TERMS, 1)
    assert [name for name, value in terms.items() if value.item() != 0] == ["label"]


def test_gates_alone_learn_from_the_relaxed_forward_and_the_weights_get_no_gradient():
    dense, pruned = pair(gate=TrainableGate(32, 1))
    student = Student(pruned, gates_only=True)
    answer = student(images(3), 0.5)
    assert (answer.logits, answer.tokens, answer.feature) == (None, None, None)
    torch.testing.assert_close(answer.relaxed, relaxed_logits(pruned, images(3), 0.5))
    terms = weighted_terms(answer, answer_of(dense, images(3)), torch.tensor([0, 1, 2]), ALL_TERMS, 1)
    assert set(terms) == {"gate_kl", "label"}
    torch.testing.assert_close(terms["label"], 3 * functional.cross_entropy(answer.relaxed, torch.tensor([0, 1, 2])))
    sum(terms.values()).backward()
    assert all(value.grad is None for value in pruned.backbone.parameters())
    assert all(value.grad.abs().max() > 0 for name, value in pruned.gate.named_parameters() if name.endswith("weight"))


def test_weights_and_gate_both_get_gradients_when_trained_jointly():
    dense, pruned = pair(gate=TrainableGate(32, 1))
    terms = weighted_terms(Student(pruned)(images(3), 0.5), answer_of(dense, images(3)), torch.zeros(3), RECIPE, 1)
    assert set(terms) == {"kl", "gate_kl"}
    sum(terms.values()).backward()
    assert all(value.grad is not None for value in pruned.parameters())


def test_a_gate_that_is_left_alone_has_no_relaxed_forward():
    _, pruned = pair(gate=TrainableGate(32, 1))
    student = Student(pruned, teach_gate=False)
    assert student(images(3), 0.5).relaxed is None
    assert not any(value.requires_grad for value in pruned.gate.parameters())
    assert all(value.requires_grad for value in pruned.backbone.parameters())


def test_a_gate_without_weights_has_no_relaxed_forward():
    _, pruned = pair()
    assert Student(pruned)(images(2), 0.5).relaxed is None


def test_gradients_are_the_same_when_activations_are_computed_again():
    gradients = []
    for again in (False, True):
        dense, pruned = pair(gate=TrainableGate(32, 1))
        student = Student(pruned, grad_checkpointing=again)
        terms = weighted_terms(student(images(3), 0.5), answer_of(dense, images(3)), torch.zeros(3), RECIPE, 1)
        sum(terms.values()).backward()
        gradients.append([value.grad for value in pruned.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=0, atol=0)
