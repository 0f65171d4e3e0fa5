"""What a gate keeps of the scores' choice, at equal MACs: agreement and loss of every way to carry out the same plans.

Gates learn from scores of training images alone, site by site. With ``--later`` it is as ``gating.learn`` has it: token
counts are fitted to a first gate on images that it has not seen, and those teach too, scored on the tokens that it
leaves. Thresholds of per-input counts are found on training images that no gate learnt from, so that they leave as many
MACs on average as the plan does. With ``--reduction join`` late blocks let tokens join their likest, as that reduction
has it. Plans with their gates and the dense model are fine-tuned by one recipe. Test images are run once, at the end.
Examples, gates and fine-tunes are kept in a folder, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import dinov2
from benchmarks.claims import Claim, arguments, finish
from benchmarks.gates_finetuned import fine_tune, fine_tuned_claims
from benchmarks.plans import mean_interval, ratio
from heartvit_edge.allocation.fit_counts import FitEffort
from heartvit_edge.allocation.limits import CostModel
from heartvit_edge.data.images import ImageSet
from heartvit_edge.data.split import split
from heartvit_edge.finetune.subject import Subject
from heartvit_edge.gating.distil import DistilSettings, distil
from heartvit_edge.gating.examples import SiteExamples, collect_examples
from heartvit_edge.gating.gate import GateName
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.gating.learn import fitted_plan, macs_of_gate
from heartvit_edge.gating.per_input import CountRule, Measured, measure
from heartvit_edge.gating.random_gate import RandomGate
from heartvit_edge.gating.thresholds import thresholds_for_macs
from heartvit_edge.gating.token_gate import TokenGate, make_token_gate
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.sensitivity.plan_images import PlanImages, load_plan_images
from heartvit_edge.sensitivity.score import make_settings
from heartvit_edge.sensitivity.thinned import thin
from heartvit_edge.spec.files import new_file
from heartvit_edge.spec.finetune import CONTROL, FinetuneRecipe
from heartvit_edge.spec.plan import PruningPlan
from heartvit_edge.spec.reduction import Reduction

IMG_SIZE = 112
CHUNK = 1000
AGREEMENT = {0.65: (0.93, 0.06), 0.5: (0.75, 0.20)}
"""Share of MACs to the least agreement with the dense model, and the least gain over class attention."""
KEPT = 0.85
RECIPE = FinetuneRecipe(
    epochs=5, learning_rate=1e-5, min_learning_rate=1e-7, warmup_epochs=0.1, augmentation="none", feature_weight=1.0
)
"""Found on training images; nothing of it was chosen on test images."""
RULES = tuple(CountRule(relative, rigidity) for relative in (0.5, 1.0) for rigidity in (2.0, 5.0))
"""What sets are tried to cost, where images keep tokens by their own nats."""
COUNTED = 400
"""Training images that rules and thresholds are found on; where gates leave fewer, those or the held-out ones."""
FITTED_ON, MOST_TRIED = 2000, 160
"""Training images that counts are fitted on, and counts that are tried."""
PER_INPUT = "gate, tokens by the image"
Run = Callable[[], tuple[NDArray[np.float64], int]]
"""Carries a plan out: losses of images in nats, and how many first classes are the dense model's."""


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for examples, gates and answers")
    parser.add_argument("--plan", type=Path, nargs="+", required=True, help="plans, made with the scores choosing")
    parser.add_argument("--learnt", type=int, default=8000, help="training images that gates learn from at first")
    parser.add_argument("--later", type=int, default=0, help="others: counts are fitted on them, and they teach too")
    parser.add_argument("--held-out", type=int, default=500, help="training images that show how well they rank")
    parser.add_argument("--evaluated", type=int, default=2000, help="test images")
    parser.add_argument("--reduction", choices=("drop", "join"), default="drop", help="what becomes of other tokens")
    parser.add_argument("--epochs", type=int, default=DistilSettings().epochs, help="passes over the examples")
    parser.add_argument("--fine-tuned", type=int, help="images of the fine-tunes, 0: none (all training images else)")
    parser.add_argument("--fine-tune-epochs", type=int, default=5, help="passes over them")
    parser.add_argument("--fine-tune-only", help="fine-tune the plan of this label, and stop: several processes can")
    args = parser.parse_args()
    plans = [PruningPlan.read(path) for path in args.plan]
    if args.fine_tune_only not in (None, *(plan.label for plan in plans)):
        parser.error(f"--fine-tune-only {args.fine_tune_only}: no plan has that label")
    torch.set_float32_matmul_precision("medium")
    dense = dinov2.load_model(args.shared, IMG_SIZE)
    drawn = dinov2.draw(args.shared, "train", args.learnt + args.held_out, 17)
    learnt, held_out = split(drawn, args.learnt, 0)
    assert held_out is not None
    others = dinov2.train_but(args.shared, drawn)
    later, rest = split(others, args.later, 1) if args.later else (None, others)
    taught = [_train(dense, plan, learnt, later, held_out, args) for plan in plans]
    plans, gates = [one.plan for one in taught], {one.plan.label: (one.gate, one.seconds) for one in taught}
    tuned = _fine_tune(dense, plans, gates, held_out, args) if args.fine_tuned != 0 else None
    if args.fine_tune_only:
        return
    settings = make_settings(dense.shape.depth)
    unseen = held_out if rest is None else split(rest, min(COUNTED, len(rest)), 0)[0]
    found_on = load_plan_images(dense, unseen, settings)
    drawn = dinov2.draw(args.shared, "eval", args.evaluated, 3)
    assert drawn.labels is not None
    images = load_plan_images(dense, drawn, settings)
    claims: list[Claim] = []
    details: dict[str, object] = {}
    rows: list[dict[str, Any]] = []
    for plan in plans:
        gate, seconds = gates[plan.label]
        trained = _trained(args)
        ways = _ways(dense, plan, gate, images, args.reduction)
        found = {
            name: _Answers(*_kept_in(folder_of(args.work, plan) / f"{name}-{trained}-{args.evaluated}.pt", run))
            for name, run in ways.items()
        }
        claims += _claims(plan, found, seconds)
        if args.reduction == "drop":
            counted = _kept_in(
                folder_of(args.work, plan) / f"{PER_INPUT}-{_rules()}-{trained}-{args.evaluated}.pt",
                partial(_by_image, dense, plan, gate, found_on, images),
            )
            found[PER_INPUT] = _Answers(counted.losses, int(counted.agrees.sum()))
            claims += _per_input_claims(plan, gate, found, counted)
            details[f"{plan.label}: patch tokens by site, 5 to 95 % of images"] = {
                site: counted.quantiles(site) for site in counted.counts
            }
        rows += [
            {"plan": plan.label, "macs": plan.macs_fraction, "way": name} | one.row() for name, one in found.items()
        ]
    if tuned is not None:
        more, top1 = fine_tuned_claims(dense, plans, tuned, images, drawn.labels.tolist())
        claims += more
        details |= {"top-1 %": top1}
        for name, value in top1.items():
            print(f"{name}: top-1 {value:.2f} %", flush=True)
    finish(claims, {"ways": rows, "plans": [json.loads(plan.to_json()) for plan in plans]} | details, args)


