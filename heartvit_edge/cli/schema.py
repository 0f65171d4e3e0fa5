"""``heartvit-edge schema``: what a stored file holds, as JSON Schema."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated

import typer

from heartvit_edge.spec.base import Artefact
from heartvit_edge.spec.device_table import DeviceTable
from heartvit_edge.spec.engine import EngineManifest
from heartvit_edge.spec.evaluation import Evaluation
from heartvit_edge.spec.finetune import FinetuneRun
from heartvit_edge.spec.gate import TrainedGate
from heartvit_edge.spec.layers import EngineLayers
from heartvit_edge.spec.measurement import Measurement
from heartvit_edge.spec.pack import BudgetPack
from heartvit_edge.spec.plan import PruningPlan
from heartvit_edge.spec.sensitivity import SensitivityMap

STORED: dict[str, type[Artefact]] = {
    one.schema_name: one
    for one in (
        Measurement,
        Evaluation,
        DeviceTable,
        PruningPlan,
        SensitivityMap,
        BudgetPack,
        EngineManifest,
        EngineLayers,
        FinetuneRun,
        TrainedGate,
    )
}

SchemaName = Enum("SchemaName", {name.replace("-", "_"): name for name in STORED}, type=str)  # type: ignore[misc]
SchemaName.__doc__ = "Files that are stored as JSON."


def schema(name: Annotated[SchemaName, typer.Argument(help="What the file's `schema` field says.")]) -> None:
    """Print the JSON Schema of a file that heartvit-edge stores.

    Example: heartvit-edge schema measurement > measurement.schema.json
    """
    typer.echo(json.dumps(json_schema(STORED[name.value]), indent=1))


def json_schema(artefact: type[Artefact]) -> dict[str, object]:
    """Return the JSON Schema of an artefact's file, its schema's name and version included."""
    content = artefact.model_json_schema(mode="serialization")
    head = {"schema": {"const": artefact.schema_name}, "schema_version": {"const": artefact.schema_version}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **content,
        "properties": head | content["properties"],
        "required": [*head, *content.get("required", ())],
    }
