"""From entries to graphs in each form, and what the manifest says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from heartvit_edge.export.any_count import AnyCountViT, Counts, check_counts, sweep
from heartvit_edge.export.entries import Entry
from heartvit_edge.export.graph import OPSET, Step, graph_inputs, graph_outputs, write_graph
from heartvit_edge.export.parity import Answer, Graph, check_parity
from heartvit_edge.export.weights import WeightFile
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.learn import macs_of_gate
from heartvit_edge.gating.reduce import num_listed
from heartvit_edge.gating.stored import save_gate
from heartvit_edge.gating.token_gate import TokenGate
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.pack import Form, PackEntry, Parity, TensorInfo, num_keep_name

SHARED = "adaptive-shape"
"""Name of the first graph that entries share, without its ending."""


@dataclass(frozen=True)
class Making:
    """What the graphs of a pack are made and compared with.

    Attributes:
        dense: The dense model.
        folder: Where the graphs go.
        batches: Real inputs (B, 3, H, W) for the comparison.
        weights: Where weights go; None: into each graph.
        steps: What is done to each graph before it is stored.
    """

    dense: DenseModel
    folder: Path
    batches: Sequence[NDArray[np.float32]]
    weights: WeightFile | None
    steps: Sequence[Step]

    @property
    def some(self) -> Sequence[NDArray[np.float32]]:
        """One batch of each size, for what is compared beside the plans themselves."""
        return list({len(batch): batch for batch in reversed(self.batches)}.values())


def sharing(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Return the entries by the graph that carries them out, each graph's in order.

    Entries share one where counts are inputs and nothing but these differs: model, gate, reduction, sites, heads and
    MLP units.
    """
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        key: Any = entry.name
        if entry.form == "adaptive-shape":
            plan = entry.plan
            kept = tuple((block.kept_heads, block.kept_units) for block in plan.blocks)
            gate = id(entry.gate) if isinstance(entry.gate, nn.Module) else entry.gate
            key = (id(entry.module), gate, entry.reduction, tuple(plan.sites), kept, plan.unit_groups)
        groups.setdefault(key, []).append(entry)
    return list(groups.values())


def _write_static(making: Making, entries: Sequence[Entry]) -> Iterator[PackEntry]:
    """Write and check the graph of one entry, whose counts are constants."""
    (entry,) = entries
    model = entry.model()
    path = making.folder / f"{entry.name}.onnx"
    write_graph(model, making.dense.shape, path, weights=making.weights, steps=making.steps)
    parity = check_parity(model, Graph(path), making.batches, entry.name, merges=entry.reduction == "merge")
    outputs = graph_outputs(making.dense.shape, model.num_listed)
    yield pack_entry(making, entry, model, path, parity, graph_inputs(making.dense.shape), outputs)


def _write_any_count(making: Making, entries: Sequence[Entry]) -> Iterator[PackEntry]:
    """Write and check the one graph of entries that differ in their counts alone."""
    first, shape = entries[0], making.dense.shape
    asked = [_counts(entry) for entry in entries]
    sites = tuple(first.plan.sites)
    for counts in asked:
        check_counts(counts, sites, first.reduction, shape.num_patches)
    gated = first.model()
    model, merges = AnyCountViT(gated), first.reduction == "merge"
    path = _new_name(making.folder)
    write_graph(model, shape, path, weights=making.weights, steps=making.steps)
    tried = sweep(asked, first.reduction, shape.num_patches)
    graph = Graph(path)
    for counts in tried:
        if counts not in asked:
            name = (
                f"{path.stem} with {', '.join(f'{num_keep_name(s)} {k}' for s, k in zip(sites, counts, strict=True))}"
            )
            check_parity(_fed(model, counts), graph.with_feeds(_feeds(sites, counts)), making.some, name, merges=merges)
    proven = {site: (min(found), max(found)) for site, found in zip(sites, zip(*tried, strict=True), strict=True)}
    for entry, counts in zip(entries, asked, strict=True):
        parity = check_parity(
            _fed(model, counts), graph.with_feeds(_feeds(sites, counts)), making.batches, entry.name, merges=merges
        )
        listed = {site: num_listed(entry.reduction, count) for site, count in zip(sites, counts, strict=True)}
        yield pack_entry(
            making,
            entry,
            gated,
            path,
            parity,
            graph_inputs(shape, sites),
            graph_outputs(shape, listed),
            num_keep=dict(zip(sites, counts, strict=True)),
            num_keep_range=proven,
        )


WRITERS: Mapping[Form, Callable[[Making, Sequence[Entry]], Iterator[PackEntry]]] = {
    "static": _write_static,
    "adaptive-shape": _write_any_count,
}
"""Each writes the graphs of entries that share them, and yields what the manifest says of each entry."""


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
        inputs=inputs,
        outputs=outputs,
        opset=OPSET,
        parity=parity,
        form=entry.form,
        **form,
    )


def _counts(entry: Entry) -> Counts:
    prefix = entry.plan.shape.num_prefix_tokens
    return tuple(count - prefix for count in entry.plan.sites.values())


def _feeds(sites: Sequence[int], counts: Counts) -> dict[str, int]:
    return {num_keep_name(site): count for site, count in zip(sites, counts, strict=True)}


def _fed(model: AnyCountViT, counts: Counts) -> Answer:
    tensors = [torch.tensor(count) for count in counts]

    def answer(images: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = model(images, *tensors)
        return found

    return answer


def _new_name(folder: Path) -> Path:
    """Return a place for one more shared graph."""
    number = len(list(folder.glob(f"{SHARED}*.onnx"))) + 1
    return folder / f"{SHARED}{'' if number == 1 else f'-{number}'}.onnx"
