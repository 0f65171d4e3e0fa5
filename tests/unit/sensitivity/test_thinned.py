"""Plans run on images: against a model sliced by surgery, its tokens masked or gathered by hand."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from fakes.small_scores import DOUBLE, double_dense, image_set, tiny_dense
from fakes.tiny_vit import images

from heartvit_edge.gating.gate import GATES
from heartvit_edge.gating.gated import GatedViT, kept_units
from heartvit_edge.model.forward import RemovalGates, embed, forward
from heartvit_edge.model.surgery import keep_heads, keep_units
from heartvit_edge.sensitivity import thinned
from heartvit_edge.sensitivity.plan_images import PlanImages, load_plan_images
from heartvit_edge.sensitivity.thinned import thin
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.plan import BlockPlan, PruningPlan
from heartvit_edge.spec.sensitivity import ScoreSettings

GROUPS = 4
SETTINGS = ScoreSettings(sites=(1, 2, 3), unit_groups=GROUPS)
DRAWN = SETTINGS.model_copy(update={"scorer": "fisher-mc", "num_probes": 3})
ALL = (0, 1, 2, 3)


def blocks_of(patches, heads=(ALL,) * 4, units=(None,) * 4, prefix=1):
    """Return what each block keeps: patch tokens, heads and unit groups."""
    return tuple(
        BlockPlan(kept_heads=kept, num_tokens=prefix + count, kept_units=groups)
        for count, kept, groups in zip(patches, heads, units, strict=True)
    )


HEADS = ((0, 2, 3), ALL, (1, 3), (0, 1))
UNITS = (None, (0, 3), (1, 2, 3), None)
PLAN = blocks_of((16, 11, 11, 5), HEADS, UNITS)


def double_images(count=3, dense=None, **fields):
    """Return double-precision images of noise with the dense model's answers, in one batch."""
    dense = dense or double_dense()
    batch = images(count, seed=1, dtype=DOUBLE)
    with torch.no_grad():
        answers = dense.module(batch)
    return PlanImages(**{"dense": dense, "batches": (batch,), "logits": (answers,), "settings": SETTINGS} | fields)


def plan_of(dense, blocks):
    return PruningPlan(
        source=dense.source,
        shape=dense.shape,
        budgets=(Budget(limit=0.5),),
        blocks=blocks,
        predicted_loss_nats=None,
        macs=1,
        dense_macs=2,
        scorer="removal-gate",
        sensitivity_sha256="1" * 64,
        unit_groups=GROUPS,
    )


def sliced(dense, blocks):
    """Return the model without the heads and units that the plan removes, by surgery."""
    plan = plan_of(dense, blocks)
    heads = keep_heads(dense.module, [block.kept_heads for block in blocks])
    return keep_units(heads, [kept_units(block, plan) for block in blocks])


def kl(first, second):
    """Return KL(first || second) of two vectors of logits, written out."""
    p, q = first.softmax(-1), second.softmax(-1)
    return float((p * (p.log() - q.log())).sum())


def masked(model, kept_at, site, left):
    """Return the map from gates of the patches left at a site to log-probabilities, all dropping done by masks."""

    def log_probs(image, gates):
        tokens = {cut: torch.zeros(1, 16, dtype=DOUBLE).index_fill(1, torch.tensor(kept), 1) for cut, kept in kept_at}
        at_site = torch.zeros(16, dtype=DOUBLE).scatter(0, torch.tensor(left), gates)[None]
        tokens[site] = tokens.get(site, 1) * at_site
        return forward(model, image, RemovalGates(tokens=tokens))[0].log_softmax(0)

    return log_probs


def scored_by_hand(dense, image, blocks):
    """Return the logits, the kept patches of each block and the scores at each site of one image (1, 3, H, W).

    Scores are the Fisher diagonal by a dense Jacobian of the sliced model, whose dropped patches are masked.
    """
    model, prefix = sliced(dense, blocks), dense.shape.num_prefix_tokens
    left, kept_at, kept, scores = list(range(16)), [], [list(range(16))], {}
    for site in range(1, len(blocks)):
        log_probs = masked(model, kept_at, site, left)
        gates = torch.ones(len(left), dtype=DOUBLE)
        jacobian = torch.func.jacrev(lambda m, found=log_probs: found(image, m))(gates)  # (C, left)
        probs = log_probs(image, gates).exp()
        scores[site] = (probs[:, None] * jacobian**2).sum(dim=0) / 2
        count = blocks[site].num_tokens - prefix
        best = sorted(range(len(left)), key=lambda position: -float(scores[site][position]))[:count]
        if count < len(left):
            left = [left[position] for position in sorted(best)]
            kept_at.append((site, left))
        kept.append(left)
    return masked(model, kept_at[:-1], *kept_at[-1])(image, torch.ones(len(left), dtype=DOUBLE)), kept, scores


