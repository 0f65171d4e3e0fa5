"""The stored form of a gate that learnt: what is known of it as JSON, beside that its plan, and its tensors."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file

from heartvit_edge import __version__
from heartvit_edge.errors import InputError
from heartvit_edge.gating.distil import DistilSettings
from heartvit_edge.gating.learn import Learned, hidden_units, macs_of_gate
from heartvit_edge.gating.token_gate import TokenGate, make_token_gate
from heartvit_edge.model.checkpoint import load_weights, read_tensors
from heartvit_edge.spec.files import check_sha256, new_file, refuse_existing, sha256_file
from heartvit_edge.spec.gate import TrainedGate
from heartvit_edge.spec.model import ImageSetRef
from heartvit_edge.spec.plan import PruningPlan
from heartvit_edge.spec.reduction import Reduction

AGAIN = "teach it again: heartvit-edge export --gate learned --force"


def gate_path(folder: Path, plan: PruningPlan) -> Path:
    """Return where what is known of a plan's gate is stored."""
    return folder / f"{plan.label}.json"


def write_gate(
    folder: Path,
    plan: PruningPlan,
    learned: Learned,
    settings: DistilSettings,
    images: ImageSetRef,
    held_out: ImageSetRef,
    reduction: Reduction = "drop",
    *,
    force: bool = False,
) -> TrainedGate:
    """Store a gate in ``folder`` and return what is known of it.

    Tensors and plan are written first, and a gate is there once its JSON is: they alone are what an interruption left.

    Args:
        folder: Where gates are stored, named by their plans.
        plan: The plan that a gate was asked for.
        learned: The gate, and the plan that it is for.
        settings: How it learnt.
        images: What it learnt from.
        held_out: What it was measured on.
        reduction: What became of tokens that were not kept while it learnt.
        force: Replace one that is there.

    Raises:
        InputError: If there is one and ``force`` is not set, or the folder cannot be written.
    """
    path = gate_path(folder, plan)
    refuse_existing(path, force=force)
    weights, own = folder / f"{plan.label}.safetensors", folder / f"{plan.label}.plan.json"
    path.unlink(missing_ok=True)
    save_gate(learned.gate, weights)
    learned.plan.write(own, force=True)
    found = TrainedGate(
        source=plan.source,
        shape=plan.shape,
        plan_label=plan.label,
        plan_sha256=learned.plan.digest(),
        fitted_from_sha256=plan.digest(),
        images=images,
        held_out=held_out,
        settings=tuple(asdict(settings).items()),
        reduction=reduction,
        hidden_units=hidden_units(learned.gate),
        macs=macs_of_gate(learned.gate, learned.plan),
        dense_macs=plan.dense_macs,
        sites=learned.sites,
        answers=learned.answers,
        scoring_s=learned.scoring_s,
        training_s=learned.training_s,
        fitting_s=learned.fitting_s,
        plan=own.name,
        weights=weights.name,
        weights_sha256=sha256_file(weights),
        tool_version=__version__,
    )
    found.write(path)
    return found


def load_gate(path: Path, plan: PruningPlan) -> TokenGate:
    """Return the gate that the JSON file at ``path`` describes, on the CPU, without gradients.

    Raises:
        InputError: If the file is missing or malformed, or the gate is of another plan.
        CheckError: If its tensors were altered.
    """
    found = TrainedGate.read(path)
    if found.plan_sha256 != plan.digest():
        raise InputError(
            f"{path} is a gate for another plan ({found.plan_label} of {found.source.name}) than this {plan.label}",
            hint=f"name the plan beside the gate, {path.parent / found.plan}, or teach a gate for this one: "
            "heartvit-edge export --gate learned",
        )
    return load_gate_weights(path.parent / found.weights, found.weights_sha256, plan, AGAIN)


def load_gate_plan(path: Path) -> PruningPlan:
    """Return the plan of the gate that the JSON file at ``path`` describes.

    Raises:
        InputError: If a file is missing or malformed.
        CheckError: If the plan was altered.
    """
    found = TrainedGate.read(path)
    plan = path.parent / found.plan
    check_sha256(plan, found.plan_sha256, AGAIN)
    return PruningPlan.read(plan)


def save_gate(gate: TokenGate, path: Path) -> None:
    """Store a gate's tensors at ``path``, in place of what is there."""
    with new_file(path, force=True) as temporary:
        save_file({name: value.contiguous() for name, value in gate.state_dict().items()}, temporary)


def load_gate_weights(path: Path, sha256: str, plan: PruningPlan, hint: str) -> TokenGate:
    """Return a plan's gate with the tensors at ``path``, on the CPU, without gradients.

    Args:
        path: The safetensors file.
        sha256: Its hash, by the file that names it.
        plan: Whose tokens the gate chooses.
        hint: What to do where the tensors were altered.

    Raises:
        InputError: If the tensors are not those of such a gate.
        CheckError: If they were altered.
    """
    check_sha256(path, sha256, hint)
    gate = make_token_gate(plan)
    load_weights(gate, [read_tensors(path)], path.name)
    return gate.eval().requires_grad_(False)
