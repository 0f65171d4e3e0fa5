"""Counts are fitted with the gate choosing, and the plan that has them says what it costs."""

from __future__ import annotations

import pytest
import torch
from fakes.device_tables import make_device_table
from fakes.small_scores import image_set, tiny_dense
from fakes.tiny_vit import plan_of

from heartvit_edge.allocation.cost import plan_macs
from heartvit_edge.allocation.device_cost import staircase
from heartvit_edge.allocation.fit_counts import FitEffort
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.gating.fitted import fit_to_gate, with_fitted
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.learn import answers_of
from heartvit_edge.gating.token_gate import entering, make_token_gate
from heartvit_edge.sensitivity.plan_images import load_plan_images
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.plan import PlanCheck
from heartvit_edge.spec.sensitivity import ScoreSettings

HEADS = {0: [0, 2]}
EFFORT = FitEffort(most_tried=30)


def plan(sites=None, **fields):
    dense = tiny_dense()
    return plan_of(dense.shape, sites or {1: 13, 3: 6}, HEADS, source=dense.source, limit=0.9).model_copy(update=fields)


@pytest.fixture(scope="module")
def images():
    return load_plan_images(tiny_dense(), image_set(16), ScoreSettings(sites=(1, 2, 3)), batch_size=4)


@pytest.fixture(scope="module")
def gate():
    torch.manual_seed(0)
    return make_token_gate(plan()).eval()


def test_losses_are_those_of_the_plan_with_the_counts_and_the_gate_choosing(images, gate):
    cost = CostModel(plan().shape)
    found = fit_to_gate(plan(), gate, images, cost, effort=EFFORT)
    assert found.counts != {1: 12, 3: 5}
    for counts, losses in (({1: 12, 3: 5}, found.before), (found.counts, found.losses)):
        one = with_fitted(plan(), counts, cost)
        assert one.sites == {site: 1 + count for site, count in counts.items()}
        answers = answers_of(GatedViT(tiny_dense().module, one, gate).eval(), images)
        assert float(losses.mean()) == pytest.approx(answers.kl_nats, rel=1e-5)
    assert found.losses.mean() < found.before.mean()


def test_counts_for_joining_are_measured_with_tokens_that_join(images, gate):
    found = fit_to_gate(plan(), gate, images, CostModel(plan().shape), reduction="join", effort=EFFORT)
    model = GatedViT(tiny_dense().module, plan(), gate, "join").eval()
    assert float(found.before.mean()) == pytest.approx(answers_of(model, images).kl_nats, rel=1e-5)
    dropping = fit_to_gate(plan(), gate, images, CostModel(plan().shape), effort=EFFORT)
    assert found.before.mean() != pytest.approx(dropping.before.mean(), rel=1e-3)


def test_the_gate_costs_no_more_than_at_the_plans_counts(images, gate):
    found = fit_to_gate(plan(), gate, images, CostModel(plan().shape), effort=EFFORT)
    fitted = with_fitted(plan(), found.counts, CostModel(plan().shape))
    assert sum(entering(fitted)) <= sum(entering(plan()))


def test_with_a_device_table_counts_stay_on_its_steps_and_within_the_latency(images, gate):
    table = make_device_table(shape=plan().shape, tokens=(3, 5, 7, 9, 11, 13, 15, 17), heads=(1, 2, 3, 4))
    cost = CostModel(plan().shape, table=table)
    latency = cost.cost("latency-ms", plan({1: 13, 3: 7}).blocks)
    start = plan({1: 13, 3: 7}, budgets=(Budget(quantity="latency-ms", limit=1.02 * latency),))
    found = fit_to_gate(start, gate, images, cost, effort=EFFORT)
    fitted = with_fitted(start, found.counts, cost)
    assert set(fitted.sites.values()) <= set(staircase(table, start.shape.num_heads))
    assert fitted.latency_ms == cost.cost("latency-ms", fitted.blocks) <= 1.02 * latency


def test_a_plan_with_other_counts_says_what_it_costs_and_nothing_that_was_measured_before():
    check = PlanCheck(images=image_set(2).ref(), loss_nats=0.1, loss_stderr_nats=0.1, num_agreeing=2)
    before = plan(
        check=check, refined_on=check.images, decided_on=check.images, binding=("macs",), nats_per_percent=0.1
    )
    found = with_fitted(before, {1: 14, 3: 3}, CostModel(before.shape))
    assert found.macs == plan_macs(found.shape, found.blocks) != before.macs
    assert [block.kept_heads for block in found.blocks] == [block.kept_heads for block in before.blocks]
    assert found.budgets == before.budgets
    unknown = (found.predicted_loss_nats, found.predicted_loss_stderr_nats, found.check, found.refined_on)
    assert (*unknown, found.decided_on, found.nats_per_percent) == (None,) * 6
    assert (found.chosen_by, found.binding) == ("learned", ())
