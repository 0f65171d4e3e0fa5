"""The layer table of a TensorRT engine, read from its inspector."""

from __future__ import annotations

import json
import re
from typing import Any

from heartvit_edge.engines.tensorrt_module import Log
from heartvit_edge.errors import CheckError
from heartvit_edge.spec.layers import EngineLayer, EngineLayers

# Without a context the inspector writes "Half", with one "Row major linear FP16 format".
PRECISIONS = {
    "fp16": ("half", "fp16"),
    "bf16": ("bfloat16", "bf16"),
    "fp32": ("float", "fp32"),
    "fp8": ("fp8",),
    "int8": ("int8",),
    "int32": ("int32",),
    "int64": ("int64",),
    "bool": ("bool",),
}
FUSED_ATTENTION = re.compile(r"gem[mv]_mha|fmha|_mha_v\d")
OPAQUE = "Myelin"  # before TensorRT 10 a whole region of the graph is one layer of this type


def inspect_engine(
    trt: Any,  # noqa: ANN401
    plan: Any,  # noqa: ANN401
    logger: Any,  # noqa: ANN401
    log: Log,
    sha256: str,
    profile: int | None = None,
) -> EngineLayers:
    """Return the layers of an engine that was built with detailed profiling verbosity.

    Args:
        trt: The tensorrt module.
        plan: The engine, just built: a tensorrt.IHostMemory.
        logger: TensorRT's.
        log: What it logs.
        sha256: The engine's hash.
        profile: Optimization profile whose layers are wanted; None where the engine has one.

    Raises:
        CheckError: If the engine cannot be loaded or inspected, or the inspector's JSON is malformed.
    """
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    inspector = None if engine is None else engine.create_engine_inspector()
    if inspector is None:
        raise CheckError(f"TensorRT {trt.__version__} cannot inspect the engine that it built: {log.said()}")
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    del inspector, engine, runtime  # in this order
    return parse_layers(text, sha256, profile)


def parse_layers(text: str, sha256: str, profile: int | None = None) -> EngineLayers:
    """Return the layers in the inspector's JSON, or those of one optimization profile.

    Args:
        text: What ``get_engine_information`` gave.
        sha256: The engine's hash.
        profile: Its number; None for all layers.

    Raises:
        CheckError: If it is not JSON with a list of detailed layers, or does not tell the profiles apart.
    """
    try:
        layers = tuple(_layer(found) for found in _of_profile(json.loads(text)["Layers"], profile))
    except (ValueError, KeyError, TypeError) as err:
        raise CheckError(f"the engine inspector's table cannot be read: {type(err).__name__} {err}") from err
    fused = sum(FUSED_ATTENTION.search(f"{layer.name} {layer.tactic}") is not None for layer in layers)
    opaque = any(layer.kind == OPAQUE for layer in layers)
    return EngineLayers(
        engine_sha256=sha256, layers=layers, num_fused_attention=None if opaque and not fused else fused
    )


def _of_profile(layers: list[dict[str, Any]], profile: int | None) -> list[dict[str, Any]]:
    """Return the layers of a profile: the first one's have plain names, those of others end in their number.

    Raises:
        CheckError: If no name ends so: whose layers they are is not told.
    """
    if profile is None:
        return layers
    numbers = [re.search(r"\[profile (\d+)\]$", layer["Name"]) for layer in layers]
    if not any(numbers):
        raise CheckError("the engine inspector does not say which optimization profile the layers are of")
    return [layer for layer, number in zip(layers, numbers, strict=True) if int(number[1] if number else 0) == profile]


def _layer(found: dict[str, Any]) -> EngineLayer:
    formats = [output.get("Format/Datatype") or output["Datatype"] for output in found["Outputs"]]
    return EngineLayer(
        name=found["Name"],
        kind=found["LayerType"],
        tactic=found.get("TacticName", ""),
        precision="+".join(dict.fromkeys(map(_precision, formats))) or "none",
        nodes=tuple(re.findall(r"\[ONNX Layer: ([^\]]*)\]", found.get("Metadata", ""))),
    )


def _precision(written: str) -> str:
    words = set(re.findall(r"[a-z0-9]+", written.lower()))
    return next((name for name, spellings in PRECISIONS.items() if words & set(spellings)), written)
