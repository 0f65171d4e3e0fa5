"""What an engine was built from, by what and for which machine."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator
from typing_extensions import Self

from heartvit_edge.spec.base import Artefact, Spec
from heartvit_edge.spec.machine import Machine
from heartvit_edge.spec.pack import TensorInfo
from heartvit_edge.spec.precision import Precision as Precision

Backend = Literal["onnxruntime", "tensorrt"]


class BatchRange(Spec):
    """Batch sizes that an engine serves: smallest, the one it is tuned for, largest."""

    min: PositiveInt = 1
    opt: PositiveInt = 1
    max: PositiveInt = 8

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"expected min <= opt <= max, found {self.min}, {self.opt}, {self.max}")
        return self


class BuildSettings(Spec):
    """How a TensorRT engine is built; ONNX Runtime has none of it.

    Attributes:
        optimization_level: From 0, the quickest build, to 5, which tries every kernel; TensorRT's own default is 3.
        sparse: Whether kernels for weights with two zeros in every four may be chosen, where the weights are so.
    """

    optimization_level: Annotated[int, Field(ge=0, le=5)] = 3
    sparse: bool = False


class EngineManifest(Artefact):
    """Stored beside each engine file.

    Attributes:
        entry: Name of the pack's entry.
        backend: What runs the engine.
        precision: Element type of its matrix products.
        file: Engine file name, relative to the manifest.
        sha256: Its hash, checked before it is loaded.
        onnx_sha256: Hash of the ONNX graph that it was built from.
        inputs: As in the pack.
        outputs: As in the pack.
        batch: Batch sizes that it serves.
        machine: Where it was built; it is refused elsewhere.
        options: What the builder was told, as name and value.
        facts: What the build found, as name and value: free memory, layers by precision, fused attention.
        build_s: Seconds that the build took.
        tool_version: heartvit-edge's own version.
    """

    schema_name: ClassVar[str] = "engine"

    entry: str
    backend: Backend
    precision: Precision
    file: str
    sha256: str
    onnx_sha256: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    batch: BatchRange
    machine: Machine
    options: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    build_s: float
    tool_version: str
