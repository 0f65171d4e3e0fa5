"""A build matrix says which engines to build where; a slip in it is named by its place."""

from __future__ import annotations

import pytest
from fakes.machines import DESKTOP, orin

from heartvit_edge.engines.matrix import read_matrix
from heartvit_edge.errors import InputError
from heartvit_edge.spec.engine import BatchRange, BuildSettings


@pytest.fixture
def read(tmp_path):
    """Return a function that reads a matrix of this text."""

    def run(text):
        (tmp_path / "matrix.toml").write_text(text)
        return read_matrix(tmp_path / "matrix.toml")

    return run


def test_every_key_of_a_row_is_read(read):
    (row,) = read(
        """
        [[engine]]
        backend = "tensorrt"
        precision = ["fp16", "fp32"]
        budget = ["0.5", "dense"]
        batch_size = [1, 2, 4]
        optimization_level = 5
        sparse = true
        boards = ["AGX Orin"]
        """
    ).rows
    assert (row.backend, row.precision, row.budget) == ("tensorrt", ("fp16", "fp32"), ("0.5", "dense"))
    assert row.batch_size == BatchRange(min=1, opt=2, max=4)
    assert row.settings == BuildSettings(optimization_level=5, sparse=True)


def test_one_batch_size_is_served_alone(read):
    (row,) = read("[[engine]]\nbatch_size = 8").rows
    assert row.batch_size == BatchRange(min=8, opt=8, max=8)


def test_an_empty_row_is_every_entry_in_fp32_on_every_machine(read):
    (row,) = read("[[engine]]").rows
    assert (row.backend, row.precision, row.budget) == (None, ("fp32",), ())
    assert (row.batch_size, row.settings) == (None, BuildSettings())
    assert row.suits(DESKTOP)
    assert row.suits(orin("10.3.0"))


@pytest.mark.parametrize(
    ("boards", "suits"),
    [
        (["AGX Orin"], True),
        (["agx orin"], True),
        (["p3701-0005"], True),
        (["p3767-0000"], False),
        (["x", "Orin"], True),
    ],
)
def test_a_row_is_for_the_boards_whose_name_or_part_number_it_names(read, boards, suits):
    (row,) = read(f"[[engine]]\nboards = {boards}").rows
    assert row.suits(orin("10.3.0")) == suits
    assert not row.suits(DESKTOP)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[engine]", "is not TOML"),
        ("", "engine: expected at least one"),
        ("engine = []", "engine: .* at least 1"),
        ("[[engine]]\nprecisoin = ['fp16']", "engine 1, precisoin: no such key, expected backend, precision, budget, "),
        ("[[engine]]\nprecision = ['int4']", "engine 1, precision: Input should be 'fp32', 'fp16' or 'int8'"),
        ("[[engine]]\nprecision = []", "engine 1, precision: .* at least 1"),
        ("[[engine]]\n[[engine]]\nboards = 'Orin'", r"engine 2, boards: expected a list, .* found 'Orin'"),
        ("[[engine]]\nbatch_size = [4, 8]", r"engine 1, batch_size: expected one whole number, or three .* \[4, 8\]"),
        ("[[engine]]\nbatch_size = true", "engine 1, batch_size: expected one whole number, or three .*, found True"),
        ("[[engine]]\nbatch_size = 0", "engine 1, batch_size: Input should be greater than 0"),
        ("[[engine]]\nbatch_size = [4, 2, 1]", "engine 1, batch_size: .*min <= opt <= max, found 4, 2, 1"),
        ("[[engine]]\noptimization_level = 6", "engine 1, optimization_level: .* less than or equal to 5"),
        ("[other]\n[[engine]]", "other: no such key, expected engine"),
    ],
)
def test_a_slip_is_named_by_its_place(read, text, message):
    with pytest.raises(InputError, match=message):
        read(text)


def test_a_missing_file_is_an_error_with_an_example(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*No such file") as caught:
        read_matrix(tmp_path / "none.toml")
    assert "engines/orin.toml" in caught.value.hint


def test_the_matrices_of_the_repository_can_be_read(repository):
    matrices = {path.name: read_matrix(path) for path in (repository / "engines").glob("*.toml")}
    assert matrices.keys() == {"orin.toml", "everywhere.toml"}
    assert any(row.suits(DESKTOP) for row in matrices["everywhere.toml"].rows)
    assert [row.backend for row in matrices["orin.toml"].rows if row.suits(orin("10.3.0"))] == [
        "tensorrt",
        "tensorrt",
        "onnxruntime",
    ]
