"""The budget pack: the folder that travels from host to board."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, PositiveInt, model_validator
from typing_extensions import Self

from heartvit_edge.errors import InputError
from heartvit_edge.spec.base import Artefact, Spec
from heartvit_edge.spec.files import check_sha256
from heartvit_edge.spec.gate import LEARNED
from heartvit_edge.spec.model import ImageSetRef, ModelShape, ModelSource, Preprocessing
from heartvit_edge.spec.parity import Parity
from heartvit_edge.spec.plan import PruningPlan
from heartvit_edge.spec.precision import Precision, PrecisionGraph
from heartvit_edge.spec.reduction import Reduction
from heartvit_edge.spec.routing import Routing
from heartvit_edge.spec.sensitivity import SensitivityMap
from heartvit_edge.spec.target import TargetName
from heartvit_edge.spec.tensor import TensorInfo as TensorInfo
from heartvit_edge.spec.tensor import num_keep_name as num_keep_name

MANIFEST = "manifest.json"
WEIGHTS = "weights.bin"
LARGEST_GRAPH = 2_000_000_000
"""Bytes of weights beyond which an ONNX file cannot hold them: protobuf ends at 2 GiB."""
AGAIN = "export the pack again"

Role = Literal["dense", "pruned", "baseline", "finetuned", "control"]
"""What an entry is for: the dense model; a budget's plan; that plan carried out in another way, to compare with; that
plan after fine-tuning; or the dense model after as much training, without which that gain says nothing."""


Form = Literal["static", "adaptive-shape", "adaptive-input"]
"""How a graph carries out its plan: with token counts that are constants; with counts that are inputs, so that plans
share a graph; or with a count that each image is found to need, by a stem and a tail for each of a few counts."""


class Graph(NamedTuple):
    """One ONNX file of an entry, with the name that its engine gets."""

    name: str
    onnx: str
    onnx_sha256: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


class PackEntry(Spec):
    """One model of the pack: a plan and the graph that carries it out.

    Attributes:
        name: ``dense``, the budget's label, or that and what is different, such as ``macs-0.5.random``; unique in the
            pack.
        plan: What each block keeps.
        gate: Name of the forward-only gate that chooses tokens, ``learned`` for one with weights; None where none are
            dropped, or they are merged.
        gate_weights: File of a learned gate's tensors, relative to the pack, so that it can be trained on; the graph
            has them too. None for other gates.
        gate_weights_sha256: Its hash.
        gate_macs: Multiply-accumulates of a learned gate for one image; None for gates that have none of their own.
        reduction: What becomes of the tokens that are not kept.
        role: What the entry is for. Packs from before there were roles had the dense model and pruned ones.
        compares_with: Name of the entry with the same plan, and so with equal MACs, which a baseline has and a dense or
            pruned entry has not.
        onnx: File name of the FP32 graph, relative to the pack.
        onnx_sha256: Its hash.
        others: The same graph in other precisions, none of them twice.
        inputs: The graph's inputs: the image batch (B, 3, H, W), B open unless the graph has a constant batch, then
            under ``adaptive-shape`` ``num_keep_<block>``, a number, for each site.
        outputs: The graph's outputs: ``logits`` (B, num_classes), then ``kept_<block>`` (B, K) int32 for each site:
            the patches (0 .. num_patches - 1, row-major on the grid) that are kept from that block on, ascending. A
            fused token is none of them; a merged one has the number of the patch that others joined. Under
            ``adaptive-input`` K is the most that an image keeps, and the row of one that keeps fewer ends in -1.
        opset: ONNX opset version.
        parity: Comparison with PyTorch before the pack was written.
        form: How the graph carries out the plan.
        num_keep: Under ``adaptive-shape``, site to the patch tokens that go on from there, which the runner feeds;
            entries whose plans differ in these alone have the same graph.
        num_keep_range: Site to the fewest and the most that the graph was compared with PyTorch at.
        routing: Under ``adaptive-input``, what follows the stem, which ``onnx`` is then.
    """

    name: str
    plan: PruningPlan
    gate: str | None
    gate_weights: str | None = None
    gate_weights_sha256: str | None = None
    gate_macs: PositiveInt | None = None
    reduction: Reduction = "drop"
    role: Role = "pruned"
    compares_with: str | None = None
    onnx: str
    onnx_sha256: str
    others: tuple[PrecisionGraph, ...] = ()
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opset: PositiveInt
    parity: Parity
    form: Form = "static"
    num_keep: dict[int, PositiveInt] = Field(default_factory=dict)
    num_keep_range: dict[int, tuple[PositiveInt, PositiveInt]] = Field(default_factory=dict)
    routing: Routing | None = None

    @model_validator(mode="before")
    @classmethod
    def _role_of_older_packs(cls, fields: Any) -> Any:  # noqa: ANN401 - whatever is to be validated
        if isinstance(fields, dict) and "role" not in fields and fields.get("name") == "dense":
            return fields | {"role": "dense"}
        return fields

    @model_validator(mode="after")
    def _others_are_compared(self) -> Self:
        alone, compares = self.role in ("dense", "pruned"), self.compares_with is not None
        if (alone and compares) or (self.role == "baseline" and not compares):
            raise ValueError(f"{self.name} is {self.role} and compares with {self.compares_with}")
        return self

    @model_validator(mode="after")
    def _a_learned_gate_has_weights(self) -> Self:
        known = {self.gate_weights is not None, self.gate_weights_sha256 is not None, self.gate_macs is not None}
        if known != {self.gate == LEARNED}:
            raise ValueError(
                f"{self.name} has gate {self.gate} with weights {self.gate_weights}, SHA-256 "
                f"{self.gate_weights_sha256} and {self.gate_macs} MACs, expected all of them for {LEARNED} and no other"
            )
        return self

    @model_validator(mode="after")
    def _counts_fit_the_form(self) -> Self:
        asked = {info.name for info in self.inputs[1:]}
        known = {num_keep_name(site) for site in self.num_keep}
        if (
            asked != known
            or bool(known) != (self.form == "adaptive-shape")
            or self.num_keep.keys() != (self.num_keep_range.keys())
        ):
            raise ValueError(
                f"{self.name} is {self.form} with inputs {sorted(asked)}, counts {self.num_keep} proven within "
                f"{self.num_keep_range}"
            )
        return self

    @model_validator(mode="after")
    def _one_graph_a_precision(self) -> Self:
        found = [graph.precision for graph in self.others]
        if len(set(found)) != len(found):
            raise ValueError(f"{self.name} has graphs in {found}, expected each precision once")
        tails = len(self.routing.tails) if self.routing else 0
        if any(len(graph.tails) != tails for graph in self.others):
            raise ValueError(f"{self.name} has {tails} tails, and in {found} {[len(one.tails) for one in self.others]}")
        return self

    @property
    def fixed_batch(self) -> int | None:
        """Images of every batch, where that is a constant of the graph; None where it takes any number."""
        return self.inputs[0].shape[0]

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """The entry's graphs in FP32: one, or a stem and its tails."""
        if self.routing is None:
            return (Graph("engine", self.onnx, self.onnx_sha256, self.inputs, self.outputs),)
        state = self.routing.state
        return (
            Graph("stem", self.onnx, self.onnx_sha256, self.inputs, self.routing.outputs),
            *(
                Graph(f"tail-{tail.bucket}", tail.onnx, tail.onnx_sha256, state, tail.outputs)
                for tail in self.routing.tails
            ),
        )

    def other(self, precision: Precision) -> PrecisionGraph | None:
        """Return the entry's graph in a precision other than FP32; None where the pack has none."""
        return next((graph for graph in self.others if graph.precision == precision), None)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's forward: the plan's, and those of a learned gate; or their mean."""
        if self.routing is not None:
            return self.routing.mean_macs
        return self.plan.macs + (self.gate_macs or 0)

    @property
    def macs_fraction(self) -> float:
        """The same as a fraction of the dense model's."""
        return self.macs / self.plan.dense_macs


