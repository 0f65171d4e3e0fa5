"""The budget pack: the folder that travels from host to board."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from typing_extensions import Self

from heartvit_edge.errors import InputError
from heartvit_edge.spec.base import Artefact, Spec
from heartvit_edge.spec.files import check_sha256
from heartvit_edge.spec.gate import LEARNED
from heartvit_edge.spec.model import ImageSetRef, ModelShape, ModelSource, Preprocessing
from heartvit_edge.spec.plan import PruningPlan
from heartvit_edge.spec.precision import Precision, PrecisionGraph
from heartvit_edge.spec.sensitivity import SensitivityMap

MANIFEST = "manifest.json"
AGAIN = "export the pack again"

Reduction = Literal["drop", "fuse", "merge"]
"""What becomes of the patch tokens that do not go on by themselves."""

Role = Literal["dense", "pruned", "baseline", "finetuned", "control"]
"""What an entry is for: the dense model; a budget's plan; that plan carried out in another way, to compare with; that
plan after fine-tuning; or the dense model after as much training, without which that gain says nothing."""


class TensorInfo(Spec):
    """One input or output of a graph.

    Attributes:
        name: The tensor's name in the graph.
        dtype: numpy's name of the element type.
        shape: Dimensions; None where it is dynamic (the batch).
    """

    name: str
    dtype: Literal["float32", "float16", "int32", "int64"]
    shape: tuple[PositiveInt | None, ...]


class Parity(Spec):
    """How close the exported graph came to PyTorch.

    Attributes:
        num_images: Real images compared.
        max_abs_error: Largest |difference| of a logit.
        logit_scale: Largest |logit| of the PyTorch model, the scale of the tolerance.
        tolerance: Largest allowed max_abs_error / logit_scale.
        kept_token_mismatches: Images that keep other tokens, which ties allow for a few; their logits are not compared.
    """

    num_images: PositiveInt
    max_abs_error: NonNegativeFloat
    logit_scale: NonNegativeFloat
    tolerance: NonNegativeFloat
    kept_token_mismatches: NonNegativeInt


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
        inputs: The graph's inputs; the first is the image batch (B, 3, H, W).
        outputs: The graph's outputs: ``logits`` (B, num_classes), then ``kept_<block>`` (B, K) int32 for each site:
            the patches (0 .. num_patches - 1, row-major on the grid) that are kept from that block on, ascending. A
            fused token is none of them; a merged one has the number of the patch that others joined.
        opset: ONNX opset version.
        parity: Comparison with PyTorch before the pack was written.
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
    def _one_graph_a_precision(self) -> Self:
        found = [graph.precision for graph in self.others]
        if len(set(found)) != len(found):
            raise ValueError(f"{self.name} has graphs in {found}, expected each precision once")
        return self

    def other(self, precision: Precision) -> PrecisionGraph | None:
        """Return the entry's graph in a precision other than FP32; None where the pack has none."""
        return next((graph for graph in self.others if graph.precision == precision), None)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's forward: the plan's, and those of a learned gate."""
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
        for entry in pack.entries:
            check_sha256(folder / entry.onnx, entry.onnx_sha256, hint=AGAIN)
            for graph in entry.others:
                check_sha256(folder / graph.onnx, graph.onnx_sha256, hint=AGAIN)
            if entry.gate_weights is not None and entry.gate_weights_sha256 is not None:
                check_sha256(folder / entry.gate_weights, entry.gate_weights_sha256, hint=AGAIN)
        return pack

    def entry(self, name: str) -> PackEntry:
        """Return the entry of that name.

        Raises:
            InputError: If there is none; the message lists those there are.
        """
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise InputError(f"the pack has no entry {name!r}, only {', '.join(e.name for e in self.entries)}")