def kept_by_order(order, blocks, prefix=1):
    """Return for each image the patches that each block keeps where tokens go in that order (depth, B, patches)."""
    found = []
    for number in range(order.shape[1]):
        left, kept = list(range(order.shape[2])), []
        for block, ranks in zip(blocks, order[:, number].tolist(), strict=True):
            left = sorted(sorted(left, key=lambda patch: -ranks[patch])[: block.num_tokens - prefix])
            kept.append(left)
        found.append(kept)
    return found


def logits_by_hand(dense, batch, blocks, kept):
    """Return the logits (B, C) of the sliced model, its own blocks run on rows gathered by hand."""
    model, prefix, answers = sliced(dense, blocks), dense.shape.num_prefix_tokens, []
    with torch.no_grad():
        for image, patches in zip(batch.split(1), kept, strict=True):
            tokens, left = embed(model, image), list(range(dense.shape.num_patches))
            for block, stay in zip(model.blocks, patches, strict=True):
                tokens = block(tokens[:, [*range(prefix), *(prefix + left.index(patch) for patch in stay)]])
                left = stay
            answers.append(model.forward_head(model.norm(tokens)))
    return torch.cat(answers)


def losses_by_hand(found, blocks):
    """Return each image's KL where a plan's tokens go in the order of a plan that ran on one batch."""
    given, dense = found.images, found.images.dense
    kept = kept_by_order(found.order[0], blocks, dense.shape.num_prefix_tokens)
    logits = logits_by_hand(dense, given.batches[0], blocks, kept)
    return [kl(answers, pruned) for answers, pruned in zip(given.logits[0], logits, strict=True)]


