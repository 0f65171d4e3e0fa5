"""Writing a budget pack: one checked graph for each of its entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from heartvit_edge import __version__
from heartvit_edge.errors import InputError
from heartvit_edge.export.entries import Entry
from heartvit_edge.export.fixed_batch import check_batch
from heartvit_edge.export.forms import WRITERS, sharing
from heartvit_edge.export.graph import Step
from heartvit_edge.export.making import Making
from heartvit_edge.export.precision import Precisions
from heartvit_edge.export.routing_images import RoutingImages
from heartvit_edge.graph.weights import WeightFile
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.spec.files import new_folder, refuse_existing, sha256_file
from heartvit_edge.spec.model import ImageSetRef
from heartvit_edge.spec.pack import LARGEST_GRAPH, MANIFEST, WEIGHTS, BudgetPack, PackEntry
from heartvit_edge.spec.sensitivity import SensitivityMap
from heartvit_edge.spec.target import DEFAULT_TARGET, TARGETS, Target


def write_pack(
    dense: DenseModel,
    entries: Sequence[Entry],
    out: Path,
    *,
    batches: list[NDArray[np.float32]],
    classes: tuple[str, ...],
    calibration: ImageSetRef | None,
    sensitivity: SensitivityMap | None = None,
    external_data: bool = False,
    steps: Sequence[Step] = (),
    routing: RoutingImages | None = None,
    target: Target = TARGETS[DEFAULT_TARGET],
    precisions: Precisions | None = None,
    batch: int | None = None,
    force: bool = False,
    advance: Callable[[str], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> BudgetPack:
    """Export every entry, check each against PyTorch, and store them together or not at all.

    Weights lie in one file beside the graphs where one of these adapts or the model is too large for a graph.

    Args:
        dense: The dense model.
        entries: What to write, the dense model first, each followed by those that compare with it; their modules are
            moved to the CPU.
        out: Folder to write.
        batches: Real inputs (B, 3, H, W) for the comparison.
        classes: Class names, or empty.
        calibration: Images that the plans' scores were made from.
        sensitivity: The plans' scores, for the report; None where they are not at hand.
        external_data: Put the weights into a file beside the graphs in any case.
        steps: What is done to each graph before it is stored.
        routing: Images that choose how many tokens the images of ``adaptive-input`` entries get; None without any.
        target: What the graphs are for.
        precisions: What graphs are written in besides FP32; None for nothing.
        batch: Images of every batch, in ``batches`` and ``precisions`` too, which is a constant of the graphs then;
            None: they take any number.
        force: Replace what is at ``out``.
        advance: Told the name of each entry once it is done.
        tell: Told what runtimes make of each graph.

    Raises:
        InputError: If a plan is of another model or its reduction cannot carry it out, a form cannot have this batch,
            ``out`` exists and ``force`` is not set, or is no pack.
        MachineError: If what FP16 needs is missing.
        CheckError: If the target would refuse a graph, it does not answer as PyTorch does, or another precision's does
            not as FP32's; nothing is written then.
    """
    for plan in (entry.plan for entry in entries):
        if plan.source.weights_sha256 != dense.source.weights_sha256 or plan.shape != dense.shape:
            raise InputError(
                f"a plan was made for another model ({plan.source.name})", hint="plan again from its scores"
            )
    for form in {entry.form for entry in entries}:
        check_batch(form, batch)
    check_out(out, force=force)
    with new_folder(out, force=force) as folder:
        written: dict[str, PackEntry] = {}
        aside = external_data or too_large(dense.module) or any(entry.form != "static" for entry in entries)
        with WeightFile(folder) if aside else nullcontext() as weights:
            others = precisions or Precisions()
            making = Making(dense, folder, batches, weights, steps, routing, target, tell, others, batch)
            for group in sharing(entries):
                for found in WRITERS[group[0].form](making, group):
                    written[found.name] = found
                    advance(found.name)
        pack = BudgetPack(
            source=dense.source,
            shape=dense.shape,
            preprocessing=dense.preprocessing,
            classes=classes,
            calibration=calibration,
            sensitivity=sensitivity,
            entries=tuple(written[entry.name] for entry in entries),
            tool_version=__version__,
            target=target.name,
            **_named(folder / WEIGHTS),
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


def too_large(module: nn.Module) -> bool:
    """Return whether a graph of the module cannot hold its weights."""
    return sum(tensor.nbytes for tensor in module.state_dict().values()) > LARGEST_GRAPH


def _named(weights: Path) -> dict[str, str]:
    """Return what the manifest says of the file of weights, where there is one."""
    return {"weights": weights.name, "weights_sha256": sha256_file(weights)} if weights.exists() else {}