def _fine_tune(
    dense: DenseModel,
    plans: list[PruningPlan],
    gates: dict[str, tuple[TokenGate, float]],
    held_out: ImageSet,
    args: argparse.Namespace,
) -> dict[str, Path]:
    """Fine-tune plans behind their gates, and the control; return the folder of each one's run."""
    others = dinov2.train_but(args.shared, held_out)
    train, _ = split(others, args.fine_tuned or len(others), 0)
    recipe = RECIPE.model_copy(update={"epochs": args.fine_tune_epochs})
    how = f"{_trained(args)}-{len(train)}-{args.fine_tune_epochs}"
    subjects = [
        Subject(plan, gates[plan.label][0], args.reduction)
        for plan in plans
        if args.fine_tune_only in (None, plan.label)
    ]
    if args.fine_tune_only is None:
        subjects.append(Subject(None, None))
    folders: dict[str, Path] = {}
    for subject in subjects:
        name = CONTROL if subject.plan is None else folder_of(Path(), subject.plan).name
        folders[subject.name] = args.work / f"fine_tuned-{how}" / name
        fine_tune(dense, subject, train, held_out, recipe, folders[subject.name])
    return folders


def _by_image(
    dense: DenseModel, plan: PruningPlan, gate: TokenGate, found_on: PlanImages, images: PlanImages
) -> Measured:
    """Return what counts by the image answer, by the rule that loses least for as many MACs on average as the plan."""
    model, macs = GatedViT(dense.module, plan, gate).eval(), plan.macs + macs_of_gate(gate, plan)
    tried = [thresholds_for_macs(model, plan, found_on, macs, rule) for rule in RULES]
    for one in tried:
        print(f"{plan.label} by the image, {one.rule}: KL {one.loss_nats:.4f} on training images", flush=True)
    best = min(tried, key=lambda one: one.loss_nats)
    return measure(model, plan, images, best.thresholds, best.rule)


def _rules() -> str:
    """Return a name of the rules that are tried and of the images that they are tried on."""
    return "_".join([*(f"{rule.relative:g}.{rule.rigidity:g}" for rule in RULES), str(COUNTED)])


Kept = TypeVar("Kept")


