"""What a pack is made of: the dense model, each plan, and the baselines that carry out the same plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from heartvit_edge.allocation.plan import dense_plan
from heartvit_edge.errors import InputError
from heartvit_edge.gating.gate import GateName
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.random_gate import RandomGate
from heartvit_edge.gating.reduce import MERGING
from heartvit_edge.gating.token_gate import TokenGate
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.spec.gate import LEARNED
from heartvit_edge.spec.pack import Form, Role
from heartvit_edge.spec.plan import PruningPlan
from heartvit_edge.spec.reduction import Reduction

Baseline = Literal["random", "class-attention", "merge"]


@dataclass(frozen=True)
class Entry:
    """A model to be written into a pack.

    Attributes:
        name: Unique in the pack.
        module: The weights, before any head or unit is sliced away; or the model as it will run, with its gate.
        plan: What each block keeps.
        gate: What chooses tokens, by name or as a module; None where none go, they are merged, or the model has it.
        gate_name: What the manifest calls the gate; None where there is none.
        reduction: What becomes of tokens that are not kept.
        role: What the entry is for.
        compares_with: Name of the entry with the same plan; None for a dense or pruned entry.
        form: How its graph carries out the plan; one whose plan drops no token is static.
    """

    name: str
    module: VisionTransformer | GatedViT
    plan: PruningPlan
    gate: GateName | nn.Module | None = None
    gate_name: str | None = None
    reduction: Reduction = "drop"
    role: Role = "pruned"
    compares_with: str | None = None
    form: Form = "static"

    def model(self) -> GatedViT:
        """Return the model that the graph is written from, on the CPU, in evaluation mode."""
        weights = self.module.cpu()
        if isinstance(weights, GatedViT):
            return weights.eval()
        return GatedViT(weights, self.plan, self.gate, self.reduction).eval()

    @property
    def merges(self) -> bool:
        """Whether tokens can come to stand for several."""
        return self.reduction in MERGING


def planned_entries(
    dense: DenseModel,
    plans: Sequence[PruningPlan],
    gate: GateName | Mapping[str, TokenGate],
    reduction: Reduction = "drop",
    baselines: Sequence[Baseline] = (),
    form: Form = "static",
) -> list[Entry]:
    """Return the dense model, then each plan with its baselines, largest first.

    Plans that remove nothing are served by the dense entry; those that drop no token have nothing to choose, and no
    baselines. Baselines are there to be compared with, so that their graphs are static.

    Args:
        dense: The dense model.
        plans: Plans of that model under different budgets.
        gate: What chooses tokens where they are not merged: by name, or the learned gate of each plan's label.
        reduction: What becomes of tokens that are not kept.
        baselines: Other ways to carry out each plan.
        form: How the plans' graphs carry them out, where tokens go.
    """
    found = [Entry("dense", dense.module, dense_plan(dense.source, dense.shape), role="dense")]
    for plan in sorted((plan for plan in plans if not plan.is_dense), key=lambda plan: -plan.macs):
        asked: tuple[GateName | nn.Module | None, str | None] = (None, None)
        if plan.sites and reduction != "merge":
            asked = (gate, gate) if isinstance(gate, str) else (gate[plan.label], LEARNED)
        how = form if plan.sites else "static"
        found.append(Entry(plan.label, dense.module, plan, *asked, reduction, form=how))
        if plan.sites:
            found += [_baseline(dense.module, plan, name) for name in dict.fromkeys(baselines)]
    return found


def _baseline(module: VisionTransformer, plan: PruningPlan, name: Baseline) -> Entry:
    gates: dict[Baseline, tuple[GateName | nn.Module | None, str | None]] = {
        "random": (RandomGate(plan), "random"),
        "class-attention": ("class-attention", "class-attention"),
        "merge": (None, None),
    }
    return Entry(
        f"{plan.label}.{name}",
        module,
        plan,
        *gates[name],
        reduction="merge" if name == "merge" else "drop",
        role="baseline",
        compares_with=plan.label,
    )


def check_baselines(baselines: Sequence[Baseline], model: VisionTransformer) -> None:
    """Return only if the model has what the baselines read; ``random`` and ``merge`` need but its tokens.

    Raises:
        InputError: If one reads the class token and the model has none.
    """
    if "class-attention" in baselines and model.cls_token is None:
        raise InputError(
            "baseline class-attention reads a class token, the model has none",
            hint="leave --baseline class-attention out; random and merge fit any model",
        )
