"""heartvit-edge schema: what stored files hold, judged by a validator of JSON Schema that is not ours."""

from __future__ import annotations

import json

import pytest
from fakes.artefacts import every_artefact
from jsonschema import Draft202012Validator

VALUES = every_artefact()


@pytest.fixture
def validator(run_cli):
    def load(name):
        schema = json.loads(run_cli("schema", name).stdout)
        Draft202012Validator.check_schema(schema)
        return Draft202012Validator(schema)

    return load


@pytest.mark.parametrize("name", VALUES)
def test_a_stored_file_is_valid_by_its_schema(validator, name):
    validator(name).validate(json.loads(VALUES[name].to_json()))


@pytest.mark.parametrize(
    "change",
    [{"schema": "evaluation"}, {"schema_version": 2}, {"rows": None}, {"power": "jtop"}, {"surprise": 1}],
    ids=lambda change: next(iter(change)),
)
def test_a_file_that_was_changed_is_not(validator, change):
    content = json.loads(VALUES["measurement"].to_json()) | change
    assert not validator("measurement").is_valid(content)


@pytest.mark.parametrize("field", ["schema", "schema_version", "pack", "rows", "machine"])
def test_a_file_that_lacks_a_field_is_not(validator, field):
    content = json.loads(VALUES["measurement"].to_json())
    del content[field]
    assert not validator("measurement").is_valid(content)


def test_an_unknown_file_exits_2_and_names_those_there_are(run_cli):
    result = run_cli("schema", "diary")
    assert result.exit_code == 2
    assert "measurement" in result.stderr
