"""How well scores foresee the measured loss of removal, what they cost, and what dropping by them keeps.

python -m benchmarks.score_fidelity --out docs/results/score_fidelity.json --check
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.claims import Claim, arguments, finish
from benchmarks.dinov2 import NAME, SITES, draw, inputs, load_model
from heartvit_edge.model.forward import classify, embed, forward, keep_tokens, run_block
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.sensitivity.calibrate import Points, fit, predict_token_sets
from heartvit_edge.sensitivity.gates import GateLayout
from heartvit_edge.sensitivity.loss import kl_to_dense
from heartvit_edge.sensitivity.measure import head_losses, token_losses, trace_dense
from heartvit_edge.sensitivity.path import path_cost
from heartvit_edge.sensitivity.scorers import SCORERS, Batch, Scores
from heartvit_edge.spec.sensitivity import Component, Scorer

Floats = NDArray[np.float64]
KEEPS = (0.7, 0.5)
MOST_SPEARMAN = {3: 0.70, 6: 0.85, 9: 0.90}


def score_all(dense: DenseModel, images: Tensor, labels: Tensor, scorer: Scorer, probes: int, seed: int) -> Scores:
    """Return one scorer's scores of all images, eight at a time."""
    info = SCORERS[scorer]
    layout = GateLayout(dense.shape, SITES, 0, info.scale_tokens)
    generator = torch.Generator().manual_seed(seed)
    parts = [
        info.score(Batch(dense.module, layout, part, part_labels, probes, [generator] * len(part)))
        for part, part_labels in zip(torch.split(images, 8), torch.split(labels, 8), strict=True)
    ]
    tokens = [part.tokens.detach() for part in parts if part.tokens is not None]
    heads = [part.heads.detach() for part in parts if part.heads is not None]
    return Scores(tokens=torch.cat(tokens) if tokens else None, heads=torch.cat(heads) if heads else None)


