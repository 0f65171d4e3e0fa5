"""A budget is a share in (0, 1], written as a number or as macs=number."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from heartvit_edge.errors import InputError
from heartvit_edge.spec.budget import Budget


@pytest.mark.parametrize(
    ("text", "limit"), [("0.7", 0.7), ("macs=0.7", 0.7), ("1", 1.0), ("1.0", 1.0), (".5", 0.5), ("1e-3", 0.001)]
)
def test_a_budget_is_read_as_a_number_or_as_macs(text, limit):
    assert Budget.parse(text) == Budget(quantity="macs", limit=limit)


@pytest.mark.parametrize("text", ["0", "1.5", "-1", "nan", "inf", "-0.0", "1.0000001", "macs=0", "macs=2"])
def test_a_number_outside_0_to_1_is_refused(text):
    with pytest.raises(InputError) as caught:
        Budget.parse(text)
    assert str(caught.value) == f"budget {text!r} is outside (0, 1]"
    assert caught.value.hint.endswith("--budget 0.7")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["abc", "", "macs=", "macs=abc", "70%", "0,7"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(InputError) as caught:
        Budget.parse(text)
    assert str(caught.value) == f"budget {text!r} has no number, expected one in (0, 1]"
    assert caught.value.hint.endswith("--budget 0.7")


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("foo=0.5", "foo"),
        ("latency-ms=4", "latency-ms"),
        ("=0.5", ""),
        ("MACS=0.5", "MACS"),
        ("macs=macs=1", "macs=macs"),
    ],
)
def test_an_unknown_quantity_is_named(text, quantity):
    with pytest.raises(InputError) as caught:
        Budget.parse(text)
    assert str(caught.value) == f"unknown budget {quantity!r} in {text!r}"
    assert caught.value.hint == "write --budget 0.7 or --budget macs=0.7"


@pytest.mark.parametrize("limit", [0.0, -0.5, 1.01, float("nan"), float("inf")])
def test_a_budget_of_no_share_cannot_be_made(limit):
    with pytest.raises(ValidationError):
        Budget(limit=limit)


def test_the_label_names_quantity_and_limit():
    assert [Budget.parse(text).label for text in ("0.70", "1", "macs=0.5")] == ["macs-0.7", "macs-1", "macs-0.5"]


def test_budgets_that_differ_in_the_last_digit_have_different_labels():
    assert len({Budget(limit=limit).label for limit in (0.7, 0.7000001, 0.7000000000000001)}) == 3
