"""Token counts by the image: masked tokens are dropped tokens, and thresholds hold the loss that was asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fakes.small_scores import DOUBLE, double_dense
from fakes.tiny_vit import images, plan_of

from heartvit_edge.allocation.cost import plan_macs
from heartvit_edge.errors import InfeasibleError
from heartvit_edge.gating import thresholds
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.learn import macs_of_gate
from heartvit_edge.gating.per_input import NATS, CountRule, foreseen_by_plan, masked_forward, measure
from heartvit_edge.gating.thresholds import calibrate_thresholds, thresholds_for_macs
from heartvit_edge.gating.token_gate import gate_macs, make_token_gate
from heartvit_edge.model.forward import classify, embed, keep_tokens, run_block
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.sensitivity.plan_images import PlanImages
from heartvit_edge.spec.sensitivity import ScoreSettings

VARIANTS = ["plain", "registers", "average pooling", "average pooling without class token"]
HEADS = {0: [0, 2, 3], 2: [1, 2]}


def made(variant="plain", patches_at=None, heads=HEADS, count=6):
    """Return a gated model whose gate's scores are spread over images and patches, its plan, and images."""
    torch.manual_seed(0)
    dense = double_dense(variant)
    prefix = dense.shape.num_prefix_tokens
    plan = plan_of(dense.shape, {site: prefix + kept for site, kept in (patches_at or {1: 11, 3: 4}).items()}, heads)
    gate = make_token_gate(plan).to(DOUBLE).requires_grad_(False)
    for network in gate.networks.values():
        network.score.weight.mul_(6)
        network.score.bias.fill_(-1.0)
    batch = images(count, seed=3, dtype=DOUBLE)
    with torch.no_grad():
        answers = dense.module(batch)
    given = PlanImages(dense, tuple(batch.split(4)), tuple(answers.split(4)), ScoreSettings(sites=(1, 2, 3)))
    return GatedViT(dense.module, plan, gate).eval(), plan, given


def dropped_one_by_one(model, image, thresholds):
    """Return one image's logits and counts with tokens really dropped within each threshold, by a plain loop."""
    prefix = model.backbone.num_prefix_tokens
    tokens, weights, counts = embed(model.backbone, image[None]), None, {}
    for index, block in enumerate(model.backbone.blocks):
        if index in thresholds:
            nats = model.gate(index, tokens, weights)[0].exp().tolist()
            order, spent, gone = sorted(range(len(nats)), key=nats.__getitem__), 0.0, set()
            for patch in order[:-1]:
                spent += nats[patch]
                if spent > thresholds[index]:
                    break
                gone.add(patch)
            kept = torch.tensor([[patch for patch in range(len(nats)) if patch not in gone]])
            tokens, counts[index] = keep_tokens(tokens, kept, prefix), kept.shape[1]
        tokens, weights = run_block(block, tokens)
    return classify(model.backbone, tokens), counts


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_image_answers_as_if_its_tokens_had_been_dropped_one_image_at_a_time(variant):
    model, _, given = made(variant)
    some = foreseen_by_plan(model, given)
    found = masked_forward(model, given.batches[0], some)
    for row, image in enumerate(given.batches[0]):
        with torch.no_grad():
            logits, counts = dropped_one_by_one(model, image, some)
        torch.testing.assert_close(found.logits[row : row + 1], logits, rtol=0, atol=1e-10)
        assert {site: int(kept[row]) for site, kept in found.counts.items()} == counts
    assert len(set(found.counts[1].tolist())) > 1  # images differ in what they keep
    assert all(int(kept.min()) < 16 for kept in found.counts.values())


def test_what_is_dropped_is_foreseen_to_cost_no_more_than_the_threshold_and_one_more_would():
    model, _, given = made(patches_at={2: 8})
    seen = []
    threshold = foreseen_by_plan(model, given)[2]
    hook = model.gate.register_forward_hook(lambda _gate, _given, scores: seen.append(scores.exp()))
    found = masked_forward(model, given.batches[0], {2: threshold})
    hook.remove()
    nats = torch.cat(seen).sort(dim=1).values  # every image still has its 16 patches: one call
    for row in range(len(nats)):
        gone = 16 - int(found.counts[2][row])
        assert float(found.dropped_nats[2][row]) == pytest.approx(float(nats[row, :gone].sum()))
        assert float(nats[row, :gone].sum()) <= threshold < float(nats[row, : gone + 1].sum())


