"""A build matrix: which engines to build of a pack, on which boards, read from a TOML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, field_validator

from heartvit_edge.errors import InputError
from heartvit_edge.spec.base import Spec
from heartvit_edge.spec.engine import Backend, BatchRange, BuildSettings, Precision
from heartvit_edge.spec.machine import Machine

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXAMPLE = "engines/orin.toml of the repository explains every key"


class MatrixRow(Spec):
    """One ``[[engine]]`` of a matrix: an engine for each of its precisions and budgets.

    Attributes:
        backend: What will run them; None for TensorRT where it can be used, else ONNX Runtime.
        precision: Element types of the matrix products, one engine each.
        budget: Entries by name or number; empty for every entry of the pack. The dense entry is always built.
        batch_size: Smallest, best and largest batch, in the file also one number, for that batch alone; None for what
            ``build-engine`` serves by default.
        optimization_level: TensorRT's, 0 to 5.
        sparse: Whether TensorRT may choose kernels for sparse weights.
        boards: Parts of module names or part numbers; empty for every machine.
    """

    backend: Backend | None = None
    precision: tuple[Precision, ...] = Field(("fp32",), min_length=1)
    budget: tuple[str, ...] = ()
    batch_size: BatchRange | None = None
    optimization_level: int = Field(BuildSettings().optimization_level, ge=0, le=5)
    sparse: bool = False
    boards: tuple[str, ...] = ()

    @field_validator("batch_size", mode="before")
    @classmethod
    def _one_number_or_three(cls, value: Any) -> Any:  # noqa: ANN401 - whatever the file holds
        sizes = [value] * 3 if type(value) is int else value
        if isinstance(sizes, list) and len(sizes) == 3:
            return dict(zip(("min", "opt", "max"), sizes, strict=True))
        raise ValueError(f"expected one whole number, or three that ascend, found {value!r}")

    @property
    def settings(self) -> BuildSettings:
        """Return how its TensorRT engines are built."""
        return BuildSettings(optimization_level=self.optimization_level, sparse=self.sparse)

    def suits(self, machine: Machine) -> bool:
        """Return whether it is to be built on a machine."""
        board = (machine.board or "").lower()
        return not self.boards or any(name.lower() in board for name in self.boards)


class Matrix(Spec):
    """A whole file."""

    model_config = ConfigDict(populate_by_name=True)

    rows: tuple[MatrixRow, ...] = Field(alias="engine", min_length=1)


def read_matrix(path: Path) -> Matrix:
    """Return the matrix in a TOML file.

    Raises:
        InputError: If it cannot be read, is not TOML, or holds something else; the message names the place.
    """
    try:
        content = tomllib.loads(path.read_text())
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}", hint=EXAMPLE) from err
    except ValueError as err:
        raise InputError(f"{path} is not TOML: {err}", hint=EXAMPLE) from err
    try:
        return Matrix.model_validate(content)
    except ValidationError as err:
        raise InputError(f"{path} is not a build matrix: {_first_slip(err)}", hint=EXAMPLE) from err


def _first_slip(err: ValidationError) -> str:
    """Return where the first slip is, rows counted from one as the builder counts them, and what it is."""
    first = err.errors()[0]
    whole, *row = first["loc"]
    place = f"engine {int(row[0]) + 1}" + "".join(f", {key}" for key in row[1:2]) if row else str(whole)
    what = {
        "extra_forbidden": f"no such key, expected {', '.join(MatrixRow.model_fields if row else ['engine'])}",
        "missing": "expected at least one [[engine]]",
        "tuple_type": f'expected a list, as in ["..."], found {first["input"]!r}',
    }
    return f"{place}: {what.get(first['type'], first['msg'].removeprefix('Value error, '))}"
