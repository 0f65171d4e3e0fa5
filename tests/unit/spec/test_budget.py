"""A budget is a quantity with its largest value; a bare number is a share of the dense MACs."""

from __future__ import annotations

from itertools import permutations

import pytest
from pydantic import ValidationError

from heartvit_edge.errors import InputError
from heartvit_edge.spec.budget import QUANTITIES, SHARES, Budget, joint_label, parse_joint

ABSOLUTE = [quantity for quantity in QUANTITIES if quantity not in SHARES]


@pytest.mark.parametrize(
    ("text", "limit"), [("0.7", 0.7), ("macs=0.7", 0.7), ("1", 1.0), ("1.0", 1.0), (".5", 0.5), ("1e-3", 0.001)]
)
def test_a_budget_is_read_as_a_number_or_as_macs(text, limit):
    assert Budget.parse(text) == Budget(quantity="macs", limit=limit)


@pytest.mark.parametrize(
    ("text", "quantity", "limit"),
    [
        ("params=0.5", "params", 0.5),
        ("latency-ms=4", "latency-ms", 4.0),
        ("energy-mj=60.5", "energy-mj", 60.5),
        ("loss-nats=0.05", "loss-nats", 0.05),
        (" latency-ms = 4 ", "latency-ms", 4.0),
    ],
)
def test_every_quantity_is_read_by_its_name(text, quantity, limit):
    assert Budget.parse(text) == Budget(quantity=quantity, limit=limit)


@pytest.mark.parametrize(
    "text", ["0", "1.5", "-1", "nan", "inf", "-0.0", "1.0000001", "macs=0", "macs=2", "params=1.01", "params=nan"]
)
def test_a_share_outside_0_to_1_is_refused(text):
    with pytest.raises(InputError) as caught:
        Budget.parse(text)
    assert str(caught.value) == f"budget {text!r} is not in (0, 1]"
    quantity = "params" if text.startswith("params") else "macs"
    assert caught.value.hint.endswith(f"share of the dense model's that may stay: --budget {quantity}=0.7")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("quantity", ABSOLUTE)
@pytest.mark.parametrize("number", ["0", "-1", "nan", "inf", "-inf", "-0.0"])
def test_what_is_no_share_is_above_0_and_finite(quantity, number):
    with pytest.raises(InputError) as caught:
        Budget.parse(f"{quantity}={number}")
    assert str(caught.value) == f"budget '{quantity}={number}' is not above 0"
    assert caught.value.hint == f"for example --budget {quantity}=4"


@pytest.mark.parametrize("quantity", ABSOLUTE)
def test_what_is_no_share_may_be_above_1(quantity):
    assert Budget.parse(f"{quantity}=250").limit == 250


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        *((text, "in (0, 1]") for text in ("abc", "", "macs=", "macs=abc", "70%", "0,7", "params=half")),
        *((text, "above 0") for text in ("latency-ms=", "latency-ms=4ms", "energy-mj=x", "loss-nats=low")),
    ],
)
def test_what_is_no_number_is_refused(text, allowed):
    with pytest.raises(InputError) as caught:
        Budget.parse(text)
    assert str(caught.value) == f"budget {text!r} has no number, expected one {allowed}"
    assert "--budget" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("foo=0.5", "foo"),
        ("latency=4", "latency"),
        ("=0.5", ""),
        ("MACS=0.5", "MACS"),
        ("macs=macs=1", "macs=macs"),
    ],
)
def test_an_unknown_quantity_is_named_with_those_there_are(text, quantity):
    with pytest.raises(InputError) as caught:
        Budget.parse(text)
    assert str(caught.value) == (
        f"unknown budget {quantity!r} in {text!r}, expected one of macs, params, latency-ms, energy-mj, loss-nats"
    )
    hinted = [part.removeprefix("--budget ") for part in caught.value.hint.replace(" or ", ", ").split(", ")]
    assert [len(parse_joint(text.removeprefix("for example --budget "))) for text in hinted] == [1, 1, 2]


@pytest.mark.parametrize("limit", [0.0, -0.5, 1.01, float("nan"), float("inf")])
@pytest.mark.parametrize("quantity", SHARES)
def test_a_budget_of_no_share_cannot_be_made(quantity, limit):
    with pytest.raises(ValidationError):
        Budget(quantity=quantity, limit=limit)


@pytest.mark.parametrize("limit", [0.0, -0.5, float("nan"), float("inf")])
@pytest.mark.parametrize("quantity", ABSOLUTE)
def test_a_budget_of_nothing_or_without_an_end_cannot_be_made(quantity, limit):
    with pytest.raises(ValidationError):
        Budget(quantity=quantity, limit=limit)


def test_the_label_names_quantity_and_limit():
    texts = ("0.70", "1", "macs=0.5", "params=0.5", "latency-ms=4", "energy-mj=60.5", "loss-nats=1e-5")
    assert [Budget.parse(text).label for text in texts] == [
        "macs-0.7",
        "macs-1",
        "macs-0.5",
        "params-0.5",
        "latency-ms-4",
        "energy-mj-60.5",
        "loss-nats-1e-05",
    ]


def test_budgets_that_differ_in_the_last_digit_or_the_quantity_have_different_labels():
    assert len({Budget(limit=limit).label for limit in (0.7, 0.7000001, 0.7000000000000001)}) == 3
    assert len({Budget(quantity=quantity, limit=0.5).label for quantity in QUANTITIES}) == len(QUANTITIES)


@pytest.mark.parametrize("parts", list(permutations(["0.5", "latency-ms=4", "loss-nats=0.1"])))
def test_budgets_met_together_are_the_same_in_any_order(parts):
    expected = (
        Budget(limit=0.5),
        Budget(quantity="latency-ms", limit=4),
        Budget(quantity="loss-nats", limit=0.1),
    )
    assert parse_joint(",".join(parts)) == expected
    assert parse_joint(" , ".join(parts)) == expected
    assert joint_label(expected) == "macs-0.5+latency-ms-4+loss-nats-0.1"


def test_one_budget_is_a_joint_of_one_and_none_has_no_label():
    assert parse_joint("0.7") == (Budget(limit=0.7),)
    assert joint_label(parse_joint("0.7")) == "macs-0.7"
    assert joint_label(()) == ""


@pytest.mark.parametrize("text", ["0.7,0.5", "macs=0.7,0.7", "latency-ms=4,macs=0.5,latency-ms=5"])
def test_one_quantity_twice_is_refused(text):
    with pytest.raises(InputError) as caught:
        parse_joint(text)
    assert str(caught.value) == f"budget {text!r} limits one quantity twice"
    assert caught.value.hint == "repeat --budget for a plan each: --budget 0.7 --budget 0.5"


@pytest.mark.parametrize(
    ("text", "words"),
    [("0.5,foo=1", "unknown budget 'foo'"), ("0.5,", "budget '' has no number"), ("0,7", "'0' is not")],
)
def test_a_part_that_is_no_budget_is_named(text, words):
    with pytest.raises(InputError, match=words):
        parse_joint(text)
