"""A device table has every cell of its grid, in the units it says, or is refused."""

from __future__ import annotations

import pytest
from fakes.device_tables import make_device_table
from fakes.tiny_pack import SHAPE
from pydantic import ValidationError

from heartvit_edge.errors import InputError
from heartvit_edge.spec.device_table import DeviceTable

CELLS = {"tokens": (16, 17), "heads": (1, 2)}
ROWS = [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize("with_energy", [False, True])
def test_what_is_written_is_read_again(tmp_path, with_energy):
    table = make_device_table(mj=(lambda tokens, heads: 1.0 * tokens * heads) if with_energy else None)
    table.write(tmp_path / "table.json")
    assert DeviceTable.read(tmp_path / "table.json") == table


@pytest.mark.parametrize(
    ("name", "counts"), [("tokens", ()), ("tokens", (17, 16)), ("tokens", (16, 16, 17)), ("heads", (2, 1))]
)
def test_counts_ascend_without_repeats(name, counts):
    with pytest.raises(ValidationError, match="counts must ascend without repeats and not be empty"):
        make_device_table(**{name: counts})


@pytest.mark.parametrize(
    ("changes", "found"),
    [({"tokens": (8, 16)}, "16 and 2"), ({"tokens": (17, 18)}, "18 and 2"), ({"heads": (1,)}, "17 and 1")],
)
def test_the_last_cell_is_the_dense_block(changes, found):
    with pytest.raises(ValidationError, match=f"must be the dense block of 17 tokens and 2 heads, found {found}"):
        make_device_table(**changes)


def test_no_cell_is_of_no_tokens():
    with pytest.raises(ValidationError, match=r"tokens\.0"):
        make_device_table(tokens=(0, 17))


@pytest.mark.parametrize("name", ["block_ms", "block_low_ms", "block_high_ms", "num_samples", "seconds", "block_mj"])
@pytest.mark.parametrize("rows", [[[1, 2]], [[1, 2], [3]], [[1, 2], [3, 4], [5, 6]]])
def test_every_table_has_every_cell(name, rows):
    with pytest.raises(ValidationError, match=f"{name} must have 2 rows of 2"):
        make_device_table(mj=lambda *_: 1.0, **CELLS | {name: rows})


def test_a_call_is_measured_at_each_token_count():
    with pytest.raises(ValidationError, match="call_ms must have 2 entries, found 1"):
        make_device_table(**CELLS | {"call_ms": [0.1]})


@pytest.mark.parametrize("name", ["block_ms", "block_low_ms", "block_high_ms", "num_samples", "seconds", "block_mj"])
def test_every_cell_is_positive(name):
    with pytest.raises(ValidationError, match=rf"{name}\.1\.0"):
        make_device_table(mj=lambda *_: 1.0, **CELLS | {name: [[1, 2], [0, 4]]})


@pytest.mark.parametrize("name", ["fixed_ms", "fixed_mj", "batch_size", "num_chained", "num_copies", "num_rounds"])
def test_every_number_is_positive(name):
    with pytest.raises(ValidationError, match=name):
        make_device_table(mj=lambda *_: 1.0, **{name: 0})


@pytest.mark.parametrize(("name", "value"), [("block_low_ms", 4.5), ("block_high_ms", 3.5)])
def test_a_cell_lies_between_its_low_and_high(name, value):
    tables = {"block_ms": ROWS, "block_low_ms": ROWS, "block_high_ms": ROWS}
    make_device_table(**CELLS | tables)
    with pytest.raises(ValidationError, match="block_ms must lie between its low and high"):
        make_device_table(**CELLS | tables | {name: [[1.0, 2.0], [3.0, value]]})


@pytest.mark.parametrize(
    "changes",
    [
        {"block_mj": None},
        {"fixed_mj": None},
        {"energy_source": None},
        {"no_energy_reason": "none"},
        {"block_mj": None, "fixed_mj": None, "energy_source": None},
    ],
)
def test_there_is_energy_with_its_source_or_a_reason(changes):
    with pytest.raises(ValidationError, match="together, or no_energy_reason alone"):
        make_device_table(mj=lambda *_: 1.0, **changes)


def test_a_file_with_a_cell_that_is_not_finite_is_refused_by_its_place(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(make_device_table().to_json().replace("1.25", "Infinity", 1))
    with pytest.raises(InputError, match=r"is not a valid device-table: block_ms\.0\.0: Input should be"):
        DeviceTable.read(path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (4, 8, 12, 16, 17)),  # 17 tokens: steps of 8 give two counts, steps of 4 four
        ({"img_size": 224, "patch_size": 16}, (*range(8, 197, 8), 197)),
        ({"img_size": 112, "patch_size": 14, "num_prefix_tokens": 5}, (*range(8, 69, 8), 69)),
        ({"img_size": 128, "patch_size": 8, "num_prefix_tokens": 0}, tuple(range(8, 257, 8))),
        ({"num_prefix_tokens": 4}, (8, 12, 16, 20)),  # 4 tokens would be the prefix alone
        ({"img_size": 8, "num_prefix_tokens": 0}, (1,)),
    ],
)
def test_token_counts_are_multiples_that_leave_a_patch_and_all_tokens(changes, expected):
    shape = SHAPE.model_copy(update=changes)
    assert shape.token_counts() == expected
