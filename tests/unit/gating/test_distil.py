"""A gate learns from scores taken on the tokens that an earlier site left."""

from __future__ import annotations

import math

import pytest
import torch
from fakes.small_scores import DOUBLE, double_dense
from fakes.tiny_vit import images, plan_of

from heartvit_edge.gating import examples as examples_module
from heartvit_edge.gating.distil import DistilSettings, distil, log_nats, ranking_loss, site_quality
from heartvit_edge.gating.examples import SiteExamples, collect_examples, scores_of
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.token_gate import make_token_gate
from heartvit_edge.model.forward import RemovalGates, continue_forward, embed, run_block
from heartvit_edge.sensitivity.fisher import exact_diagonal
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.sensitivity.plan_images import PlanImages
from heartvit_edge.spec.sensitivity import ScoreSettings


@pytest.fixture
def every_eigenvector(monkeypatch):
    monkeypatch.setattr(examples_module, "RESCORING_RANK", 100)


def collected(count=3, patches_at=None, heads=None, batches=1, seed=0):
    dense = double_dense()
    batch = images(count, seed=1, dtype=DOUBLE)
    with torch.no_grad():
        answers = dense.module(batch)
    settings = ScoreSettings(sites=(1, 2, 3), seed=seed)
    given = PlanImages(dense, tuple(batch.chunk(batches)), tuple(answers.chunk(batches)), settings)
    plan = plan_of(dense.shape, {site: 1 + kept for site, kept in (patches_at or {1: 12, 3: 5}).items()}, heads)
    model = GatedViT(dense.module, plan, make_token_gate(plan).to(DOUBLE)).eval()
    return given, model, collect_examples(given, model)


def test_examples_are_what_enters_a_site():
    given, model, found = collected(heads={0: [0, 2]})
    with torch.no_grad():
        tokens, _ = run_block(model.backbone.blocks[0], embed(model.backbone, given.batches[0]))
    assert found[1].tokens.dtype == torch.float16
    torch.testing.assert_close(found[1].tokens.double(), tokens, rtol=1e-3, atol=1e-3)
    assert (found[3].tokens.shape, found[3].scores.shape) == ((3, 13, tokens.shape[2]), (3, 12))


@pytest.mark.usefixtures("every_eigenvector")
def test_a_score_is_the_loss_of_a_small_step_of_the_gate_over_the_step_squared():
    given, model, found = collected(patches_at={2: 9})
    step = 1e-3
    with torch.no_grad():
        tokens = embed(model.backbone, given.batches[0])
        for block in model.backbone.blocks[:2]:
            tokens, _ = run_block(block, tokens)
        for patch in (0, 7, 15):
            gates = torch.ones(3, 16, dtype=DOUBLE)
            gates[:, patch] -= step
            loss = kl_to_dense(
                given.logits[0],
                examples_module.continue_forward(
                    model.backbone, tokens, 2, examples_module.RemovalGates(tokens={2: gates})
                ),
            )
            torch.testing.assert_close(found[2].scores[:, patch].double(), loss / step**2, rtol=0.02, atol=1e-9)


def test_the_next_site_sees_tokens_that_scored_high_in_the_main_and_not_always_the_same(monkeypatch):
    monkeypatch.setattr(examples_module, "NOISE", 0.0)
    _, _, exact = collected()
    rank = exact[1].scores.argsort(dim=1).argsort(dim=1)
    with torch.no_grad():
        _, model, _ = collected()
        given, _, _ = collected()
        tokens, _ = run_block(model.backbone.blocks[0], embed(model.backbone, given.batches[0]))
        kept = (rank >= 4).nonzero()[:, 1].view(3, 12)
        tokens = torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))], 1)
        for block in model.backbone.blocks[1:3]:
            tokens, _ = run_block(block, tokens)
    torch.testing.assert_close(exact[3].tokens.double(), tokens, rtol=1e-3, atol=2e-3)
    monkeypatch.setattr(examples_module, "NOISE", 5.0)
    _, _, noisy = collected()
    assert not torch.equal(noisy[3].tokens, exact[3].tokens)
    assert torch.equal(noisy[1].tokens, exact[1].tokens)


def test_the_draws_are_an_images_own_however_images_are_batched():
    _, _, whole = collected(4)
    _, _, parts = collected(4, batches=2)
    _, _, other = collected(4, seed=1)
    torch.testing.assert_close(whole[3].scores, parts[3].scores)
    assert not torch.equal(whole[3].tokens, other[3].tokens)


def test_where_a_gate_leaves_tokens_its_later_sites_see_those():
    given, model, _ = collected()
    found = collect_examples(given, model, by_gate=True)
    with torch.no_grad():
        tokens, _ = run_block(model.backbone.blocks[0], embed(model.backbone, given.batches[0]))
        kept = model.gate(1, tokens).topk(12, dim=1).indices.sort(dim=1).values
        tokens = torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))], 1)
        for block in model.backbone.blocks[1:3]:
            tokens, _ = run_block(block, tokens)
    torch.testing.assert_close(found[3].tokens.double(), tokens, rtol=1e-3, atol=2e-3)