def measure_singles(dense: DenseModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the true loss of each token at each site (N, sites, patches) and of each head (N, depth, heads)."""
    every_token = torch.eye(dense.shape.num_patches, dtype=torch.bool)
    every_head = torch.eye(dense.shape.num_heads, dtype=torch.bool)
    tokens, heads = [], []
    for image in torch.split(images, 1):
        trace = trace_dense(dense.module, image)
        tokens.append(torch.stack([token_losses(dense.module, trace, site, every_token) for site in SITES]))
        depth = range(dense.shape.depth)
        heads.append(torch.stack([head_losses(dense.module, trace, block, every_head) for block in depth]))
    return torch.stack(tokens), torch.stack(heads)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its normal 95 % interval."""
    array = np.array(values)
    half = 1.96 * array.std(ddof=1) / len(array) ** 0.5
    return float(array.mean()), float(array.mean() - half), float(array.mean() + half)


def token_spearman(scores: Tensor, measured: Tensor) -> list[float]:
    """Return the rank correlation within each image (N, patches)."""
    return [float(spearmanr(s, m).statistic) for s, m in zip(scores.numpy(), measured.numpy(), strict=True)]


@torch.no_grad()
def drop_by_scores(dense: DenseModel, images: Tensor, scores: Tensor, keep: float) -> Tensor:
    """Return the logits after each site keeps its best-scored share of the tokens still there."""
    prefix, logits = dense.shape.num_prefix_tokens, []
    for part, part_scores in zip(torch.split(images, 50), torch.split(scores, 50), strict=True):
        tokens = embed(dense.module, part)
        left = torch.arange(dense.shape.num_patches).expand(len(part), -1)
        for index, block in enumerate(dense.module.blocks):
            if index in SITES:
                here = part_scores[:, SITES.index(index)].gather(1, left)
                kept = here.topk(round(left.shape[1] * keep), dim=1).indices.sort(dim=1).values
                tokens, left = keep_tokens(tokens, kept, prefix), left.gather(1, kept)
            tokens, _ = run_block(block, tokens)
        logits.append(classify(dense.module, tokens))
    return torch.cat(logits)


def set_factors(dense: DenseModel, fitted: Tensor, checked: Tensor, share: float = 0.5) -> dict[Component, float]:
    """Fit the correction of random token sets at block 6 on some images; return the median factor on the others.

    Each way of foreseeing a set has its own: one Hessian-vector product, and logits linearised on the way.
    """
    generator = torch.Generator().manual_seed(5)
    layout = GateLayout(dense.shape, SITES)
    order, patches = SITES.index(6), dense.shape.num_patches

    def points(images: Tensor) -> dict[Component, Points]:
        found: dict[Component, Points] = {"token-set": [], "token-set-path": []}
        for number, image in enumerate(torch.split(images, 1)):
            removed = torch.zeros(4, patches, dtype=torch.bool)
            for row in removed:
                row[torch.randperm(patches, generator=generator)[: round(share * patches)]] = True
            trace = trace_dense(dense.module, image)
            measured = token_losses(dense.module, trace, 6, removed).tolist()
            products = predict_token_sets(dense, trace, image, layout, order, removed).tolist()
            paths = path_cost(dense, trace, 6, removed).tolist()
            found["token-set"] += [(number, p, m) for p, m in zip(products, measured, strict=True)]
            found["token-set-path"] += [(number, p, m) for p, m in zip(paths, measured, strict=True)]
        return found

    given, others = points(fitted), points(checked)
    factors: dict[Component, float] = {}
    for component, rows in given.items():
        correction = fit(component, rows)
        assert correction is not None
        pairs = [(correction.correct(p), m) for _, p, m in others[component] if p > 1e-9 and m > 1e-9]
        factors[component] = float(np.median([max(p / m, m / p) for p, m in pairs]))
    return factors


def cost_claim(dense: DenseModel, images: Tensor, rounds: int = 15) -> Claim:
    """Return Monte-Carlo Fisher's time with 8 draws over a dense forward's, interleaved: median and quartiles."""
    layout = GateLayout(dense.shape, SITES)
    ratios = []
    for number in range(rounds + 1):
        start = time.perf_counter()
        with torch.no_grad():
            dense.module(images)
        between = time.perf_counter()
        generator = torch.Generator().manual_seed(number)
        SCORERS["fisher-mc"].score(Batch(dense.module, layout, images, None, 8, [generator] * len(images)))
        ratios.append((time.perf_counter() - between) / (between - start))
    low, middle, high = np.quantile(ratios[1:], [0.25, 0.5, 0.75])
    name = "Monte-Carlo Fisher, 8 draws, in dense forwards (quartiles)"
    return Claim(name, float(middle), float(low), float(high), at_most=20)


def peak_memory_mb(shared: Path, num_images: int) -> float:
    """Return the peak resident memory of ``heartvit-edge score`` on that many images, in megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        weights = [f"{shared}/dinov2_vits14_fp16.safetensors", f"{shared}/cifar10_head_112px.safetensors"]
        command = [sys.executable, "-m", "heartvit_edge", "score", NAME, "--img-size", "112", "--out", folder + "/s"]
        command += [part for path in weights for part in ("--weights", path)]
        command += ["--data", f"{shared}/cifar10_train.npz", "--num-images", str(num_images), "--held-out-images", "0"]
        command += ["--scorer", "fisher-mc", "--probes", "2"]
        program = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stderr=subprocess.DEVNULL, "
            "stdout=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
        )
        found = subprocess.run([sys.executable, "-c", program, *command], check=True, capture_output=True, text=True)
    return float(found.stdout)


def main() -> None:
    """Measure everything, print and store it."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=96, help="images with every removal measured")
    parser.add_argument("--drop-images", type=int, default=300, help="images on which tokens are dropped by score")
    parser.add_argument("--probes", type=int, default=8, help="draws of the stochastic scorers")
    parser.add_argument("--cost-only", action="store_true", help="time scoring alone; needs an idle machine")
    args = parser.parse_args()
    dense = load_model(args.shared)
    if args.cost_only:
        finish([cost_claim(dense, inputs(dense, draw(args.shared, "eval", 8, seed=0)))], {}, args)
        return
    chosen = draw(args.shared, "eval", args.drop_images, seed=0)
    images, labels = inputs(dense, chosen), torch.from_numpy(np.asarray(chosen.labels))
    measured_tokens, measured_heads = measure_singles(dense, images[: args.images])
    claims: list[Claim] = []
    table: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        dense_logits = forward(dense.module, images)
    for scorer in SCORERS:
        scores = score_all(dense, images, labels, scorer, args.probes, seed=0)
        row: dict[str, float] = {}
        main_scorer = scorer == "removal-gate"
        if scores.tokens is not None:
            for order, site in enumerate(SITES):
                values = token_spearman(scores.tokens[: args.images, order], measured_tokens[:, order])
                wanted = MOST_SPEARMAN[site] if main_scorer else None
                name = f"Spearman, single tokens, block {site}, {scorer}"
                claims.append(Claim(name, *mean_interval(values), at_least=wanted))
            for keep in KEEPS:
                logits = drop_by_scores(dense, images, scores.tokens, keep)
                row[f"agreement {keep}"] = float((logits.argmax(1) == dense_logits.argmax(1)).double().mean())
                row[f"KL {keep}"] = float(kl_to_dense(dense_logits, logits).mean())
        if scores.heads is not None:
            mean_score, mean_loss = scores.heads[: args.images].mean(0).flatten(), measured_heads.mean(0).flatten()
            value = float(spearmanr(mean_score, mean_loss).statistic)
            name = f"Spearman, all {len(mean_score)} heads, {scorer}"
            claims.append(Claim(name, value, at_least=0.80 if main_scorer else None))
        table[scorer] = row
        print(scorer, row, file=sys.stderr, flush=True)
    fitted = inputs(dense, draw(args.shared, "train", args.images, seed=1))
    factors = set_factors(dense, fitted, images[: args.images])
    half = "half the tokens at block 6, median factor after calibration"
    claims.append(Claim(f"set cost, {half}, logits on the way", factors["token-set-path"], at_most=1.5))
    claims.append(Claim(f"set cost, {half}, one Hessian-vector product", factors["token-set"], at_most=1.5))
    claims.append(cost_claim(dense, images[:8]))
    few, many = peak_memory_mb(args.shared, 100), peak_memory_mb(args.shared, 1000)
    claims.append(Claim("peak memory, 1,000 images over 100", many / few, at_most=1.05))
    details: dict[str, object] = {
        "dropping": table,
        "peak memory MB": {"100 images": few, "1000 images": many},
        "mean measured loss of one token, nats": {
            str(site): float(measured_tokens[:, order].mean()) for order, site in enumerate(SITES)
        },
    }
    print(f"\ndropping by score at blocks {SITES}, {args.drop_images} images: agreement with dense / mean KL in nats")
    for scorer_name, found in table.items():
        if found:
            cells = "   ".join(f"keep {k}: {found[f'agreement {k}']:.3f} / {found[f'KL {k}']:.3f}" for k in KEEPS)
            print(f"  {scorer_name:<20} {cells}")
    finish(claims, details, args)


if __name__ == "__main__":
    main()
