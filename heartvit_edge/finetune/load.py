"""Fine-tuned models, read from the folder of their run."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from heartvit_edge.errors import InputError
from heartvit_edge.gating.gate import GATES, GateName
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.token_gate import make_token_gate
from heartvit_edge.model.checkpoint import load_weights, read_tensors
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.spec.files import check_sha256
from heartvit_edge.spec.finetune import FINETUNE, FineTuned, FinetuneRun
from heartvit_edge.spec.gate import LEARNED
from heartvit_edge.spec.plan import PruningPlan

_AGAIN = "fine-tune again in another place"


def load_finetuned(
    folder: Path, name: str, dense: DenseModel, gate: nn.Module | None = None
) -> GatedViT | VisionTransformer:
    """Return a fine-tuned model in evaluation mode: the pruned one, or the dense one for ``control``.

    Args:
        folder: Of the run.
        name: Of the entry: a plan's label, or ``control``.
        dense: The model that the run was made from; it is left as it is.
        gate: A module of the gate's form, which takes the stored weights; None where the gate is a TokenGate or has
            none.

    Raises:
        InputError: If the run has no such entry, is of another model, or the tensors do not fit the gate.
        CheckError: If a file was altered.
        ValueError: If the entry's gate has weights, is no TokenGate, and no module is given for them.
    """
    run = FinetuneRun.read(folder / FINETUNE)
    entry = _entry(run, name, folder)
    check_model(run, folder, dense)
    if entry.plan is None:
        control = deepcopy(dense.module)
        _load(control, folder / entry.weights, entry.weights_sha256)
        return control.eval()
    model = GatedViT(dense.module, entry.plan, _gate(entry, entry.plan, gate), entry.reduction)
    _load(model.backbone, folder / entry.weights, entry.weights_sha256)
    if model.gate is not None and entry.gate_weights is not None and entry.gate_weights_sha256 is not None:
        _load(model.gate, folder / entry.gate_weights, entry.gate_weights_sha256)
    return model.eval().requires_grad_(False)


def check_model(run: FinetuneRun, folder: Path, dense: DenseModel) -> None:
    """Return only if the run in ``folder`` was made from this dense model.

    Raises:
        InputError: If it was not.
    """
    if run.source.weights_sha256 != dense.source.weights_sha256 or run.shape != dense.shape:
        raise InputError(
            f"{folder} was made from {run.source.name} with other weights or another shape",
            hint=f"give the model that it was made from: {run.source.name} --img-size {run.shape.img_size}",
        )


def _entry(run: FinetuneRun, name: str, folder: Path) -> FineTuned:
    entry = run.find(name)
    if entry is None:
        done = ", ".join(entry.name for entry in run.entries) or "none"
        raise InputError(
            f"{folder} holds no finished {name!r}, only {done}",
            hint="start the same `heartvit-edge finetune` again: it goes on where it was stopped",
        )
    return entry


def _gate(entry: FineTuned, plan: PruningPlan, gate: nn.Module | None) -> GateName | nn.Module | None:
    """Return what chooses the entry's tokens: the module if its gate has weights, else the gate of that name."""
    if entry.gate_weights is not None:
        if gate is None and entry.gate == LEARNED:
            return make_token_gate(plan)
        if gate is None:
            raise ValueError(f"gate {entry.gate} of {entry.name} has weights, and no module for them is given")
        return deepcopy(gate)
    if entry.gate is not None and entry.gate not in GATES:
        raise InputError(f"{entry.name} has gate {entry.gate!r}, expected one of {', '.join(GATES)}")
    return entry.gate


def _load(module: nn.Module, path: Path, sha256: str) -> None:
    check_sha256(path, sha256, _AGAIN)
    load_weights(module, [read_tensors(path)], path.name)
