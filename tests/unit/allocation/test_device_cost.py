"""Block costs between the cells of a device table, and the token counts worth keeping."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.device_tables import NO_ENERGY, make_device_table, product_ms
from fakes.tiny_pack import SHAPE
from scipy.optimize import minimize

from heartvit_edge.allocation.device_cost import block_costs, check_table, fixed_cost, staircase
from heartvit_edge.errors import InputError

VIT_S = SHAPE.model_copy(update={"img_size": 224, "patch_size": 16, "num_heads": 6})


def table_of(cells, **changes):
    """Return a table of 8, 12, 16, 17 tokens (the last so many) and 1, 2 heads (likewise) with these cells."""
    rows = dict(zip((8, 12, 16, 17)[-len(cells) :], cells, strict=True))
    heads = (1, 2)[-len(cells[0]) :]
    return make_device_table(
        lambda tokens, count: rows[tokens][heads.index(count)], tokens=tuple(rows), heads=heads, **changes
    )


def nearest_non_decreasing(cells):
    """Return the least-squares fit to the logarithms that falls along neither axis, by a general solver."""
    logs = np.log(cells)
    index = np.arange(logs.size).reshape(logs.shape)
    along_tokens = zip(index[:-1].flat, index[1:].flat, strict=True)
    along_heads = zip(index[:, :-1].flat, index[:, 1:].flat, strict=True)
    pairs = [*along_tokens, *along_heads]
    steps = np.zeros((len(pairs), logs.size))
    for row, (low, high) in enumerate(pairs):
        steps[row, low], steps[row, high] = -1, 1
    found = minimize(
        lambda values: ((values - logs.ravel()) ** 2).sum(),
        np.sort(logs.ravel()),
        jac=lambda values: 2 * (values - logs.ravel()),
        constraints=[{"type": "ineq", "fun": lambda values: steps @ values, "jac": lambda _: steps}],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found.success
    return np.exp(found.x).reshape(logs.shape)


def test_a_bilinear_cost_is_given_back_exactly_inside_and_outside_the_grid():
    table = make_device_table(shape=VIT_S, tokens=(40, 96, 150, 197), heads=(2, 5, 6))
    tokens, heads = (1, 40, 41, 97, 150, 196, 197), (1, 2, 3, 4, 5, 6)
    costs, extrapolated = block_costs(table, "latency-ms", tokens, heads)
    np.testing.assert_allclose(costs, [[product_ms(n, h) for h in heads] for n in tokens], rtol=1e-9)
    assert extrapolated.tolist() == [[n < 40 or h < 2 for h in heads] for n in tokens]


def test_measured_cells_in_order_are_given_back():
    cells = [[1.0, 1.5], [1.0, 2.0], [1.75, 2.0], [4.0, 8.0]]
    costs, extrapolated = block_costs(table_of(cells), "latency-ms", (8, 12, 16, 17), (1, 2))
    np.testing.assert_allclose(costs, cells, rtol=1e-12)
    assert not extrapolated.any()


def test_two_cells_in_the_wrong_order_meet_at_their_geometric_mean():
    costs, _ = block_costs(table_of([[1.0], [4.0], [2.0], [8.0]]), "latency-ms", (8, 12, 16, 17), (2,))
    np.testing.assert_allclose(costs[:, 0], [1.0, 8**0.5, 8**0.5, 8.0], rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_noisy_cells_become_the_nearest_that_fall_along_neither_axis(seed):
    noise = np.random.default_rng(seed).standard_normal((4, 2))
    cells = np.exp(0.3 * noise) * [[product_ms(n, h) for h in (1, 2)] for n in (8, 12, 16, 17)]
    costs, _ = block_costs(table_of(cells.tolist()), "latency-ms", (8, 12, 16, 17), (1, 2))
    np.testing.assert_allclose(costs, nearest_non_decreasing(cells), rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_costs_never_fall_as_tokens_or_heads_grow(seed):
    random = np.random.default_rng(seed)
    table = make_device_table(
        lambda *_: random.uniform(1.0, 3.0),
        shape=VIT_S,
        tokens=(8, 64, 128, 197),
        heads=(1, 3, 6),
        block_low_ms=[[0.5] * 3] * 4,
        block_high_ms=[[9.0] * 3] * 4,
    )
    costs, _ = block_costs(table, "latency-ms", range(8, 198), range(1, 7))
    assert (np.diff(costs, axis=0) >= -1e-12).all()
    assert (np.diff(costs, axis=1) >= -1e-12).all()


def test_no_extrapolated_cost_is_negative():
    costs, extrapolated = block_costs(table_of([[1.0, 2.0], [9.0, 10.0]]), "latency-ms", (1, 16), (2,))
    assert (costs[0, 0], extrapolated[0, 0]) == (0.0, True)
    assert (costs[1, 0], extrapolated[1, 0]) == (2.0, False)


def test_of_one_head_count_alone_every_other_has_the_cost_and_is_extrapolated():
    costs, extrapolated = block_costs(table_of([[2.0], [3.0]]), "latency-ms", (16, 17), (1, 2))
    np.testing.assert_allclose(costs, [[2.0, 2.0], [3.0, 3.0]], rtol=1e-12)
    assert extrapolated.tolist() == [[True, False], [True, False]]


def test_energy_is_read_from_the_energy_cells():
    table = make_device_table(mj=lambda tokens, heads: 3.0 * tokens * heads)
    costs, _ = block_costs(table, "energy-mj", (10, 17), (1, 2))
    np.testing.assert_allclose(costs, [[30.0, 60.0], [51.0, 102.0]])
    assert (fixed_cost(table, "energy-mj"), fixed_cost(table, "latency-ms")) == (2.0, 0.25)


def test_a_table_without_energy_says_why_and_what_to_do():
    for ask in (
        lambda table: block_costs(table, "energy-mj", (17,), (2,)),
        lambda table: fixed_cost(table, "energy-mj"),
    ):
        with pytest.raises(InputError, match=f"the device table has no energy: {NO_ENERGY}") as caught:
            ask(make_device_table())
        assert "heartvit-edge bench PACK --profile-table" in caught.value.hint


def test_a_table_fits_a_model_of_any_depth_with_its_dimensions():
    check_table(make_device_table(), SHAPE.model_copy(update={"depth": 24}))


@pytest.mark.parametrize("name", ["img_size", "embed_dim", "num_heads", "head_dim", "mlp_in_dim", "num_classes"])
def test_a_table_of_other_dimensions_is_refused_and_each_is_named(name):
    other = SHAPE.model_copy(update={name: 2 * getattr(SHAPE, name), "pool": "avg"})
    with pytest.raises(
        InputError, match=f"{name} is {getattr(SHAPE, name)}, the model's {getattr(other, name)}"
    ) as found:
        check_table(make_device_table(), other)
    assert "pool is token, the model's avg" in str(found.value)
    assert "--profile-table" in found.value.hint


def worth_keeping(tokens, cost):
    """Return the staircase by its definition."""
    return tuple(
        count
        for count, own in zip(tokens, cost, strict=True)
        if not any(other > count and at <= 1.01 * own for other, at in zip(tokens, cost, strict=True))
    )


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        ((1.0, 2.0, 3.0, 4.0), (8, 12, 16, 17)),
        ((2.0, 2.0, 2.0, 4.0), (16, 17)),
        ((2.0, 2.01, 2.02, 2.05), (16, 17)),
        ((1.0, 3.0, 2.0, 4.0), (8, 16, 17)),  # 12 tokens are slower than 16
        ((3.0, 3.0, 3.0, 3.0), (17,)),
        ((5.0, 2.0, 1.0, 0.5), (17,)),
    ],
)
def test_the_staircase_leaves_out_counts_below_which_more_tokens_are_free(cost, expected):
    table = table_of([[value] for value in cost])
    assert staircase(table, 2) == expected == worth_keeping((8, 12, 16, 17), cost)


def test_the_staircase_leaves_out_counts_that_keep_no_patch_beside_the_prefix():
    registers = SHAPE.model_copy(update={"num_prefix_tokens": 5})
    table = make_device_table(shape=registers, tokens=(4, 5, 6, 21))
    assert staircase(table, 2) == (6, 21)


def test_the_staircase_between_measured_head_counts_is_that_of_the_mean():
    tokens, heads = (64, 128, 197), (2, 6)
    cells = {64: (1.0, 5.0), 128: (2.0, 4.0), 197: (3.0, 9.0)}
    table = make_device_table(lambda n, h: cells[n][heads.index(h)], shape=VIT_S, tokens=tokens, heads=heads)
    assert staircase(table, 2) == (64, 128, 197)
    assert staircase(table, 6) == (128, 197)
    assert staircase(table, 4) == (128, 197) == worth_keeping(tokens, (3.0, 3.0, 6.0))


def test_the_staircase_of_random_costs_is_the_one_of_its_definition():
    random = np.random.default_rng(0)
    for cost in random.uniform(1, 1.05, (20, 4)).tolist():
        assert staircase(table_of([[value] for value in cost]), 2) == worth_keeping((8, 12, 16, 17), cost)
