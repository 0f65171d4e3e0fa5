"""Whatever an artefact holds, its file gives it back."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from heartvit_edge.errors import InputError
from heartvit_edge.spec.budget import QUANTITIES, SHARES, Budget, joint_label, parse_joint
from heartvit_edge.spec.model import ImageSetRef, ModelShape, ModelSource, Preprocessing
from heartvit_edge.spec.plan import BlockPlan, PlanCheck, PruningPlan
from heartvit_edge.spec.sensitivity import Calibration, ScoreSettings, SensitivityMap

CHECKED = settings(deadline=None, derandomize=True, max_examples=60)
TEXT = st.text(max_size=8)  # of any script, since a class or a file may be named in any
HASH = st.text("0123456789abcdef", min_size=64, max_size=64)
COUNT = st.integers(1, 10**6)
LOSS = st.floats(0, 1e30, allow_nan=False)
FACTOR = st.floats(1e-30, 1e30)
SCORE = st.floats(-1e30, 1e30)

sources = st.builds(
    ModelSource,
    name=TEXT,
    model_kwargs=st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple),
    weights=st.lists(TEXT, max_size=2).map(tuple),
    weights_sha256=HASH,
)
shares = st.floats(0, 1, exclude_min=True)
budgets = st.builds(Budget, quantity=st.sampled_from(SHARES), limit=shares) | st.builds(
    Budget, quantity=st.sampled_from(sorted(set(QUANTITIES) - set(SHARES))), limit=FACTOR
)
joint_budgets = st.lists(budgets, min_size=1, unique_by=lambda budget: budget.quantity)
images = st.builds(
    ImageSetRef,
    name=TEXT,
    num_images=COUNT,
    sha256=HASH,
    labelled=st.booleans(),
    seed=st.none() | st.integers(0, 2**32),
)
checks = st.builds(
    PlanCheck, images=images, loss_nats=SCORE, loss_stderr_nats=LOSS, num_agreeing=COUNT, num_tightenings=COUNT
)
calibrations = st.builds(
    Calibration,
    component=st.sampled_from(["token", "head", "token-set"]),
    scale=FACTOR,
    exponent=FACTOR,
    spearman=st.floats(-1, 1),
    r_squared=st.floats(-1e6, 1),
    median_factor=st.floats(1, 1e6),
    num_points=COUNT,
    num_images=COUNT,
)


@st.composite
def shapes(draw):
    """Draw any model of two to four blocks."""
    patch_size = draw(st.integers(1, 32))
    return ModelShape(
        img_size=patch_size * draw(st.integers(1, 6)),
        patch_size=patch_size,
        embed_dim=draw(COUNT),
        depth=draw(st.integers(2, 4)),
        num_heads=draw(st.integers(1, 4)),
        head_dim=draw(COUNT),
        mlp_in_dim=draw(COUNT),
        mlp_hidden_dim=draw(COUNT),
        num_classes=draw(COUNT),
        num_prefix_tokens=draw(st.integers(0, 6)),
        pool=draw(st.sampled_from(["token", "token+distillation", "avg"])),
    )


@st.composite
def plans(draw):
    """Draw any plan of any model."""
    shape = draw(shapes())
    counts = st.integers(shape.num_prefix_tokens + 1, shape.num_tokens)
    falling = sorted(draw(st.lists(counts, min_size=shape.depth, max_size=shape.depth)), reverse=True)
    heads = st.sets(st.integers(0, shape.num_heads - 1), min_size=1).map(lambda kept: tuple(sorted(kept)))
    groups = draw(st.integers(0, 4))
    units = st.none()
    if groups:
        units |= st.sets(st.integers(0, groups - 1), min_size=1).map(lambda kept: tuple(sorted(kept)))
    return PruningPlan(
        source=draw(sources),
        shape=shape,
        budgets=draw(st.lists(budgets, max_size=2).map(tuple)),
        blocks=tuple(BlockPlan(kept_heads=draw(heads), num_tokens=n, kept_units=draw(units)) for n in falling),
        predicted_loss_nats=draw(st.none() | LOSS),
        macs=draw(COUNT),
        dense_macs=draw(COUNT),
        params=draw(st.none() | COUNT),
        dense_params=draw(st.none() | COUNT),
        scorer=draw(st.none() | TEXT),
        sensitivity_sha256=draw(st.none() | HASH),
        prune_heads=draw(st.booleans()),
        unit_groups=groups,
        symmetric=draw(st.booleans()),
        allowed_sites=draw(st.lists(COUNT, max_size=3).map(tuple)),
        max_sites=draw(st.none() | COUNT),
        predicted_loss_stderr_nats=draw(st.none() | LOSS),
        refined_on=draw(st.none() | images),
        chosen_by=draw(st.none() | TEXT),
        check=draw(st.none() | checks),
        latency_ms=draw(st.none() | FACTOR),
        energy_mj=draw(st.none() | FACTOR),
        device=draw(st.none() | TEXT),
        device_batch_size=draw(st.none() | COUNT),
        extrapolated=draw(st.booleans()),
        device_table_sha256=draw(st.none() | HASH),
        binding=draw(st.lists(st.sampled_from(QUANTITIES), max_size=2).map(tuple)),
        nats_per_percent=draw(st.none() | LOSS),
        nested_in_sha256=draw(st.none() | HASH),
    )


@st.composite
def maps(draw):
    """Draw any sensitivity map of any model."""
    shape = draw(shapes())
    sites = tuple(sorted(draw(st.sets(st.integers(1, shape.depth - 1), min_size=1))))
    rows = st.lists(st.lists(SCORE, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple)
    errors = st.lists(st.lists(LOSS, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple)
    return SensitivityMap(
        source=draw(sources),
        shape=shape,
        preprocessing=Preprocessing(
            img_size=shape.img_size,
            interpolation="bicubic",
            crop_pct=draw(FACTOR),
            crop_mode="squash",
            mean=draw(st.tuples(SCORE, SCORE, SCORE)),
            std=draw(st.tuples(FACTOR, FACTOR, FACTOR)),
        ),
        images=draw(images),
        settings=ScoreSettings(sites=sites, num_probes=draw(st.none() | COUNT), seed=draw(st.integers(0, 2**32))),
        estimator=draw(TEXT),
        in_nats=draw(st.booleans()),
        arrays=draw(TEXT),
        arrays_sha256=draw(HASH),
        heads_mean=draw(rows),
        heads_stderr=draw(errors),
        units_mean=draw(rows),
        units_stderr=draw(errors),
        site_mean={site: draw(SCORE) for site in sites},
        site_stderr={site: draw(LOSS) for site in sites},
        calibration=draw(st.lists(calibrations, max_size=2).map(tuple)),
        calibration_images=draw(st.none() | images),
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Return the path of the one file that every example is written to."""
    return tmp_path_factory.mktemp("artefacts") / "value.json"