class BudgetPack(Artefact):
    """The manifest of a pack: ``<pack>/manifest.json``.

    Attributes:
        source: The dense model.
        shape: Its dimensions.
        preprocessing: How an image becomes the input.
        classes: Class names, or empty where unknown.
        calibration: Images that were used to score.
        sensitivity: The scores that the plans were made from, without their arrays; None in packs that carry none.
        entries: The dense model first, then one entry a budget, largest first; each is followed by those that compare
            with it.
        tool_version: heartvit-edge's own version.
        weights: File of the weights that graphs name as their external data, beside them; None where graphs hold their
            own.
        weights_sha256: Its hash.
        target: What the graphs are for; None in packs from before there were targets, which every target reads.
    """

    schema_name: ClassVar[str] = "budget-pack"

    source: ModelSource
    shape: ModelShape
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    calibration: ImageSetRef | None
    sensitivity: SensitivityMap | None = None
    entries: tuple[PackEntry, ...]
    tool_version: str
    weights: str | None = None
    weights_sha256: str | None = None
    target: TargetName | None = None

    @model_validator(mode="after")
    def _scores_are_of_this_model(self) -> Self:
        scored = self.sensitivity
        if scored is not None and (scored.source.weights_sha256, scored.shape) != (
            self.source.weights_sha256,
            self.shape,
        ):
            raise ValueError(f"the scores are of {scored.source.name} with other weights or another shape")
        return self

    @model_validator(mode="after")
    def _dense_comes_first(self) -> Self:
        names = [entry.name for entry in self.entries]
        if not names or names[0] != "dense" or not self.entries[0].plan.is_dense:
            raise ValueError(f"the first entry must be the dense model, found {names[:1]}")
        if len(set(names)) != len(names):
            raise ValueError(f"entries must have different names, found {names}")
        return self

    @model_validator(mode="after")
    def _comparisons_have_the_same_plan(self) -> Self:
        blocks = {entry.name: entry.plan.blocks for entry in self.entries}
        for entry in self.entries:
            if entry.compares_with is not None and blocks.get(entry.compares_with) != entry.plan.blocks:
                raise ValueError(f"{entry.name} compares with {entry.compares_with}, which has another plan or is none")
        return self

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Return the manifest of the pack at ``folder`` after checking every file's hash.

        Raises:
            InputError: If the folder or its manifest is missing or malformed.
            CheckError: If a file was altered.
        """
        if not (folder / MANIFEST).is_file():
            raise InputError(
                f"{folder} is not a budget pack: it has no {MANIFEST}",
                hint="make one with: heartvit-edge export MODEL --data DATA --budget 0.7 --out PACK",
            )
        pack = cls.read(folder / MANIFEST)
        for name, sha256 in dict.fromkeys(pair for entry in pack.entries for pair in pack.files(entry)):
            check_sha256(folder / name, sha256, hint=AGAIN)
        return pack

    def files(self, entry: PackEntry) -> tuple[tuple[str, str], ...]:
        """Return name and SHA-256 of each file that an entry needs."""
        pairs = (
            (entry.onnx, entry.onnx_sha256),
            (entry.gate_weights, entry.gate_weights_sha256),
            (self.weights, self.weights_sha256),
            *((tail.onnx, tail.onnx_sha256) for tail in (entry.routing.tails if entry.routing else ())),
            *((file.onnx, file.onnx_sha256) for graph in entry.others for file in (graph, *graph.tails)),
        )
        return tuple((name, sha256) for name, sha256 in pairs if name is not None and sha256 is not None)

    def entry(self, name: str) -> PackEntry:
        """Return the entry of that name.

        Raises:
            InputError: If there is none; the message lists those there are.
        """
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise InputError(f"the pack has no entry {name!r}, only {', '.join(e.name for e in self.entries)}")
