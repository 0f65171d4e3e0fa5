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

    def from_one(self) -> Self:
        """Return the same range down to one image, as a tail gets what part of a batch needs it."""
        return self.model_copy(update={"min": 1})


class BuildSettings(Spec):
    """How a TensorRT engine is built; ONNX Runtime has none of it.

    Attributes:
        optimization_level: From 0, the quickest build, to 5, which tries every kernel; TensorRT's own default is 3.
        sparse: Whether kernels for weights with two zeros in every four may be chosen, where the weights are so.
    """

    optimization_level: Annotated[int, Field(ge=0, le=5)] = 3
    sparse: bool = False


class EnginePart(Spec):
    """The engine of one of several graphs that an entry has: a stem, or a tail.

    Attributes:
        name: ``stem``, or ``tail-<bucket>``.
        file: Engine file name, relative to the manifest.
        sha256: Its hash.
        onnx: Name of the graph in the pack.
        onnx_sha256: Its hash.
        inputs: The graph's.
        outputs: The graph's.
        batch: Batch sizes that it serves.
        weights: As in the manifest.
        weights_sha256: Its hash.
    """

    name: str
    file: str
    sha256: str
    onnx: str
    onnx_sha256: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    batch: BatchRange
    weights: str | None = None
    weights_sha256: str | None = None

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Name and SHA-256 of each file that is read to run it."""
        pairs = ((self.file, self.sha256), (self.weights, self.weights_sha256))
        return tuple((name, sha256) for name, sha256 in pairs if name is not None and sha256 is not None)


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
        weights: File of the weights that the engine names as its external data, beside it; None where it holds its own.
        weights_sha256: Its hash.
        num_keep: Site to the patch tokens that go on from there, where the graph takes them as inputs; the runner feeds
            them.
        budgets: Entries for each of which the engine has an optimization profile, in order; empty where it has one
            alone. Engines with the same hash are one engine, whose weights they share.
        parts: Under ``adaptive-input`` a stem, which ``file`` is, and a tail for each bucket; empty for one graph.
        buckets: Patch tokens that each tail keeps, ascending.
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
    weights: str | None = None
    weights_sha256: str | None = None
    num_keep: dict[int, PositiveInt] = Field(default_factory=dict)
    budgets: tuple[str, ...] = ()
    parts: tuple[EnginePart, ...] = ()
    buckets: tuple[PositiveInt, ...] = ()

    @model_validator(mode="after")
    def _a_tail_for_each_bucket(self) -> Self:
        if self.parts and (len(self.parts) != 1 + len(self.buckets) or self.parts[0].file != self.file):
            raise ValueError(
                f"expected a stem, {self.file}, and {len(self.buckets)} tails, found {len(self.parts)} parts"
            )
        return self

    @model_validator(mode="after")
    def _a_profile_of_its_own(self) -> Self:
        if self.budgets and self.entry not in self.budgets:
            raise ValueError(f"{self.entry} has no optimization profile, only {', '.join(self.budgets)}")
        return self

    @property
    def profile(self) -> int:
        """Return the number of the optimization profile that runs the entry."""
        return self.budgets.index(self.entry) if self.budgets else 0

    @property
    def fixed_batch(self) -> int | None:
        """Images of every batch, where that is a constant of the graph; None where it takes any number."""
        return self.inputs[0].shape[0]

    def of_part(self, part: EnginePart) -> Self:
        """Return the manifest of a part by itself."""
        one = part.model_dump(exclude={"name", "onnx"})
        own = {name: getattr(part, name) for name in one}
        return self.model_copy(update=own | {"entry": f"{self.entry}, {part.name}", "parts": (), "buckets": ()})

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Name and SHA-256 of each file that is read to run the engine."""
        if self.parts:
            return tuple(pair for part in self.parts for pair in part.files)
        pairs = ((self.file, self.sha256), (self.weights, self.weights_sha256))
        return tuple((name, sha256) for name, sha256 in pairs if name is not None and sha256 is not None)