def test_without_a_threshold_nothing_goes_and_without_a_limit_one_patch_stays():
    model, _, given = made(heads=None)
    whole = masked_forward(model, given.batches[0], {1: 0.0, 3: 0.0})
    torch.testing.assert_close(whole.logits, given.logits[0], rtol=0, atol=1e-10)
    assert whole.counts[3].tolist() == [16] * 4
    bare = masked_forward(model, given.batches[0], {1: math.inf, 3: math.inf})
    assert bare.counts[1].tolist() == bare.counts[3].tolist() == [1] * 4
    assert bare.logits.isfinite().all()


def test_images_batched_otherwise_answer_the_same():
    model, _, given = made()
    some = foreseen_by_plan(model, given)
    whole = masked_forward(model, torch.cat(given.batches), some)
    parts = [masked_forward(model, batch, some) for batch in given.batches]
    torch.testing.assert_close(whole.logits, torch.cat([part.logits for part in parts]), rtol=0, atol=1e-10)
    assert torch.equal(whole.counts[3], torch.cat([part.counts[3] for part in parts]))


def test_a_measurement_has_each_images_loss_its_counts_and_the_macs_that_they_leave():
    model, plan, given = made()
    some = foreseen_by_plan(model, given)
    found = measure(model, plan, given, some)
    direct = masked_forward(model, torch.cat(given.batches), some)
    expected = kl_to_dense(torch.cat(given.logits), direct.logits)
    np.testing.assert_allclose(found.losses, expected.numpy(), atol=1e-12)
    assert found.loss_nats == pytest.approx(float(expected.mean()))
    assert found.loss_stderr_nats == pytest.approx(float(expected.std()) / 6**0.5)
    assert found.quantiles(1, (0.0, 0.5, 1.0)) == (
        found.counts[1].min(),
        np.median(found.counts[1]),
        found.counts[1].max(),
    )
    for row in range(6):
        first, second = (int(found.counts[site][row]) for site in (1, 3))
        own = plan_of(plan.shape, {1: 1 + first, 3: 1 + second}, HEADS)
        gate = gate_macs(plan.shape, [16, first], 8)
        assert found.macs[row] == plan_macs(plan.shape, own.blocks) + gate
    assert len(set(found.macs.tolist())) > 1


def test_the_macs_of_the_plans_own_counts_are_the_plans():
    model, plan, given = made(patches_at={2: 7})
    foreseen = foreseen_by_plan(model, given)
    assert set(foreseen) == {2}
    nats = []
    hook = model.gate.register_forward_hook(lambda _gate, _given, scores: nats.append(scores.exp()))
    with torch.no_grad():
        for batch in given.batches:
            model(batch)
    hook.remove()
    lost = torch.cat(nats).sort(dim=1).values[:, :9].sum(dim=1)
    assert foreseen[2] == pytest.approx(float(lost.mean()))
    found = measure(model, plan, given, {2: foreseen[2]})
    with_seven = found.macs[found.counts[2] == 7]
    assert all(with_seven == plan.macs + macs_of_gate(model.gate, plan))


def test_thresholds_are_as_large_as_the_loss_allows():
    model, plan, given = made(heads=None)
    epsilon = 0.3 * measure(model, plan, given, {1: math.inf, 3: math.inf}).loss_nats
    found = calibrate_thresholds(model, plan, given, epsilon)
    assert 0 < found.loss_nats + found.loss_stderr_nats <= epsilon
    unit = foreseen_by_plan(model, given)
    assert found.thresholds[3] / found.thresholds[1] == pytest.approx(unit[3] / unit[1])
    larger = measure(model, plan, given, {site: 1.03 * nats for site, nats in found.thresholds.items()})
    assert larger.loss_nats + larger.loss_stderr_nats > epsilon or np.array_equal(larger.macs, found.macs)
    tighter = calibrate_thresholds(model, plan, given, epsilon / 10, base={1: 1.0, 3: 2.0})
    assert tighter.thresholds[3] == pytest.approx(2 * tighter.thresholds[1])
    assert tighter.macs.mean() > found.macs.mean()


def test_a_loss_that_the_heads_alone_exceed_is_infeasible_and_one_that_nothing_exceeds_drops_all():
    model, plan, given = made()
    with pytest.raises(InfeasibleError, match="with hardly a token dropped, expected at most 1e-09 in all"):
        calibrate_thresholds(model, plan, given, 1e-9)
    found = calibrate_thresholds(model, plan, given, 1e6)
    assert found.counts[3].tolist() == [1] * 6


