"""Writing a budget pack: one checked graph for each of its entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heartvit_edge import __version__
from heartvit_edge.errors import InputError
from heartvit_edge.export.entries import Entry
from heartvit_edge.export.graph import OPSET, graph_inputs, graph_outputs, write_graph
from heartvit_edge.export.parity import check_parity
from heartvit_edge.export.precision import Precisions, write_others
from heartvit_edge.gating.learn import macs_of_gate
from heartvit_edge.gating.stored import save_gate
from heartvit_edge.gating.token_gate import TokenGate
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.spec.files import new_folder, refuse_existing, sha256_file
from heartvit_edge.spec.model import ImageSetRef
from heartvit_edge.spec.pack import MANIFEST, BudgetPack, PackEntry
from heartvit_edge.spec.sensitivity import SensitivityMap


def write_pack(
    dense: DenseModel,
    entries: Sequence[Entry],
    out: Path,
    *,
    batches: list[NDArray[np.float32]],
    classes: tuple[str, ...],
    calibration: ImageSetRef | None,
    sensitivity: SensitivityMap | None = None,
    precisions: Precisions | None = None,
    force: bool = False,
    advance: Callable[[str], None] = lambda _: None,
) -> BudgetPack:
    """Export every entry, check each against PyTorch, and store them together or not at all.

    Args:
        dense: The dense model.
        entries: What to write, the dense model first, each followed by those that compare with it; their modules are
            moved to the CPU.
        out: Folder to write.
        batches: Real inputs (B, 3, H, W) for the comparison.
        classes: Class names, or empty.
        calibration: Images that the plans' scores were made from.
        sensitivity: The plans' scores, for the report; None where they are not at hand.
        precisions: What each graph is written in besides FP32; None for nothing.
        force: Replace what is at ``out``.
        advance: Told the name of each entry once it is done.

    Raises:
        InputError: If a plan is of another model or its reduction cannot carry it out, ``out`` exists and ``force`` is
            not set, or is no pack.
        MachineError: If what FP16 needs is missing.
        CheckError: If a graph does not answer as PyTorch does, or another precision's not as FP32's; nothing is written
            then.
    """
    for plan in (entry.plan for entry in entries):
        if plan.source.weights_sha256 != dense.source.weights_sha256 or plan.shape != dense.shape:
            raise InputError(
                f"a plan was made for another model ({plan.source.name})", hint="plan again from its scores"
            )
    check_out(out, force=force)
    with new_folder(out, force=force) as folder:
        written = []
        for entry in entries:
            written.append(_write_entry(dense, entry, folder, batches, precisions or Precisions()))
            advance(entry.name)
        pack = BudgetPack(
            source=dense.source,
            shape=dense.shape,
            preprocessing=dense.preprocessing,
            classes=classes,
            calibration=calibration,
            sensitivity=sensitivity,
            entries=tuple(written),
            tool_version=__version__,
        )
        pack.write(folder / MANIFEST)
    return pack


def check_out(out: Path, *, force: bool) -> None:
    """Return only if a pack may be written at ``out``.

    Raises:
        InputError: If it exists and ``force`` is not set, or it exists and is no pack.
    """
    refuse_existing(out, force=force)
    if out.exists() and not (out / MANIFEST).is_file():
        raise InputError(
            f"{out} is no budget pack, and --force replaces only those", hint="name another place with --out"
        )


def _write_entry(
    dense: DenseModel, entry: Entry, folder: Path, batches: list[NDArray[np.float32]], precisions: Precisions
) -> PackEntry:
    """Export and check one entry in each precision, and store its gate's tensors where it has some."""
    model = entry.model()
    path = folder / f"{entry.name}.onnx"
    write_graph(model, dense.shape, path)
    parity = check_parity(model, path, batches, entry.name, merges=entry.reduction == "merge")
    others = write_others(path, dense.shape, precisions, [{"images": batch} for batch in batches])
    gate_weights: Path | None = None
    gate_macs: int | None = None
    if isinstance(model.gate, TokenGate):
        gate_weights, gate_macs = folder / f"{entry.name}.gate.safetensors", macs_of_gate(model.gate, entry.plan)
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
        others=others,
        inputs=graph_inputs(dense.shape),
        outputs=graph_outputs(dense.shape, model.num_listed),
        opset=OPSET,
        parity=parity,
    )
