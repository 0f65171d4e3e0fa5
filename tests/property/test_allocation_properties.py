"""Whatever the losses and the budget, the solver's plan is the one that trying every plan finds."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.small_plans import SHAPE, SOURCE, every_plan, limited, loss_of, macs_of, macs_problem
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from heartvit_edge.allocation.plan import dense_plan
from heartvit_edge.allocation.predict import losses_at, site_terms, token_curve
from heartvit_edge.allocation.solve import solve
from heartvit_edge.spec.plan import PruningPlan

CANDIDATES = (4, 8, 12, 17)
LOSSES = st.integers(-100, 1000).map(lambda thousandths: thousandths / 1000)


@st.composite
def problems(draw):
    """Draw a model of 3 or 4 blocks of 3 heads, and a problem of two sites of 4 candidates, any losses and no limit."""
    depth = draw(st.integers(3, 4))
    first = draw(st.integers(1, depth - 2))
    second = draw(st.integers(first + 1, depth - 1))
    shape = SHAPE.model_copy(update={"depth": depth})
    return shape, macs_problem(
        np.inf,
        draw(arrays(np.float64, (2, len(CANDIDATES)), elements=LOSSES)),
        draw(arrays(np.float64, (depth, SHAPE.num_heads), elements=LOSSES)),
        sites=(first, second),
        candidates=CANDIDATES,
        shape=shape,
    )


@settings(deadline=None, derandomize=True, max_examples=40)
@given(drawn=problems(), rank=st.floats(0, 1))
def test_the_plan_is_the_best_of_all_plans_within_the_budget(drawn, rank):
    shape, problem = drawn
    plans = [(macs_of(problem, plan, shape), loss_of(problem, plan)) for plan in every_plan(problem)]
    costs = sorted({macs for macs, _ in plans})
    budget = costs[round(rank * (len(costs) - 1))]
    found = solve(limited(problem, budget))
    assert macs_of(problem, found, shape) <= budget
    assert list(found.num_keep) == sorted(found.num_keep, reverse=True)
    assert problem.loss(found) == pytest.approx(loss_of(problem, found), abs=1e-12)
    assert problem.cost(problem.resources[0], found) == macs_of(problem, found, shape)
    assert loss_of(problem, found) == pytest.approx(min(loss for macs, loss in plans if macs <= budget), abs=1e-5)
    assert solve(limited(problem, costs[0] - 1)) is None


SCORES = arrays(np.float32, (3, 16), elements=st.floats(-1, 100, width=32))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(scores=SCORES)
def test_a_token_curve_starts_at_nothing_never_falls_and_rises_ever_faster(scores):
    curve = token_curve(scores)
    steps = np.diff(curve)
    assert curve[0] == 0
    assert (steps >= 0).all()
    assert (np.diff(steps) >= -1e-9 * curve[-1]).all()


@settings(deadline=None, derandomize=True, max_examples=100)
@given(first=SCORES, second=SCORES, counts=st.lists(st.sampled_from(CANDIDATES), min_size=2, max_size=2))
def test_the_terms_of_a_plan_add_up_to_what_each_site_adds_to_the_tokens_missing_before_it(first, second, counts):
    before, after = sorted(counts, reverse=True)
    curves = {1: token_curve(first), 3: token_curve(second)}
    terms = {site: losses_at(term, SHAPE, CANDIDATES) for site, term in site_terms(curves).items()}
    total = terms[1][CANDIDATES.index(before)] + terms[3][CANDIDATES.index(after)]
    expected = curves[1][17 - before] + curves[3][17 - after] - curves[3][17 - before]
    assert total == pytest.approx(expected, abs=1e-9 * (1 + curves[3][-1]))
    assert total >= -1e-9 * (1 + curves[3][-1])


@settings(deadline=None, derandomize=True, max_examples=100)
@given(counts=st.lists(st.integers(2, 17), min_size=4, max_size=4), kept=st.sets(st.integers(0, 2), min_size=1))
@example(counts=[17, 17, 17, 17], kept={0, 1, 2})
def test_the_sites_of_a_plan_are_where_tokens_go_and_a_plan_that_grows_is_refused(counts, kept):
    dense = dense_plan(SOURCE, SHAPE)
    blocks = [{"kept_heads": sorted(kept), "num_tokens": count} for count in counts]
    fields = dense.model_dump() | {"blocks": blocks}
    if sorted(counts, reverse=True) != counts:
        with pytest.raises(ValueError, match="expected more than the 1 prefix tokens and at most"):
            PruningPlan.model_validate(fields)
        return
    plan = PruningPlan.model_validate(fields)
    for block, count in enumerate(counts):
        passed = [kept_tokens for site, kept_tokens in plan.sites.items() if site <= block]
        assert (passed[-1] if passed else SHAPE.num_tokens) == count
    assert plan.is_dense == (set(counts) == {17} and kept == {0, 1, 2})
