"""What is trained: a plan with what chooses its tokens, or the dense control."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

from torch import nn

from heartvit_edge.allocation.plan import dense_plan
from heartvit_edge.errors import InputError
from heartvit_edge.gating.gate import GateName, check_gate
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.relaxed import has_weights
from heartvit_edge.gating.token_gate import TokenGate
from heartvit_edge.model.checkpoint import state_sha256
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.spec.files import sha256_bytes
from heartvit_edge.spec.finetune import CONTROL, FinetuneRecipe
from heartvit_edge.spec.gate import LEARNED
from heartvit_edge.spec.plan import PruningPlan
from heartvit_edge.spec.reduction import Reduction


@dataclass(frozen=True)
class Subject:
    """What is trained.

    Attributes:
        plan: What each block keeps; None for the dense control.
        gate: What chooses tokens, by name or as a module, which is copied; None where the plan drops none.
        reduction: What becomes of tokens that are not kept: ``drop`` or ``join``.
    """

    plan: PruningPlan | None
    gate: GateName | nn.Module | None
    reduction: Reduction = "drop"

    @property
    def name(self) -> str:
        """The plan's label, or ``control``."""
        return CONTROL if self.plan is None else self.plan.label

    @property
    def gate_name(self) -> str | None:
        """The gate's name, ``learned`` for a TokenGate, or the class of another module."""
        if isinstance(self.gate, TokenGate):
            return LEARNED
        return type(self.gate).__name__ if isinstance(self.gate, nn.Module) else self.gate

    @property
    def gate_sha256(self) -> str | None:
        """Hash of the gate's weights before training; None where it has none."""
        if isinstance(self.gate, nn.Module) and has_weights(self.gate):
            return state_sha256(self.gate.state_dict())
        return None

    def digest(self) -> str:
        """Return a hash of what this is before training."""
        plan = self.plan.digest() if self.plan is not None else CONTROL
        joined = "" if self.reduction == "drop" else f" {self.reduction}"
        return sha256_bytes(f"{plan} {self.gate_name} {self.gate_sha256}{joined}".encode())

    def model(self, dense: DenseModel) -> GatedViT:
        """Return the model that is trained, with weights of its own."""
        plan = self.plan if self.plan is not None else dense_plan(dense.source, dense.shape)
        return GatedViT(dense.module, plan, deepcopy(self.gate), self.reduction)


def check_subject(subject: Subject, dense: DenseModel, recipe: FinetuneRecipe) -> None:
    """Return only if a subject is of this model, and has what the recipe trains.

    Raises:
        InputError: If its plan is of another model, its gate reads what the model lacks, the gate's weights alone are
            to be trained and it has none, or they are to be trained and tokens are not dropped.
    """
    plan = subject.plan
    if plan is None:
        return
    if plan.source.weights_sha256 != dense.source.weights_sha256 or plan.shape != dense.shape:
        words = [plan.source.name, "--img-size", str(plan.shape.img_size)]
        words += [word for name in plan.source.weights for word in ("--weights", name)]
        raise InputError(
            f"plan {plan.label} was made for {plan.source.name} at {plan.shape.img_size} px with other weights or "
            f"another shape than this {dense.source.name} at {dense.shape.img_size} px",
            hint=f"give the model that was scored: {' '.join(words)}",
        )
    if plan.is_dense:
        raise InputError(f"plan {plan.label} removes nothing", hint="--control trains the dense model")
    if isinstance(subject.gate, str):
        check_gate(subject.gate, dense.module)
    if recipe.gate_weight and subject.reduction != "drop":
        raise InputError(
            f"{plan.label}: a gate is trained as if tokens were dropped, and here they {subject.reduction} others",
            hint="leave --gates-only and --gate-weight out: the weights behind the gate are trained",
        )
    if recipe.gates_only and subject.gate_sha256 is None:
        found = f"gate {subject.gate_name} has none" if plan.sites else "its plan drops no tokens"
        raise InputError(
            f"{plan.label}: --gates-only trains a gate's weights, and {found}", hint="leave --gates-only out"
        )