def test_thresholds_for_macs_are_the_smallest_that_save_as_many(monkeypatch):
    model, plan, given = made()
    wanted = measure(model, plan, given, foreseen_by_plan(model, given)).macs.mean()
    near = thresholds_for_macs(model, plan, given, wanted, NATS)
    assert near.macs.mean() <= wanted
    monkeypatch.setattr(thresholds, "NEAR", 1.0)
    found = thresholds_for_macs(model, plan, given, wanted, NATS)
    assert near.macs.mean() <= found.macs.mean() <= wanted
    smaller = measure(model, plan, given, {site: nats / 1.03 for site, nats in found.thresholds.items()})
    assert smaller.macs.mean() > wanted or np.array_equal(smaller.macs, found.macs)
    unit = foreseen_by_plan(model, given)
    assert found.thresholds[3] / found.thresholds[1] == pytest.approx(unit[3] / unit[1])


def test_relative_thresholds_of_one_are_shares_of_each_images_own_nats():
    model, _, given = made(patches_at={2: 7})
    seen = []
    hook = model.gate.register_forward_hook(lambda _gate, _given, scores: seen.append(scores.exp()))
    found = [masked_forward(model, batch, {2: 0.3}, CountRule(relative=1.0)) for batch in given.batches]
    hook.remove()
    nats = torch.cat([one if one.dim() > 1 else one[None] for one in seen])
    assert len(nats) == 6
    for image, own in enumerate(nats):
        spent = own.sort().values.cumsum(0) / own.sum()
        counts = torch.cat([one.counts[2] for one in found])
        assert counts[image] == 16 - int((spent <= 0.3).sum())
    shares = foreseen_by_plan(model, given, CountRule(relative=1.0))[2]
    gone = nats.sort(dim=1).values[:, :9].sum(dim=1) / nats.sum(dim=1)
    assert shares == pytest.approx(float(gone.mean()))


@pytest.mark.parametrize("rigidity", [0.5, 3.0])
def test_a_rigid_rule_counts_what_few_tokens_left_cost_more(rigidity):
    model, _, given = made(patches_at={2: 7})
    seen = []
    threshold = foreseen_by_plan(model, given)[2]
    hook = model.gate.register_forward_hook(lambda _gate, _given, scores: seen.append(scores.exp()))
    found = masked_forward(model, given.batches[0], {2: threshold}, CountRule(rigidity=rigidity))
    hook.remove()
    for image, own in enumerate(torch.cat(seen).sort(dim=1).values.tolist()):
        costs = [sum(own[:gone]) * (7 / (16 - gone)) ** rigidity for gone in range(1, 16)]
        assert int(found.counts[2][image]) == 16 - sum(cost <= threshold for cost in costs)


def test_the_more_rigid_a_rule_the_nearer_are_counts_to_the_plans():
    model, _, given = made(patches_at={2: 7})
    threshold = {2: foreseen_by_plan(model, given)[2]}
    away = []
    for rigidity in (0.0, 2.0, 200.0):
        found = [masked_forward(model, batch, threshold, CountRule(rigidity=rigidity)) for batch in given.batches]
        away.append(int((torch.cat([one.counts[2] for one in found]) - 7).abs().max()))
    assert away[0] > away[1] > away[2]
    assert away[2] <= 1


def test_more_macs_than_there_are_drop_nothing_and_fewer_than_one_token_takes_are_infeasible():
    model, plan, given = made()
    assert thresholds_for_macs(model, plan, given, 1e12, NATS).counts[1].tolist() == [16] * 6
    with pytest.raises(InfeasibleError, match=r"with hardly a token left, expected at most 10$"):
        thresholds_for_macs(model, plan, given, 10.0, NATS)


def test_what_has_no_nats_or_no_such_sites_is_refused():
    model, plan, given = made()
    with pytest.raises(ValueError, match=r"sites \[1\], the plan's are \[1, 3\]"):
        masked_forward(model, given.batches[0], {1: 1.0})
    with pytest.raises(ValueError, match="epsilon must be above 0"):
        calibrate_thresholds(model, plan, given, 0.0)
    named = GatedViT(given.dense.module, plan, "class-attention").eval()
    with pytest.raises(ValueError, match="where a learned gate drops them"):
        masked_forward(named, given.batches[0], {1: 1.0, 3: 1.0})
    with pytest.raises(ValueError, match="only a learned gate's scores are nats"):
        foreseen_by_plan(named, given)
    fused = GatedViT(given.dense.module, plan, model.gate, "fuse").eval()
    with pytest.raises(ValueError, match="where a learned gate drops them"):
        masked_forward(fused, given.batches[0], {1: 1.0, 3: 1.0})