@CHECKED
@given(value=plans() | maps())
def test_what_is_written_is_read_again_with_the_same_digest(file, value):
    value.write(file, force=True)
    again = type(value).read(file)
    assert again == value
    assert again.digest() == value.digest()
    assert again.to_json() == value.to_json()


@CHECKED
@given(value=plans(), name=st.text(string.ascii_lowercase, min_size=1, max_size=12))
def test_a_field_that_an_artefact_does_not_have_is_refused(file, value, name):
    content = json.loads(value.to_json())
    file.write_text(json.dumps(content | {f"x_{name}": 1}))
    with pytest.raises(InputError, match=f"is not a valid pruning-plan: x_{name}: Extra inputs are not permitted"):
        PruningPlan.read(file)


@CHECKED
@given(value=plans(), share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_short_is_refused(file, value, share):
    text = value.to_json().rstrip()
    file.write_text(text[: int(share * len(text))])
    with pytest.raises(InputError, match="is not JSON"):
        PruningPlan.read(file)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(limit=shares)
def test_every_share_is_read_as_it_is_written(limit):
    budget = Budget(limit=limit)
    assert Budget.parse(repr(limit)) == budget
    assert Budget.parse(f"macs={limit!r}") == budget


@settings(deadline=None, derandomize=True, max_examples=200)
@given(budget=budgets)
def test_every_budget_is_read_from_its_label(budget):
    number = budget.label.removeprefix(f"{budget.quantity}-")
    assert Budget.parse(f"{budget.quantity}={number}") == budget


@settings(deadline=None, derandomize=True, max_examples=200)
@given(drawn=joint_budgets)
def test_budgets_together_are_read_in_the_order_of_their_quantities(drawn):
    found = parse_joint(",".join(f"{budget.quantity}={budget.limit!r}" for budget in drawn))
    assert set(found) == set(drawn)
    assert [budget.quantity for budget in found] == [
        known for known in QUANTITIES if known in {b.quantity for b in drawn}
    ]


@settings(deadline=None, derandomize=True, max_examples=200)
@given(first=joint_budgets, second=joint_budgets)
def test_different_budgets_together_have_different_labels(first, second):
    assert (joint_label(first) == joint_label(second)) == (first == second)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(number=st.floats().filter(lambda number: not 0 < number <= 1), quantity=st.sampled_from(SHARES))
def test_every_number_outside_0_to_1_is_no_share(number, quantity):
    with pytest.raises(InputError, match=r"is not in \(0, 1\]"):
        Budget.parse(f"{quantity}={number!r}")
    with pytest.raises(ValidationError):
        Budget(quantity=quantity, limit=number)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(text=st.text())
def test_any_text_is_budgets_or_is_refused_with_its_own_words(text):
    try:
        found = parse_joint(text)
    except InputError as err:
        assert any(repr(part) in str(err) for part in (text, *text.split(",")))
        assert "--budget" in str(err.hint)
    else:
        assert all(budget.limit > 0 for budget in found)
