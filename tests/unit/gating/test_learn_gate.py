"""A gate is taught and measured, and what is stored of it is what was measured and what is loaded."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from fakes.small_scores import image_set, tiny_dense
from fakes.tiny_vit import plan_of

from heartvit_edge.allocation.cost import plan_macs
from heartvit_edge.allocation.fit_counts import FitEffort
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.errors import CheckError, InputError
from heartvit_edge.gating.distil import DistilSettings, site_quality
from heartvit_edge.gating.examples import collect_examples
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.learn import answers_of, learn_gate, macs_of_gate
from heartvit_edge.gating.stored import gate_path, load_gate, load_gate_plan, write_gate
from heartvit_edge.gating.token_gate import gate_macs
from heartvit_edge.sensitivity.plan_images import load_plan_images
from heartvit_edge.spec.gate import TrainedGate
from heartvit_edge.spec.sensitivity import ScoreSettings

SETTINGS = DistilSettings(epochs=4, batch_size=8, seed=5)
HEADS = {0: [0, 2]}
TEACHING, OTHERS = image_set(24), image_set(8, seed=1)


@pytest.fixture(scope="module")
def parts():
    settings = ScoreSettings(sites=(1, 2, 3))
    return tuple(load_plan_images(tiny_dense(), images, settings) for images in (TEACHING, OTHERS))


def plan(patches_at=None, limit=0.5):
    dense = tiny_dense()
    sites = {site: 1 + kept for site, kept in (patches_at or {1: 11, 3: 4}).items()}
    return plan_of(dense.shape, sites, HEADS, source=dense.source, limit=limit)


@pytest.fixture(scope="module")
def learned(parts):
    spent = [1, 2, 4, 8, 16, 32]  # scoring, training, fitting, scoring, training, scoring
    ticks = accumulate(number for seconds in spent for number in (100, seconds))
    return learn_gate(plan(), *parts, SETTINGS, clock=lambda: next(ticks))


def tensors(gate):
    return torch.cat([value.flatten() for value in gate.state_dict().values()])


def test_what_is_known_of_a_gate_is_measured_on_the_held_out_images(learned, parts):
    model = GatedViT(tiny_dense().module, plan(), learned.gate).eval()
    others = collect_examples(parts[1], model, by_gate=True)
    for site, num_keep in ((1, 11), (3, 4)):
        found = next(one for one in learned.sites if one.block == site)
        quality = site_quality(learned.gate, site, others[site], num_keep)
        assert found.num_keep == num_keep
        assert (found.mass_kept, found.best_mass_kept) == (quality.mass_kept, quality.best_mass_kept)
    with torch.no_grad():
        dense, logits = (torch.cat(found) for found in (parts[1].logits, [model(b)[0] for b in parts[1].batches]))
    log = dense.log_softmax(1)
    losses = (log.exp() * (log - logits.log_softmax(1))).sum(1)
    assert learned.answers.num_images == 8
    assert learned.answers.kl_nats == pytest.approx(float(losses.mean()), rel=1e-5)
    assert learned.answers.kl_stderr_nats == pytest.approx(float(losses.std()) / 8**0.5, rel=1e-5)
    assert learned.answers.num_agreeing == int((dense.argmax(1) == logits.argmax(1)).sum())
    assert learned.answers.num_correct is None


def test_scoring_and_training_are_timed_apart(learned):
    assert (learned.scoring_s, learned.training_s, learned.fitting_s) == (1 + 8 + 32, 2 + 16, 4)


def test_the_seed_draws_the_first_weights_whatever_was_drawn_before(parts, learned):
    torch.manual_seed(123)
    again = learn_gate(plan(), *parts, SETTINGS)
    assert torch.equal(tensors(again.gate), tensors(learned.gate))
    other = learn_gate(plan(), *parts, replace(SETTINGS, seed=6))
    assert not torch.equal(tensors(other.gate), tensors(learned.gate))


def test_a_gate_that_learnt_ranks_what_it_learnt_from_better_than_it_did_before(parts):
    seen = parts[0], parts[0]  # noise has nothing that would tell of other images
    untaught = learn_gate(plan(), *seen, DistilSettings(epochs=1, batch_size=12, learning_rate=1e-12, seed=5))
    for before, after in zip(untaught.sites, learn_gate(plan(), *seen, SETTINGS).sites, strict=True):
        assert after.mass_kept / after.best_mass_kept > before.mass_kept / before.best_mass_kept


def test_the_second_half_teaches_on_the_tokens_that_the_first_gate_leaves(parts, monkeypatch):
    asked = []

    def collect(images, model, *, by_gate=False):
        asked.append((images.num_images, None if not by_gate else tensors(model.gate)))
        return collect_examples(images, model, by_gate=by_gate)

    monkeypatch.setattr("heartvit_edge.gating.learn.collect_examples", collect)
    found = learn_gate(plan(), *parts, SETTINGS)
    (first, nobody), (second, leaving), (held_out, last) = asked
    assert (first, second, held_out, nobody) == (16, 8, 8, None)
    assert torch.equal(last, tensors(found.gate))
    assert not torch.equal(leaving, last)
    alone = learn_gate(plan(), parts[0].parts(2)[0], parts[1], SETTINGS)  # one batch: the first gate is the last
    assert torch.equal(leaving, tensors(alone.gate))


def test_without_costs_counts_stay_and_the_plan_is_the_one_asked_for(learned):
    assert learned.plan == plan()


ROOMY = plan(limit=0.9)
EFFORT = FitEffort(most_tried=20)


@pytest.fixture(scope="module")
def fitted(parts):
    return learn_gate(ROOMY, parts[0], parts[0], SETTINGS, CostModel(ROOMY.shape), effort=EFFORT)


def test_counts_fit_the_gate_within_the_budget_and_the_plan_says_what_chose(fitted, parts):
    own = fitted.plan
    assert list(own.sites) == [1, 3]
    assert own.sites != ROOMY.sites
    assert own.macs == plan_macs(own.shape, own.blocks) <= 0.9 * own.dense_macs
    assert [block.kept_heads for block in own.blocks] == [block.kept_heads for block in ROOMY.blocks]
    assert (own.budgets, own.chosen_by, own.check) == (ROOMY.budgets, "learned", None)
    answers = answers_of(GatedViT(tiny_dense().module, own, fitted.gate).eval(), parts[0])
    assert fitted.answers == answers
    assert (own.predicted_loss_nats, own.predicted_loss_stderr_nats) == (answers.kl_nats, answers.kl_stderr_nats)
    assert [site.num_keep for site in fitted.sites] == [count - 1 for count in own.sites.values()]


def test_fitted_counts_are_left_where_they_lose_no_less_on_the_held_out_images(parts, monkeypatch):
    def same(model, images):
        return answers_of(model, images).model_copy(update={"kl_nats": 0.5})

    monkeypatch.setattr("heartvit_edge.gating.learn.answers_of", same)
    found = learn_gate(ROOMY, parts[0], parts[0], SETTINGS, CostModel(ROOMY.shape), effort=EFFORT)
    assert found.plan == ROOMY


def stored(folder, learned, of=None, **given):
    return write_gate(folder, of or plan(), learned, SETTINGS, TEACHING.ref(), OTHERS.ref(), **given)


def test_a_stored_gate_is_loaded_as_it_was(tmp_path, learned):
    found = stored(tmp_path / "gates", learned)
    path = gate_path(tmp_path / "gates", plan())
    assert path.name == "macs-0.5.json"
    assert TrainedGate.read(path) == found
    loaded = load_gate(path, plan())
    assert torch.equal(tensors(loaded), tensors(learned.gate))
    assert not any(value.requires_grad for value in loaded.parameters())
    assert (found.plan_sha256, found.images, found.held_out) == (plan().digest(), TEACHING.ref(), OTHERS.ref())
    assert dict(found.settings).items() >= {"epochs": 4, "batch_size": 8, "learning_rate": 2e-3, "seed": 5}.items()


def test_the_macs_are_those_of_the_gates_networks_with_the_tokens_that_enter_them(tmp_path, learned):
    found = stored(tmp_path, learned)
    assert found.macs == gate_macs(plan().shape, [16, 11], found.hidden_units)
    assert found.macs == macs_of_gate(learned.gate, plan())
    assert found.macs_fraction == found.macs / plan().dense_macs


def test_the_plan_with_fitted_counts_lies_beside_its_gate(tmp_path, fitted):
    found = stored(tmp_path, fitted, ROOMY)
    path = gate_path(tmp_path, ROOMY)
    assert (found.plan, found.fitted_from_sha256) == ("macs-0.9.plan.json", ROOMY.digest())
    assert found.plan_sha256 == fitted.plan.digest() != ROOMY.digest()
    assert load_gate_plan(path) == fitted.plan
    assert torch.equal(tensors(load_gate(path, fitted.plan)), tensors(fitted.gate))
    assert found.macs == macs_of_gate(fitted.gate, fitted.plan)
    with pytest.raises(InputError, match="is a gate for another plan") as caught:
        load_gate(path, ROOMY)
    assert f"name the plan beside the gate, {tmp_path / found.plan}" in caught.value.hint
    (tmp_path / found.plan).write_text(ROOMY.to_json())
    with pytest.raises(CheckError, match="was altered"):
        load_gate_plan(path)


def test_a_gate_of_another_plan_is_refused(tmp_path, learned):
    stored(tmp_path, learned)
    with pytest.raises(InputError, match=r"is a gate for another plan \(macs-0.5 of vit_tiny") as caught:
        load_gate(gate_path(tmp_path, plan()), plan({1: 10, 3: 4}))
    assert "--gate learned" in caught.value.hint


def test_an_altered_gate_is_refused(tmp_path, learned):
    stored(tmp_path, learned)
    with (tmp_path / "macs-0.5.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckError, match="was altered"):
        load_gate(gate_path(tmp_path, plan()), plan())


def test_a_gate_is_replaced_by_force_alone_and_tensors_without_json_are_no_gate(tmp_path, learned):
    first = stored(tmp_path, learned)
    with pytest.raises(InputError, match="exists already"):
        stored(tmp_path, learned)
    assert stored(tmp_path, learned, force=True) == first
    gate_path(tmp_path, plan()).unlink()  # as an interruption leaves it
    assert stored(tmp_path, learned) == first


def test_answers_of_the_dense_plan_are_the_dense_answers(parts):
    dense = tiny_dense()
    whole = GatedViT(dense.module, plan_of(dense.shape, source=dense.source), None).eval()
    found = answers_of(whole, parts[0])
    assert (found.num_images, found.num_agreeing) == (24, 24)
    assert found.kl_nats < 1e-9
