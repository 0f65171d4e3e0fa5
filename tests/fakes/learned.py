"""A gate that learnt, as it is stored and as a pack carries it, without any tensors."""

from __future__ import annotations

from fakes.finetune_runs import NUM_IMAGES, answers, entry
from fakes.tiny_pack import SHAPE, SOURCE

from heartvit_edge.spec.gate import GateSite, TrainedGate
from heartvit_edge.spec.model import ImageSetRef
from heartvit_edge.spec.pack import BudgetPack

GATE_MACS = 400  # a hundredth of the dense model's in the packs of ``fakes``


def trained_gate() -> TrainedGate:
    """Return what is known of the gate of ``fakes.finetune_runs.entry``'s plan."""
    plan = entry().plan
    assert plan is not None
    return TrainedGate(
        source=SOURCE,
        shape=SHAPE,
        plan_label=plan.label,
        plan_sha256=plan.digest(),
        fitted_from_sha256=plan.digest(),
        images=ImageSetRef(name="photos", num_images=896, sha256="3" * 64, labelled=False, seed=0),
        held_out=ImageSetRef(name="photos", num_images=NUM_IMAGES, sha256="4" * 64, labelled=False, seed=0),
        settings=(("epochs", 10), ("learning_rate", 0.002), ("seed", 0)),
        reduction="drop",
        hidden_units=8,
        macs=GATE_MACS,
        dense_macs=40_000,
        sites=(GateSite(block=1, num_keep=8, mass_kept=0.8, best_mass_kept=0.9),),
        answers=answers(90),
        scoring_s=12.5,
        training_s=3.25,
        fitting_s=2.5,
        plan="macs-0.5.plan.json",
        weights="macs-0.5.safetensors",
        weights_sha256="5" * 64,
        tool_version="0",
    )


def with_learned_gate(pack: BudgetPack) -> BudgetPack:
    """Return the pack with a learned gate of a hundredth of the dense MACs in its entry ``macs-0.5``."""
    gate = {
        "gate": "learned",
        "gate_weights": "macs-0.5.gate.safetensors",
        "gate_weights_sha256": "5" * 64,
        "gate_macs": GATE_MACS,
    }
    entries = [one.model_dump() | (gate if one.name == "macs-0.5" else {}) for one in pack.entries]
    return BudgetPack.model_validate(pack.model_dump() | {"entries": entries})
