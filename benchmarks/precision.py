"""How close FP16 and INT8 graphs of DINOv2 come to FP32, and what INT8 is worth on ONNX Runtime's CPU provider.

python -m benchmarks.precision --shared DATA --out docs/results/precision.json --check
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.claims import Claim, arguments, finish
from benchmarks.dinov2 import SITES, draw, inputs, load_model
from heartvit_edge.allocation.plan import dense_plan
from heartvit_edge.export.assembly import Assembly
from heartvit_edge.export.graph import store_graph, whole_model
from heartvit_edge.export.precision import LIMIT_NATS, Precisions, describe, write_others
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.spec.plan import BlockPlan, PruningPlan
from heartvit_edge.spec.precision import Calibration, PrecisionGraph

CALIBRATIONS: tuple[Calibration, ...] = ("minmax", "percentile", "entropy")
KEEP = 0.7
NO_LIMIT = 1e9
BEST: tuple[Calibration, float] = ("minmax", LIMIT_NATS)
Feeds = list[dict[str, NDArray[np.float32]]]


def pruned_plan(dense: PruningPlan) -> PruningPlan:
    """Return the plan that keeps ``KEEP`` of the tokens at each of ``SITES``, and every head."""
    blocks, count = [], dense.shape.num_tokens
    for block, whole in enumerate(dense.blocks):
        count = round(count * KEEP) if block in SITES else count
        blocks.append(BlockPlan(kept_heads=whole.kept_heads, num_tokens=count))
    return dense.model_copy(update={"blocks": tuple(blocks)})


def row_name(method: Calibration, limit: float) -> str:
    """Return what the details call an INT8 graph."""
    return f"int8 {method}, {'every layer' if limit == NO_LIMIT else f'within {limit} nats'}"


def latency_ratio(first: Path, second: Path, images: NDArray[np.float32], threads: int, pairs: int) -> list[float]:
    """Return the second graph's latency over the first's, of ``pairs`` runs of both, one after the other."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    sessions = [
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for path in (first, second)
    ]
    times: list[list[float]] = [[], []]
    for number in range(pairs + 5):
        for which in ((0, 1), (1, 0))[number % 2]:
            started = time.perf_counter()
            sessions[which].run(None, {"images": images})
            times[which].append(time.perf_counter() - started)
    print(f"  batch {len(images)}: {[f'{1e3 * np.median(found[5:]):.2f} ms' for found in times]}", file=sys.stderr)
    return [other / one for one, other in zip(times[0][5:], times[1][5:], strict=True)]


def main() -> None:
    """Measure everything, print and store it."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=128, help="images that graphs are compared on")
    parser.add_argument("--calibration-images", type=int, default=64, help="others, that INT8 is calibrated on")
    parser.add_argument("--pairs", type=int, default=100, help="runs of both graphs whose latency is compared")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime while latency is measured")
    args = parser.parse_args()
    dense = load_model(args.shared)
    whole = dense_plan(dense.source, dense.shape)
    compared, calibration = (
        [{"images": batch.numpy()} for batch in inputs(dense, draw(args.shared, split, count, seed=0)).split(16)]
        for split, count in (("eval", args.images), ("train", args.calibration_images))
    )
    claims: list[Claim] = []
    details: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        models = {
            "dense": GatedViT(dense.module, whole, None),
            f"keep {KEEP}": GatedViT(dense.module, pruned_plan(whole), "class-attention"),
        }
        for name, model in models.items():
            path = Path(scratch) / f"{name}.onnx"
            store_graph(whole_model(model.eval(), dense.shape), path)
            rows: dict[str, PrecisionGraph] = {}
            graph = Assembly((path,))
            half = Precisions(("fp16",))
            (rows["fp16"],) = write_others(graph, dense.shape, half, compared, {name: {}}, name)[name]
            print(describe(name, rows["fp16"]), file=sys.stderr, flush=True)
            for method, limit in product(CALIBRATIONS, (LIMIT_NATS, NO_LIMIT)) if name == "dense" else (BEST,):
                row = row_name(method, limit)
                asked = Precisions(("int8",), method, limit, calibration)
                (rows[row],) = write_others(graph, dense.shape, asked, compared, {name: {}}, name)[name]
                print(row, describe(name, rows[row]), file=sys.stderr, flush=True)
                if (method, limit) == BEST:
                    path.with_name(f"{name}.int8.onnx").rename(path.with_name(f"{name}.best.onnx"))
            details[name] = {row: found.model_dump(mode="json") for row, found in rows.items()}
            close, best = rows["fp16"].fidelity, rows[row_name(*BEST)].fidelity
            claims += [
                Claim(
                    f"{name}: cosine, fp16, images with the same tokens", close.same_tokens_cosine or 0, at_least=0.9999
                ),
                Claim(f"{name}: kept tokens that are the same, fp16", close.kept_overlap, at_least=0.98),
                Claim(f"{name}: agreement with FP32, fp16", close.agreement, at_least=0.99),
                Claim(f"{name}: agreement with FP32, int8", best.agreement, at_least=0.97),
                Claim(f"{name}: mean KL to FP32 in nats, int8", best.kl_nats, at_most=3 * LIMIT_NATS),
            ]
        path = Path(scratch) / "dense.onnx"
        for size in (1, 8):
            ratios = latency_ratio(
                path, path.with_name("dense.best.onnx"), compared[0]["images"][:size], args.threads, args.pairs
            )
            low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
            name = f"dense, batch {size}: latency of int8 over fp32, ONNX Runtime CPU (median, quartiles)"
            claims.append(Claim(name, float(middle), float(low), float(high)))
    finish(claims, details, args)


if __name__ == "__main__":
    main()
