"""The two base classes of everything in ``spec``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from heartvit_edge.errors import InputError
from heartvit_edge.spec.files import new_file, sha256_bytes


class Spec(BaseModel):
    """A frozen value that refuses unknown fields, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Artefact(Spec):
    """A value that is stored as one JSON file.

    The file carries the schema's name and version first, and is refused where they differ from the class's.

    Attributes:
        schema_name: What the file holds, such as ``pruning-plan``.
        schema_version: Raised by one whenever an older file can no longer be read.
    """

    schema_name: ClassVar[str]
    schema_version: ClassVar[int] = 1

    def to_json(self) -> str:
        """Return the file's text, its keys in field order, ending in a newline."""
        head = {"schema": self.schema_name, "schema_version": self.schema_version}
        return json.dumps(head | self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"

    def digest(self) -> str:
        """Return the SHA-256 of the file's text."""
        return sha256_bytes(self.to_json().encode())

    def write(self, path: Path, *, force: bool = False) -> None:
        """Store the value at ``path``, whole or not at all.

        Raises:
            InputError: If ``path`` exists and ``force`` is not set, or its folder cannot be written.
        """
        with new_file(path, force=force) as temporary:
            temporary.write_text(self.to_json())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the value stored at ``path``.

        Raises:
            InputError: If the file is missing, is not JSON, holds another schema or version, or breaks an invariant.
        """
        try:
            content = json.loads(path.read_text())
        except OSError as err:
            raise InputError(f"cannot read {path}: {err.strerror}") from err
        except ValueError as err:
            raise InputError(f"{path} is not JSON: {err}") from err
        if not isinstance(content, dict):
            raise InputError(f"{path} holds a JSON {type(content).__name__}, expected an object")
        found = (content.pop("schema", None), content.pop("schema_version", None))
        if found != (cls.schema_name, cls.schema_version):
            raise InputError(
                f"{path} holds schema {found[0]!r} version {found[1]!r}, "
                f"expected {cls.schema_name!r} version {cls.schema_version}",
                hint="another version of heartvit-edge made it: make it again" if found[0] == cls.schema_name else None,
            )
        try:
            return cls.model_validate(content)
        except ValidationError as err:
            first = err.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise InputError(f"{path} is not a valid {cls.schema_name}: {where}: {first['msg']}") from err