@pytest.mark.usefixtures("every_eigenvector")
def test_where_tokens_join_later_sites_see_them_joined_and_a_score_is_that_of_all_that_it_stands_for():
    given, _, _ = collected()
    dense = double_dense()
    plan = plan_of(dense.shape, {2: 1 + 10, 3: 1 + 6})
    torch.manual_seed(0)
    model = GatedViT(dense.module, plan, make_token_gate(plan).to(DOUBLE), "join").eval()
    found, seen = collect_examples(given, model, by_gate=True), []

    def run(block, tokens, key_bias):
        seen.append((tokens, key_bias))
        return run_block(block, tokens, key_bias)

    with torch.no_grad():
        model.run_blocks(given.batches[0], run)
        tokens, bias = seen[2]
        tokens, _ = run_block(model.backbone.blocks[2], tokens, bias)
    torch.testing.assert_close(found[3].tokens.double(), tokens, rtol=1e-3, atol=2e-3)
    sizes = bias[:, 1:].exp()
    assert (sizes > 1).any()
    gates = torch.ones(*sizes.shape, dtype=DOUBLE, requires_grad=True)
    log_probs = continue_forward(model.backbone, tokens, 3, RemovalGates(tokens={3: gates * sizes})).log_softmax(1)
    torch.testing.assert_close(found[3].scores.double(), exact_diagonal(log_probs, gates), rtol=1e-4, atol=1e-9)


def _learnable(count=96, seed=0):
    """Return examples whose scores are a function of the tokens."""
    plan = plan_of(double_dense().shape, {2: 9})
    draws = torch.Generator().manual_seed(seed)
    tokens = torch.randn(count, 17, plan.shape.embed_dim, generator=draws)
    logs = 0.7 * tokens[:, 1:, 0] - tokens[:, :1, 1] + 0.5 * tokens[:, 1:, 3] - 6
    torch.manual_seed(0)
    return plan, make_token_gate(plan), {2: SiteExamples(tokens.half(), logs.exp())}


SETTINGS = DistilSettings(epochs=30, batch_size=16, learning_rate=3e-3)


def test_a_gate_learns_to_rank_and_to_say_nats():
    _, gate, train = _learnable()
    _, _, test = _learnable(seed=1)
    before = site_quality(gate, 2, test[2], 8)
    distil(gate, [train], SETTINGS)
    after = site_quality(gate, 2, test[2], 8)
    assert after.best_mass_kept == before.best_mass_kept
    assert after.mass_kept > 0.97 * after.best_mass_kept > before.mass_kept
    found, logs = scores_of(gate, 2, train[2]), log_nats(train[2].scores)
    assert float((found - logs).mean().abs()) < 1e-3
    slope = torch.cov(torch.stack([found.flatten(), logs.flatten()]))[0, 1] / found.var()
    assert float(slope) == pytest.approx(1, abs=1e-2)


def test_the_same_seed_trains_the_same_gate():
    weights = []
    for _ in range(2):
        _, gate, train = _learnable()
        distil(gate, [train], DistilSettings(epochs=2, batch_size=16))
        weights.append(torch.cat([value.flatten() for value in gate.parameters()]))
    assert torch.equal(*weights)


def test_progress_counts_the_images_of_every_epoch_that_fill_a_batch():
    _, gate, train = _learnable(40)
    seen = []
    distil(gate, [train], DistilSettings(epochs=3, batch_size=16), seen.append)
    assert sum(seen) == 3 * 32


def test_as_few_steps_as_there_are_epochs_train_too():
    _, gate, train = _learnable(12)
    before = gate.network(2).patch.weight.clone()
    distil(gate, [train], DistilSettings(epochs=10, batch_size=16))
    assert all(bool(value.isfinite().all()) for value in gate.parameters())
    assert not torch.equal(gate.network(2).patch.weight, before)


def test_lots_of_other_tokens_teach_together_and_nats_are_the_last_ones():
    _, gate, first = _learnable(48)
    _, _, whole = _learnable(32, seed=1)
    last = {2: SiteExamples(whole[2].tokens[:, :12], 100 * whole[2].scores[:, :11])}
    untaught = [site_quality(gate, 2, lot[2], 5) for lot in (first, last)]
    seen = []
    distil(gate, [first, last], SETTINGS, seen.append)
    assert sum(seen) == 30 * (48 + 32)
    for before, lot in zip(untaught, (first, last), strict=True):
        assert site_quality(gate, 2, lot[2], 5).mass_kept > before.mass_kept
    errors = [float((scores_of(gate, 2, lot[2]) - log_nats(lot[2].scores)).mean()) for lot in (first, last)]
    assert abs(errors[1]) < 1e-3 < abs(errors[0])


def test_fewer_examples_than_a_batch_are_a_batch():
    _, gate, train = _learnable(5)
    seen = []
    distil(gate, [train], DistilSettings(epochs=3, batch_size=16), seen.append)
    assert seen == [5, 5, 5]


def test_the_ranking_loss_is_least_where_the_softmax_is_the_square_roots_share():
    scores = torch.tensor([[4.0, 1.0, 0.25]], dtype=DOUBLE)
    best = scores.sqrt().log()
    share = [2 / 3.5, 1 / 3.5, 0.5 / 3.5]
    assert float(ranking_loss(best, scores)) == pytest.approx(-sum(one * math.log(one) for one in share))
    for shift in (0.1, -0.1):
        moved = best + torch.tensor([[shift, 0, 0]], dtype=DOUBLE)
        assert ranking_loss(moved, scores) > ranking_loss(best, scores)


def test_mass_kept_is_the_share_of_the_scores_that_stay():
    _, gate, test = _learnable(2)
    scores = test[2].scores
    order = scores_of(gate, 2, test[2]).argsort(dim=1, descending=True)
    expected = [
        sum(scores[row, patch].item() for patch in order[row, :5]) / scores[row].sum().item() for row in range(2)
    ]
    found = site_quality(gate, 2, test[2], 5)
    assert found.mass_kept == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert found.best_mass_kept >= found.mass_kept
