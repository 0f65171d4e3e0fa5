"""What plans are worth: asymmetric or symmetric, with heads or tokens alone, and predicted against measured.

Every plan is made on training images alone and measured once on evaluation images, tokens chosen by scores taken again
at each site. The dense model runs in float32, plans with matrix products in bfloat16 where the machine has them: the
loss of the dense model itself in these is printed too. Plans and their measured losses are kept in a folder, so that a
run that was stopped goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import dinov2
from benchmarks.claims import Claim, arguments, finish
from benchmarks.plan_solver import SHARES, solve_vit_b
from heartvit_edge.allocation.accept import DecidingImages, PlanningImages, accept_plan
from heartvit_edge.allocation.neighbours import Blocks, RanPlan
from heartvit_edge.allocation.plan import PlanOptions, dense_blocks, make_plan
from heartvit_edge.allocation.refine import Effort
from heartvit_edge.data.images import ImageSet
from heartvit_edge.data.split import split
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.sensitivity.plan_images import PlanImages, load_plan_images
from heartvit_edge.sensitivity.score import make_settings, score
from heartvit_edge.sensitivity.table import ScoreTable
from heartvit_edge.sensitivity.thinned import thin
from heartvit_edge.spec.budget import parse_joint
from heartvit_edge.spec.plan import BlockPlan, PruningPlan

LOSSES = (0.02, 0.1, 0.3)
PARTS = 8


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--img-size", type=int, default=112, help="side of the input in pixels")
    parser.add_argument("--work", type=Path, required=True, help="folder for scores, plans and measured losses")
    parser.add_argument("--scored", type=int, default=640, help="training images that are scored")
    parser.add_argument("--calibrated", type=int, default=32, help="training images that scores are corrected on")
    parser.add_argument("--planning", type=int, default=128, help="scored images to improve plans on")
    parser.add_argument("--checked", type=int, default=256, help="training images that plans are checked on")
    parser.add_argument("--evaluated", type=int, default=2000, help="evaluation images")
    parser.add_argument("--rounds", type=int, default=Effort().rounds, help="most rounds of neighbours")
    parser.add_argument("--only", nargs="+", default=[], help="budgets whose plans are made and measured, and no more")
    args = parser.parse_args()
    dense = dinov2.load_model(args.shared, args.img_size)
    scored, others = split(
        dinov2.draw(args.shared, "train", args.scored + args.calibrated + args.checked, 7), args.scored, 0
    )
    assert others is not None
    calibrated, checked = split(others, args.calibrated, 0)
    assert checked is not None
    sizes = (args.img_size, args.scored, args.calibrated, args.planning, args.checked, args.evaluated, args.rounds)
    folder = args.work / "-".join(map(str, sizes))
    settings = make_settings(dense.shape.depth)
    table = score(dense, scored, settings, out=folder / "scores", held_out=calibrated)
    planning, deciding = split(scored, args.planning, 0)
    assert deciding is not None
    maker = _Maker(dense, table, planning, deciding, checked, folder, Effort(rounds=args.rounds))
    evaluated = _Evaluation(dense, dinov2.draw(args.shared, "eval", args.evaluated, 3), table, folder)
    found = _run(maker, evaluated, args.only)
    if args.only:
        return
    noise = float(evaluated.run(dense_blocks(dense.shape)).losses.mean())
    print(f"the dense model itself in the precision of the plans: {noise:.2g} nats", flush=True)
    seconds = solve_vit_b()
    claims = _claims(found)
    claims.append(Claim("solving ViT-B, 3 of 11 sites, 24 K, 12 x 12 heads: seconds", max(seconds), at_most=5))
    rows = [_row(*key, one) for key, one in found.items()]
    finish(claims, {"plans": rows, "solve_s": seconds, "dense_nats_in_plan_precision": noise}, args)


def _tell(message: str) -> None:
    print(message, flush=True)


class _Maker:
    """Makes plans, or reads those made before."""

    def __init__(
        self,
        dense: DenseModel,
        table: ScoreTable,
        planning: ImageSet,
        deciding: ImageSet,
        checked: ImageSet,
        folder: Path,
        effort: Effort,
    ) -> None:
        self.table, self.folder, self.effort = table, folder, effort
        parts = tuple(_remembering(part) for part in _load(dense, table, deciding).parts(PARTS))
        judges = DecidingImages(deciding.ref(), parts)
        improved_on = PlanningImages(planning.ref(), _remembering(_load(dense, table, planning)), deciding=judges)
        self._images = improved_on, PlanningImages(checked.ref(), _remembering(_load(dense, table, checked)))

    def make(self, name: str, budget: str, options: PlanOptions, *, measured: bool = True) -> PruningPlan:
        path = self.folder / f"{name}_{budget}.json"
        if path.exists():
            return PruningPlan.read(path)
        start = time.monotonic()
        budgets = parse_joint(budget)
        if measured:
            plan = accept_plan(self.table, budgets, options, *self._images, effort=self.effort, tell=_tell)
        else:
            plan = make_plan(self.table, budgets, options)
        plan.write(path)
        print(
            f"{name} {budget}: {plan.macs_fraction:.3f} of the MACs, {plan.sites}, {time.monotonic() - start:.0f} s",
            flush=True,
        )
        return plan


def _load(dense: DenseModel, table: ScoreTable, images: ImageSet) -> PlanImages:
    torch.set_float32_matmul_precision("highest")
    return load_plan_images(dense, images, table.info.settings)


def _remembering(images: PlanImages) -> Callable[[Blocks], RanPlan]:
    known: dict[Blocks, _Remembered] = {}

    def run(blocks: Blocks) -> RanPlan:
        if blocks not in known:
            torch.set_float32_matmul_precision("medium")
            known[blocks] = _Remembered(thin(images, blocks))
        return known[blocks]

    return run


class _Remembered:
    """A plan that ran, which measures no neighbour twice: plans of one budget look at many of the same."""

    def __init__(self, ran: RanPlan) -> None:
        self._ran = ran
        self._known: dict[Blocks, NDArray[np.float64]] = {}
        self.losses = ran.losses
        self.num_agreeing = ran.num_agreeing

    def measure(self, variants: Sequence[Sequence[BlockPlan]]) -> NDArray[np.float64]:
        keys = [tuple(variant) for variant in variants]
        unknown = [key for key in dict.fromkeys(keys) if key not in self._known]
        torch.set_float32_matmul_precision("medium")
        self._known |= dict(zip(unknown, self._ran.measure(unknown), strict=True))
        return np.array([self._known[key] for key in keys]).reshape(len(keys), len(self.losses))


class _Evaluation:
    """Measures plans on evaluation images, once each."""

    def __init__(self, dense: DenseModel, images: ImageSet, table: ScoreTable, folder: Path) -> None:
        self.run, self._folder = _remembering(_load(dense, table, images)), folder

    def losses(self, plan: PruningPlan) -> tuple[NDArray[np.float64], int]:
        """Return each image's loss in nats, and how many first classes are the dense model's."""
        path = self._folder / f"losses_{plan.digest()[:16]}.npz"
        if not path.exists():
            ran = self.run(plan.blocks)
            np.savez(path, losses=ran.losses, num_agreeing=ran.num_agreeing)
        with np.load(path) as stored:
            return stored["losses"], int(stored["num_agreeing"])


SYMMETRIC = PlanOptions(symmetric=True, prune_heads=False)
WANTED = {
    (name, f"macs={share:g}"): options
    for share in SHARES
    for name, options in (
        ("symmetric", SYMMETRIC),
        ("tokens", PlanOptions(prune_heads=False)),
        ("joint", PlanOptions()),
    )
} | {("joint", f"loss-nats={nats:g}"): PlanOptions() for nats in LOSSES}


def _run(maker: _Maker, evaluated: _Evaluation, only: Sequence[str]) -> dict[tuple[str, str], _Measured]:
    """Make and measure the plans wanted, or those of some budgets, in this order."""
    found = {}
    for budget in only or dict.fromkeys(budget for _, budget in WANTED):
        for (name, wanted), options in WANTED.items():
            if wanted == budget:
                plan = maker.make(name, budget, options, measured=name != "symmetric")
                found[name, budget] = _Measured(plan, *evaluated.losses(plan))
                _print(name, budget, found[name, budget])
    return found


def _claims(found: dict[tuple[str, str], _Measured]) -> list[Claim]:
    claims: list[Claim] = []
    lower, joint_gain = [], []
    for share in SHARES:
        joint, symmetric, tokens = (found[name, f"macs={share:g}"].losses for name in ("joint", "symmetric", "tokens"))
        change, against = ratio(joint, symmetric), ratio(joint, tokens)
        lower.append(change[0])
        joint_gain.append(against[0])
        claims.append(Claim(f"MACs {share:g}: KL, joint over symmetric", *change, at_most=1))
        claims.append(Claim(f"MACs {share:g}: KL, joint over tokens alone", *against, at_most=1))
    claims.append(Claim("budgets with KL at least 20 % below symmetric", sum(one <= 0.8 for one in lower), at_least=2))
    claims.append(Claim("budgets where joint beats tokens alone", sum(one < 1 for one in joint_gain), at_least=1))
    for nats in LOSSES:
        losses = found["joint", f"loss-nats={nats:g}"].losses
        claims.append(Claim(f"loss budget {nats:g}: measured nats", *mean_interval(losses), at_most=nats))
    factors = [one.factor for (name, _), one in found.items() if name == "joint"]
    return [*claims, Claim("largest factor between predicted and measured KL", max(factors), at_most=2)]


@dataclass(frozen=True)
class _Measured:
    """A plan with its loss on each evaluation image, in nats, and how many first classes are the dense model's."""

    plan: PruningPlan
    losses: NDArray[np.float64]
    agreeing: int

    @property
    def factor(self) -> float:
        """Between predicted and measured loss, at least 1."""
        predicted, measured = self.plan.predicted_loss_nats or 0.0, float(self.losses.mean())
        return max(predicted / measured, measured / predicted)


