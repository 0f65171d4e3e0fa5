"""An artefact's file gives back what was written, and nothing else is taken for it."""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
from collections.abc import Iterator

import pytest
from fakes.artefacts import every_artefact
from pydantic import ValidationError

import heartvit_edge.spec
from heartvit_edge.errors import InputError
from heartvit_edge.spec.base import Artefact

VALUES = every_artefact()


@pytest.fixture(params=VALUES)
def value(request):
    """Return each artefact in turn."""
    return VALUES[request.param]


@pytest.fixture
def path(tmp_path):
    """Return a path that nothing is at."""
    return tmp_path / "value.json"


def _refused(value, path) -> str:
    with pytest.raises(InputError) as caught:
        type(value).read(path)
    assert caught.value.exit_code == 2
    return str(caught.value)


def _objects(content, where=()) -> Iterator[tuple[tuple[str | int, ...], dict]]:
    """Give every object inside JSON content that is a value of ours, with its place."""
    found = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    if isinstance(content, dict):
        yield where, content
    for key, inside in found:
        yield from _objects(inside, (*where, key))


def test_every_artefact_of_the_package_is_tested_here():
    for module in pkgutil.iter_modules(heartvit_edge.spec.__path__):
        importlib.import_module(f"heartvit_edge.spec.{module.name}")
    of_the_package = {found for found in Artefact.__subclasses__() if found.__module__.startswith("heartvit_edge.")}
    assert {type(value) for value in VALUES.values()} == of_the_package


def test_artefacts_have_different_schemas():
    assert len({found.schema_name for found in Artefact.__subclasses__()}) == len(Artefact.__subclasses__())


def test_what_is_written_is_read_again(value, path):
    value.write(path)
    again = type(value).read(path)
    assert again == value
    assert again.to_json() == value.to_json()


def test_the_digest_is_the_hash_of_the_file(value, path):
    value.write(path)
    assert value.digest() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_file_names_its_schema_and_version_first_and_ends_in_a_newline(value, path):
    value.write(path)
    text = path.read_text()
    assert list(json.loads(text))[:2] == ["schema", "schema_version"]
    assert json.loads(text)["schema"] == value.schema_name
    assert text.endswith("}\n")


def test_a_value_cannot_be_changed(value):
    name = next(iter(type(value).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(value, name, None)


def test_a_missing_file_is_named(value, path):
    assert _refused(value, path) == f"cannot read {path}: No such file or directory"


def test_a_folder_is_no_artefact(value, tmp_path):
    assert _refused(value, tmp_path) == f"cannot read {tmp_path}: Is a directory"


def test_a_file_cut_short_is_not_json(value, path):
    text = value.to_json()
    path.write_text(text[: len(text) // 2])
    assert _refused(value, path).startswith(f"{path} is not JSON: ")


def test_bytes_that_are_no_text_are_not_json(value, path):
    path.write_bytes(b"\xff\xfe\x00\x80")
    assert _refused(value, path).startswith(f"{path} is not JSON: ")


def test_a_list_is_no_artefact(value, path):
    path.write_text("[1, 2]")
    assert _refused(value, path) == f"{path} holds a JSON list, expected an object"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"schema": "recipe"}, "'recipe' version {version}"),
        ({"schema_version": 9}, "'{name}' version 9"),
        ({"schema": None, "schema_version": None}, "None version None"),
    ],
)
def test_another_schema_or_version_is_named_beside_the_expected_one(value, path, change, found):
    path.write_text(json.dumps(json.loads(value.to_json()) | change))
    name = value.schema_name
    version = value.schema_version
    found = found.format(name=name, version=version)
    assert _refused(value, path) == f"{path} holds schema {found}, expected {name!r} version {version}"


def test_a_file_of_another_version_says_what_to_do(value, path):
    path.write_text(json.dumps(json.loads(value.to_json()) | {"schema_version": value.schema_version + 1}))
    with pytest.raises(InputError) as caught:
        type(value).read(path)
    assert caught.value.hint == "another version of heartvit-edge made it: make it again"


def test_a_file_without_a_schema_is_no_artefact(value, path):
    path.write_text(json.dumps(value.model_dump(mode="json")))
    assert "holds schema None version None" in _refused(value, path)


def test_an_artefact_is_not_read_as_another(path):
    VALUES["pruning-plan"].write(path)
    assert "holds schema 'pruning-plan' version 1, expected 'sensitivity-map'" in _refused(
        VALUES["sensitivity-map"], path
    )


def test_an_unknown_field_is_named(value, path):
    path.write_text(json.dumps(json.loads(value.to_json()) | {"colour": "red"}))
    expected = f"{path} is not a valid {value.schema_name}: colour: Extra inputs are not permitted"
    assert _refused(value, path) == expected


def test_an_unknown_field_is_refused_however_deep_it_lies(value, path):
    text = value.to_json()
    free = {
        "site_mean",
        "site_stderr",
        "rails_mw",
        "resolution_mw",
        "predictions",
        "kept",
        "num_keep",
        "num_keep_range",
    }  # mappings whose keys are data
    places = [where for where, _ in _objects(json.loads(text)) if where and not free & set(map(str, where))]
    assert places
    for where in places:
        content = json.loads(text)
        inside = content
        for key in where:
            inside = inside[key]
        inside["colour"] = "red"
        path.write_text(json.dumps(content))
        found = ".".join(map(str, (*where, "colour")))
        assert _refused(value, path).endswith(f": {found}: Extra inputs are not permitted")


def test_a_missing_field_is_named(value, path):
    content = json.loads(value.to_json())
    name = next(name for name, field in type(value).model_fields.items() if field.is_required())
    del content[name]
    path.write_text(json.dumps(content))
    assert _refused(value, path) == f"{path} is not a valid {value.schema_name}: {name}: Field required"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ("pruning-plan", ("predicted_loss_nats",)),
        ("sensitivity-map", ("heads_mean", 0, 1)),
        ("sensitivity-map", ("site_mean", "1")),
        ("sensitivity-map", ("calibration", 0, "scale")),
        ("budget-pack", ("entries", 1, "parity", "max_abs_error")),
        ("engine", ("build_s",)),
        ("measurement", ("rows", 0, "trials", 0, "latency_ms", 0)),
        ("measurement", ("power", "rails_mw", "GPU", 0)),
        ("evaluation", ("entries", 1, "kl_nats", 0)),
    ],
)
def test_a_number_that_is_not_finite_is_refused_by_its_place(path, schema, place, number):
    value = VALUES[schema]
    content = json.loads(value.to_json())
    inside = content
    for key in place[:-1]:
        inside = inside[key]
    assert isinstance(inside[place[-1]], float)
    inside[place[-1]] = float(number)
    path.write_text(json.dumps(content))
    assert number in path.read_text()
    expected = f"{path} is not a valid {schema}: {'.'.join(map(str, place))}: Input should be "
    assert _refused(value, path).startswith(expected)


def test_an_existing_file_is_replaced_only_by_force(value, path):
    path.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        value.write(path)
    assert path.read_text() == "mine"
    value.write(path, force=True)
    assert type(value).read(path) == value


def test_a_file_is_readable_by_all_and_stands_alone(value, path):
    value.write(path)
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]