def _kept_in(path: Path, run: Callable[[], Kept]) -> Kept:
    """Return what ``path`` holds, or run and store; a run that is killed leaves no half of it."""
    if not path.exists():
        with new_file(path, force=False) as temporary:
            torch.save(run(), temporary)
    found: Kept = torch.load(path, weights_only=False)
    return found


@dataclass(frozen=True)
class _Taught:
    """A gate, the plan that it is for, and the seconds that training took, scores and counts apart."""

    plan: PruningPlan
    gate: TokenGate
    seconds: float


def _trained(args: argparse.Namespace) -> str:
    """Return a name of what gates learnt from."""
    later = f"-{args.later}" if args.later else ""
    return f"{args.learnt}{later}-{args.held_out}-{args.epochs}{_joined(args)}"


def _joined(args: argparse.Namespace) -> str:
    return "" if args.reduction == "drop" else f"-{args.reduction}"


def _train(
    dense: DenseModel,
    plan: PruningPlan,
    learnt: ImageSet,
    later: ImageSet | None,
    held_out: ImageSet,
    args: argparse.Namespace,
) -> _Taught:
    """Return the gate of a plan; with later images that of the plan whose counts fit the first one."""
    folder = folder_of(args.work, plan)
    first = f"{len(learnt)}-{len(held_out)}-{args.epochs}"

    def examples_of_first() -> dict[int, SiteExamples]:
        model = GatedViT(dense.module, plan, make_token_gate(plan), args.reduction)
        return load_examples(dense, model, learnt, folder / "learnt")

    gate, seconds = _taught_in(folder / f"gate-{first}.pt", plan, lambda: [examples_of_first()], args.epochs)
    if later is None:
        return _Taught(plan, gate, seconds)
    path = folder / f"counts-{first}-{len(later)}{_joined(args)}.json"
    if not path.exists():
        _fit(dense, plan, gate, later, held_out, args.reduction).write(path)
    fitted = PruningPlan.read(path)
    own = folder_of(args.work, fitted)

    def every_lot() -> list[dict[int, SiteExamples]]:
        model = GatedViT(dense.module, fitted, gate, args.reduction).eval()
        kept_in = own / f"later-{first}{_joined(args)}"
        return [examples_of_first(), load_examples(dense, model, later, kept_in, by_gate=True)]

    second, more = _taught_in(own / f"gate-{_trained(args)}.pt", fitted, every_lot, args.epochs)
    return _Taught(fitted, second, seconds + more)


def _fit(
    dense: DenseModel,
    plan: PruningPlan,
    gate: TokenGate,
    later: ImageSet,
    held_out: ImageSet,
    reduction: Reduction,
) -> PruningPlan:
    """Return the plan with counts that fit a gate, found on some of the images that it did not learn from."""
    some, _ = split(later, min(FITTED_ON, len(later)), 0)
    sought, deciding = (load_plan_images(dense, part, make_settings(dense.shape.depth)) for part in (some, held_out))
    effort = FitEffort(most_tried=MOST_TRIED)
    found = fitted_plan(plan, gate, sought, deciding, CostModel(plan.shape), effort, reduction)
    print(f"{plan.label}: tokens by site {found.sites} for {plan.sites}", flush=True)
    return found


def _taught_in(
    path: Path, plan: PruningPlan, lots: Callable[[], list[dict[int, SiteExamples]]], epochs: int
) -> tuple[TokenGate, float]:
    """Return the gate that ``path`` holds and the seconds that its training took, or teach and store it."""
    torch.manual_seed(0)
    gate = make_token_gate(plan)
    if not path.exists():
        found = lots()
        start = time.monotonic()
        distil(gate, found, DistilSettings(epochs=epochs))
        seconds = time.monotonic() - start
        with new_file(path, force=False) as temporary:
            torch.save({"gate": gate.state_dict(), "seconds": seconds}, temporary)
    stored = torch.load(path)
    gate.load_state_dict(stored["gate"])
    return gate.eval(), stored["seconds"]


def folder_of(work: Path, plan: PruningPlan) -> Path:
    """Return the folder of a plan's examples and gates."""
    return work / f"{plan.label}-{plan.digest()[:8]}"