def _print(name: str, budget: str, found: _Measured) -> None:
    plan = found.plan
    mean, low, high = mean_interval(found.losses)
    print(
        f"{name:9} {budget:14} MACs {plan.macs_fraction:.3f}  KL {mean:.4f} [{low:.4f}, {high:.4f}]  "
        f"agreement {found.agreeing / len(found.losses):.3f}  predicted {plan.predicted_loss_nats:.4f}  "
        f"{plan.sites}  heads {sum(len(block.kept_heads) for block in plan.blocks)}",
        flush=True,
    )


def _row(name: str, budget: str, found: _Measured) -> dict[str, Any]:
    plan = found.plan
    return {
        "plan": name,
        "budget": budget,
        "macs": plan.macs_fraction,
        "kl_nats": list(mean_interval(found.losses)),
        "agreement": found.agreeing / len(found.losses),
        "predicted_nats": plan.predicted_loss_nats,
        "predicted_stderr_nats": plan.predicted_loss_stderr_nats,
        "sites": plan.sites,
        "kept_heads": [list(block.kept_heads) for block in plan.blocks],
        "num_images": len(found.losses),
    }


def mean_interval(losses: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the mean and its 95 % bootstrap interval."""
    means = losses[_draws(len(losses))].mean(axis=1)
    return float(losses.mean()), *np.quantile(means, (0.025, 0.975)).tolist()


def ratio(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the ratio of mean losses on the same images, and its 95 % interval by paired bootstrap."""
    draws = _draws(len(first))
    ratios = first[draws].mean(axis=1) / second[draws].mean(axis=1)
    return float(first.mean() / second.mean()), *np.quantile(ratios, (0.025, 0.975)).tolist()


def _draws(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, count, (2000, count))


if __name__ == "__main__":
    main()