@pytest.fixture
def recorded(monkeypatch):
    """Collect what the estimator returns each time that it is asked."""
    estimate, found = thinned.low_rank_diagonal, []

    def recording(*args):
        found.append(estimate(*args))
        return found[-1]

    monkeypatch.setattr(thinned, "low_rank_diagonal", recording)
    return found


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Score by all eigenvectors, so that scores are the Fisher diagonal itself."""
    monkeypatch.setattr(thinned, "RESCORING_RANK", 100)


@pytest.mark.parametrize("variant", ["plain", "registers", "average pooling"])
def test_tokens_chosen_and_losses_are_those_of_the_sliced_model_with_dropped_tokens_masked(variant):
    dense = double_dense(variant)
    prefix = dense.shape.num_prefix_tokens
    plan = blocks_of((16, 11, 11, 5), HEADS, UNITS, prefix)
    given = double_images(dense=dense)
    found = thin(given, plan)
    kept = kept_by_order(found.order[0], plan, prefix)
    for number, image in enumerate(given.batches[0].split(1)):
        logits, expected, _ = scored_by_hand(dense, image, plan)
        assert kept[number] == expected
        assert found.losses[number] == pytest.approx(kl(given.logits[0][number], logits), rel=1e-5)
    assert len({tuple(rows[1]) for rows in kept}) > 1  # the choice depends on the image
    assert found.losses.shape == (3,)
    assert found.losses.min() > 1e-3


def test_scores_at_a_site_are_the_fisher_diagonal_of_the_model_pruned_so_far(recorded):
    given = double_images()
    thin(given, PLAN)
    at_1, after = recorded  # site 1 among all 16 patches; sites 2 and 3 among the 11 left
    assert (at_1.shape, after.shape) == ((3, 16), (3, 22))
    for number, image in enumerate(given.batches[0].split(1)):
        *_, scores = scored_by_hand(given.dense, image, PLAN)
        torch.testing.assert_close(at_1[number].double(), scores[1], rtol=1e-4, atol=1e-9)
        for row, site in enumerate((2, 3)):
            torch.testing.assert_close(
                after[number, 11 * row : 11 * row + 11].double(), scores[site], rtol=1e-4, atol=1e-9
            )


def test_a_score_is_the_loss_of_a_small_step_of_the_gate_over_the_step_squared(recorded):
    given, step = double_images(1), 1e-3
    kept = kept_by_order(thin(given, PLAN).order[0], PLAN)[0]
    model = sliced(given.dense, PLAN)
    log_probs = masked(model, [(1, kept[1])], 3, kept[1])
    whole = log_probs(given.batches[0], torch.ones(11, dtype=DOUBLE))
    for position in range(11):
        gates = torch.ones(11, dtype=DOUBLE)
        gates[position] -= step
        by_step = kl(whole, log_probs(given.batches[0], gates)) / step**2
        assert float(recorded[1][0, 11 + position]) == pytest.approx(by_step, rel=0.02, abs=1e-7)


def test_the_plan_itself_measures_what_it_lost():
    found = thin(double_images(), PLAN)
    np.testing.assert_allclose(found.measure([PLAN, PLAN]), [found.losses] * 2, rtol=1e-9)


@pytest.mark.parametrize("count", [1, 4, 7, 11])
def test_more_or_fewer_tokens_at_the_last_site_measure_as_a_run_of_their_own(count):
    given = double_images()
    variant = blocks_of((16, 11, 11, count), HEADS, UNITS)
    (measured,) = thin(given, PLAN).measure([variant])
    np.testing.assert_allclose(measured, thin(given, variant).losses, rtol=1e-9)


VARIANTS = {
    "more at the first site": blocks_of((16, 14, 14, 5), HEADS, UNITS),
    "fewer at the first site": blocks_of((16, 8, 8, 5), HEADS, UNITS),
    "a site of its own": blocks_of((16, 11, 9, 5), HEADS, UNITS),
    "no site": blocks_of((16, 16, 16, 16), HEADS, UNITS),
    "one head more goes": blocks_of((16, 11, 11, 5), ((0, 2, 3), ALL, (1, 3), (1,)), UNITS),
    "a head comes back": blocks_of((16, 11, 11, 5), (ALL, ALL, (1, 3), (0, 1)), UNITS),
    "a unit group more goes": blocks_of((16, 11, 11, 5), HEADS, ((0, 1, 3), (0, 3), (1, 2, 3), None)),
    "unit groups come back": blocks_of((16, 11, 11, 5), HEADS, (None, None, (1, 2, 3), None)),
    "dense": blocks_of((16, 16, 16, 16)),
}


def test_variants_measure_as_the_sliced_model_on_tokens_gathered_in_the_plans_order():
    found = thin(double_images(), PLAN)
    measured = found.measure(list(VARIANTS.values()))
    assert measured.shape == (len(VARIANTS), 3)
    for name, row in zip(VARIANTS, measured, strict=True):
        assert row == pytest.approx(losses_by_hand(found, VARIANTS[name]), rel=1e-6, abs=1e-12), name
    assert np.abs(measured[-1]).max() < 1e-12
    assert len(np.unique(measured[:-1].round(9), axis=0)) == len(VARIANTS) - 1


def test_no_variant_measures_as_no_row():
    assert thin(double_images(), PLAN).measure([]).shape == (0, 3)


def test_tokens_gone_stay_below_those_left_in_the_order_in_which_they_went():
    plan = blocks_of((16, 10, 6, 3))
    (order,) = thin(double_images(4), plan).order
    for number, kept in enumerate(kept_by_order(order, plan)):
        ranks = order[:, number].int().tolist()
        for site in (1, 2, 3):
            assert sorted(ranks[site]) == list(range(16))
            gone = [patch for patch in range(16) if patch not in kept[site - 1]]
            assert all(ranks[site][patch] < len(gone) for patch in gone)
            before = sorted(gone, key=lambda patch: ranks[site - 1][patch])
            assert sorted(gone, key=lambda patch: ranks[site][patch]) == before


def test_a_variant_that_drops_fewer_brings_back_the_best_of_those_gone():
    found = thin(double_images(), blocks_of((16, 10, 10, 3)))
    ranks = found.order[0][1]
    more = blocks_of((16, 12, 12, 12))
    for number, (few, many) in enumerate(
        zip(kept_by_order(found.order[0], found.blocks), kept_by_order(found.order[0], more), strict=True)
    ):
        gone = sorted(set(range(16)) - set(few[1]), key=lambda patch: -ranks[number, patch])
        assert set(many[3]) == {*few[1], *gone[:2]}
    assert found.measure([more])[0] == pytest.approx(losses_by_hand(found, more), rel=1e-6)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("variant", ["plain", "registers"])
def test_with_a_gate_tokens_and_losses_are_those_of_the_gated_model(gate, variant):
    dense = double_dense(variant)
    prefix = dense.shape.num_prefix_tokens
    plan = blocks_of((16, 11, 8, 3), HEADS, UNITS, prefix)
    given = double_images(5, dense, gate=GATES[gate], settings=SETTINGS.model_copy(update={"scorer": "token-norm"}))
    found = thin(given, plan)
    with torch.no_grad():
        logits, *kept = GatedViT(dense.module, plan_of(dense, plan), gate).eval()(given.batches[0])
    by_order = kept_by_order(found.order[0], plan, prefix)
    for site, patches in zip((1, 2, 3), kept, strict=True):
        assert patches.tolist() == [rows[site] for rows in by_order]
    expected = [kl(answers, pruned) for answers, pruned in zip(given.logits[0], logits, strict=True)]
    assert found.losses == pytest.approx(expected, rel=1e-9)
    assert found.num_agreeing == int((logits.argmax(1) == given.logits[0].argmax(1)).sum())
    np.testing.assert_allclose(found.measure([plan])[0], expected, rtol=1e-9)


def test_a_gate_is_asked_at_every_block_so_that_a_variant_may_drop_anywhere():
    given = double_images(gate=GATES["class-attention"])
    found = thin(given, blocks_of((16, 12, 12, 12)))
    variant = blocks_of((16, 12, 12, 6))
    (measured,) = found.measure([variant])
    np.testing.assert_allclose(measured, thin(given, variant).losses, rtol=1e-9)


def test_images_on_which_the_first_class_stays_are_counted():
    given = double_images(12)
    found = thin(given, blocks_of((16, 6, 4, 2)))
    kept = kept_by_order(found.order[0], found.blocks)
    pruned = logits_by_hand(given.dense, given.batches[0], found.blocks, kept)
    agreeing = sum(int(a.argmax() == b.argmax()) for a, b in zip(pruned, given.logits[0], strict=True))
    assert found.num_agreeing == agreeing
    assert 0 < agreeing < 12


@pytest.mark.parametrize("settings", [SETTINGS, DRAWN], ids=["exact", "drawn"])
def test_images_one_by_one_or_in_batches_give_the_same(settings):
    runs = [thin(load_plan_images(tiny_dense(), image_set(5), settings, batch_size=size), PLAN) for size in (1, 2, 5)]
    orders = [torch.cat(run.order, dim=1) for run in runs]
    variants = list(VARIANTS.values())
    for run, order in zip(runs[1:], orders[1:], strict=True):
        assert torch.equal(order, orders[0])
        np.testing.assert_allclose(run.losses, runs[0].losses, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(run.measure(variants), runs[0].measure(variants), rtol=1e-3, atol=1e-6)
        assert run.num_agreeing == runs[0].num_agreeing


def test_drawn_scores_estimate_the_exact_ones_and_follow_the_seed():
    dense, plan = tiny_dense(), blocks_of((16, 8, 8, 8))
    exact, many, same, other = (
        thin(load_plan_images(dense, image_set(4), settings), plan).order[0][1]
        for settings in (
            SETTINGS,
            DRAWN.model_copy(update={"num_probes": 400}),
            DRAWN.model_copy(update={"num_probes": 400}),
            DRAWN.model_copy(update={"num_probes": 2, "seed": 1}),
        )
    )
    assert torch.equal(many, same)
    far, near = ((found - exact).abs().mean() for found in (other, many))
    assert near < far
    assert near < 1


def test_the_dense_models_answers_are_loaded_with_the_images():
    dense = tiny_dense()
    found = load_plan_images(dense, image_set(5), SETTINGS, batch_size=2)
    assert [len(batch) for batch in found.batches] == [2, 2, 1]
    assert (found.num_images, found.unit_groups) == (5, GROUPS)
    for batch, answers in zip(found.batches, found.logits, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(answers, dense.module(batch), rtol=0, atol=1e-4)


def test_a_scorer_that_cannot_be_taken_again_needs_a_gate():
    settings = SETTINGS.model_copy(update={"scorer": "token-norm"})
    with pytest.raises(ValueError, match="scorer token-norm cannot be taken again on the tokens left"):
        load_plan_images(tiny_dense(), image_set(1), settings)
    found = load_plan_images(tiny_dense(), image_set(1), settings, gate=GATES["class-attention"])
    assert thin(found, PLAN).losses.shape == (1,)


def test_whoever_watches_is_told_of_every_image():
    told = []

    def watch(words, total):
        told.append([words, total])
        return nullcontext(told[-1].append)

    given = load_plan_images(tiny_dense(), image_set(5), SETTINGS, batch_size=2, watch=watch)
    thin(given, PLAN).measure([PLAN, VARIANTS["no site"]])
    assert told == [["running a plan", 5, 2, 2, 1], ["measuring 2 plans near it", 5, 2, 2, 1]]


@pytest.mark.parametrize(("count", "sizes"), [(1, [7]), (2, [4, 3]), (4, [2, 2, 2, 1]), (9, [2, 2, 2, 1])])
def test_parts_hold_every_image_once_and_few_batches_make_few_parts(count, sizes):
    given = load_plan_images(tiny_dense(), image_set(7), SETTINGS, batch_size=2)
    parts = given.parts(count)
    assert [part.num_images for part in parts] == sizes
    assert torch.equal(torch.cat([batch for part in parts for batch in part.batches]), torch.cat(given.batches))
    assert torch.equal(torch.cat([found for part in parts for found in part.logits]), torch.cat(given.logits))