def load_examples(
    dense: DenseModel, model: GatedViT, images: ImageSet, folder: Path, *, by_gate: bool = False
) -> dict[int, SiteExamples]:
    """Return examples of the images, made in chunks that are stored; as ``collect_examples`` has it."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = make_settings(dense.shape.depth)
    chunks = []
    rest: ImageSet | None = images
    while rest is not None:
        part, rest = split(rest, min(CHUNK, len(rest)), 0)
        path = folder / f"{part.sha256[:16]}.pt"
        if not path.exists():
            start = time.monotonic()
            found = collect_examples(load_plan_images(dense, part, settings, batch_size=32), model, by_gate=by_gate)
            with new_file(path, force=False) as temporary:
                torch.save({site: (one.tokens, one.scores) for site, one in found.items()}, temporary)
            print(f"{len(part)} images scored in {time.monotonic() - start:.0f} s", flush=True)
        chunks.append(torch.load(path))
    return {
        site: SiteExamples(*(torch.cat(parts) for parts in zip(*(c[site] for c in chunks), strict=True)))
        for site in chunks[0]
    }


class _Answers:
    """Losses of images in nats, and whether their first class is the dense model's."""

    def __init__(self, losses: NDArray[np.float64], num_agreeing: int) -> None:
        self.losses, self.num_agreeing = losses, num_agreeing

    @property
    def agreement(self) -> float:
        return self.num_agreeing / len(self.losses)

    def row(self) -> dict[str, Any]:
        return {"agreement": self.agreement, "kl_nats": list(mean_interval(self.losses)), "images": len(self.losses)}


def _ways(
    dense: DenseModel, plan: PruningPlan, gate: TokenGate, images: PlanImages, reduction: Reduction
) -> dict[str, Run]:
    def by_scores() -> tuple[NDArray[np.float64], int]:
        ran = thin(images, plan.blocks)
        return ran.losses, ran.num_agreeing

    gated: dict[str, tuple[GateName | torch.nn.Module | None, Reduction]] = {
        "random": (RandomGate(plan), "drop"),
        "attention received": ("attention-received", "drop"),
        "class attention": ("class-attention", "drop"),
        "merge": (None, "merge"),
        "gate": (gate, reduction),
        "gate, dropped tokens fused": (gate, "fuse"),
    }
    if reduction == "join":
        gated |= {"gate, tokens dropped": (gate, "drop"), "class attention, tokens joined": ("class-attention", "join")}
    ways: dict[str, Run] = {
        way: partial(_run, GatedViT(dense.module, plan, chosen, reduction).eval(), images)
        for way, (chosen, reduction) in gated.items()
    }
    return ways | {"scores": by_scores}


@torch.no_grad()
def _run(model: GatedViT, images: PlanImages) -> tuple[NDArray[np.float64], int]:
    losses, agreeing = [], 0
    for batch, answers in zip(images.batches, images.logits, strict=True):
        logits = model(batch)[0]
        losses.append(kl_to_dense(answers, logits).double().numpy())
        agreeing += int((logits.argmax(dim=1) == answers.argmax(dim=1)).sum())
    return np.concatenate(losses), agreeing


def _claims(plan: PruningPlan, found: dict[str, _Answers], seconds: float) -> list[Claim]:
    name, share = plan.label, plan.budgets[0].limit
    least, gain = AGREEMENT.get(share, (None, None))
    for way, one in found.items():
        mean, low, high = mean_interval(one.losses)
        print(f"{name} {way:28} agreement {one.agreement:.4f}  KL {mean:.4f} [{low:.4f}, {high:.4f}]", flush=True)
    attention, gate, scores = (found[way] for way in ("class attention", "gate", "scores"))
    return [
        Claim(f"{name}: agreement with the gate", gate.agreement, at_least=least),
        Claim(f"{name}: the same over class attention", gate.agreement - attention.agreement, at_least=gain),
        Claim(f"{name}: share of the scores' gain kept, mean KL", *_kept(attention, gate, scores), at_least=KEPT),
        Claim(f"{name}: minutes of training", seconds / 60, at_most=40),
    ]


def _per_input_claims(plan: PruningPlan, gate: TokenGate, found: dict[str, _Answers], counted: Measured) -> list[Claim]:
    macs = float(counted.macs.mean()) / (plan.macs + macs_of_gate(gate, plan))
    lost = ratio(found[PER_INPUT].losses, found["gate"].losses)
    return [
        Claim(f"{plan.label}: mean MACs of per-input counts over constant ones", macs, at_most=1.01),
        Claim(f"{plan.label}: mean KL of per-input counts over constant ones", *lost, at_most=1.0),
    ]


def _kept(attention: _Answers, gate: _Answers, scores: _Answers) -> tuple[float, float, float]:
    """Return the share of the gain over class attention that the gate keeps, and its 95 % bootstrap interval."""

    def share(rows: NDArray[np.int64]) -> float:
        worst, found, best = (float(one.losses[rows].mean()) for one in (attention, gate, scores))
        return (worst - found) / (worst - best)

    count = len(gate.losses)
    draws = np.random.default_rng(0).integers(0, count, (2000, count))
    low, high = np.quantile([share(rows) for rows in draws], (0.025, 0.975)).tolist()
    return share(np.arange(count)), low, high


if __name__ == "__main__":
    main()
