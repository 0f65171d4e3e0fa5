"""What the entries of a pack are made with, and what the manifest says of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heartvit_edge.export.activation_ranges import Feed
from heartvit_edge.export.assembly import Assembly
from heartvit_edge.export.check_graph import check_graph
from heartvit_edge.export.entries import Entry
from heartvit_edge.export.fixed_batch import fix, with_batch
from heartvit_edge.export.graph import Step, Traceable, store_graph
from heartvit_edge.export.precision import Precisions, write_others
from heartvit_edge.export.routing_images import RoutingImages
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.learn import macs_of_gate
from heartvit_edge.gating.stored import save_gate
from heartvit_edge.gating.token_gate import TokenGate
from heartvit_edge.graph.weights import WeightFile
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.pack import PackEntry, TensorInfo
from heartvit_edge.spec.parity import Parity
from heartvit_edge.spec.precision import PrecisionGraph
from heartvit_edge.spec.target import DEFAULT_TARGET, TARGETS, Target

FEW = 8
"""Images on which graphs of a constant batch are compared beside the plans themselves."""


@dataclass(frozen=True)
class Making:
    """What the graphs of a pack are made and compared with.

    Attributes:
        dense: The dense model.
        folder: Where the graphs go.
        batches: Real inputs (B, 3, H, W) for the comparison.
        weights: Where weights go; None: into each graph.
        steps: What is done to each graph before it is stored.
        routing: Images that choose thresholds and buckets; needed for ``adaptive-input`` alone.
        target: What the graphs are for.
        tell: Told what runtimes make of each graph.
        precisions: What graphs are written in besides FP32.
        batch: Images of every batch, which is a constant then; None: any number.
    """

    dense: DenseModel
    folder: Path
    batches: Sequence[NDArray[np.float32]]
    weights: WeightFile | None
    steps: Sequence[Step]
    routing: RoutingImages | None = None
    target: Target = TARGETS[DEFAULT_TARGET]
    tell: Callable[[str], None] = lambda _: None
    precisions: Precisions = field(default_factory=Precisions)
    batch: int | None = None

    def store(self, source: Traceable, path: Path) -> None:
        """Write a graph, and return only if the target takes it.

        Raises:
            CheckError: If the target would refuse it.
        """
        store_graph(fix(source, self.batch), path, target=self.target, weights=self.weights, steps=self.steps)
        check_graph(path, self.target, self.tell)

    def write_others(
        self, graphs: Assembly, counts: Mapping[str, Feed], name: str, beside: Mapping[str, Feed] | None = None
    ) -> dict[str, tuple[PrecisionGraph, ...]]:
        """Write graphs in the other precisions, and return what the manifest says of them, by the entry's name.

        Args:
            graphs: In FP32.
            counts: Name of each entry that has them to what it is fed beside images.
            name: What messages call what the entries share.
            beside: What else they are fed beside a few images, for the comparison alone, by what messages call it.

        Raises:
            CheckError: If one is too far from FP32, or the target would refuse it.
        """
        feeds = [{"images": batch} for batch in self.batches]
        few = {what: [{"images": batch, **more} for batch in self.some] for what, more in (beside or {}).items()}
        found = write_others(graphs, self.dense.shape, self.precisions, feeds, counts, name, self.weights, beside=few)
        for precision in self.precisions.asked:
            for path in graphs.written_in(precision).paths:
                check_graph(path, self.target, self.tell)
        return found

    @property
    def some(self) -> Sequence[NDArray[np.float32]]:
        """One batch of each size, or a few of the only one, for what is compared beside the plans themselves."""
        if self.batch is not None:
            return self.batches[: -(-FEW // self.batch)]
        return list({len(batch): batch for batch in reversed(self.batches)}.values())


def pack_entry(
    making: Making,
    entry: Entry,
    model: GatedViT,
    path: Path,
    parity: Parity,
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
    **form: Any,  # noqa: ANN401 - the fields that a form has beside these
) -> PackEntry:
    """Return what the manifest says of an entry, and store its gate's tensors where it has some."""
    gate_weights: Path | None = None
    gate_macs: int | None = None
    if isinstance(model.gate, TokenGate):
        gate_weights = making.folder / f"{entry.name}.gate.safetensors"
        gate_macs = macs_of_gate(model.gate, entry.plan)
        save_gate(model.gate, gate_weights)
    return PackEntry(
        name=entry.name,
        plan=entry.plan,
        gate=entry.gate_name,
        gate_weights=None if gate_weights is None else gate_weights.name,
        gate_weights_sha256=None if gate_weights is None else sha256_file(gate_weights),
        gate_macs=gate_macs,
        reduction=entry.reduction,
        role=entry.role,
        compares_with=entry.compares_with,
        onnx=path.name,
        onnx_sha256=sha256_file(path),
        inputs=with_batch(inputs, making.batch),
        outputs=with_batch(outputs, making.batch),
        opset=making.target.opset,
        parity=parity,
        form=entry.form,
        **form,
    )
