"""What fewer MACs are worth in time, and what graphs that adapt cost beside static ones, on ONNX Runtime's CPU.

    python -m benchmarks.realised_speedup --shared DATA --out realised_speedup.json --check

The dense model and one plan in three forms run in turn in one process, each call beside one of every other, so that
whatever else the machine does falls on all. Ratios are of the times of one round; brackets are 95 % intervals of their
median. The graphs are those of ``--target onnxruntime``. The weights are random and the images real: neither changes
how long a product takes. ``adaptive-input`` gets one tail, so that every image keeps as many tokens as under
``static``, and what is left is the cost of routing.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks import dinov2
from benchmarks.claims import Claim, arguments, finish
from benchmarks.untrained import load_untrained
from heartvit_edge.allocation.cost import plan_macs, plan_params
from heartvit_edge.allocation.plan import dense_blocks, dense_plan
from heartvit_edge.allocation.symmetric import symmetric_counts
from heartvit_edge.data.preprocess import preprocess
from heartvit_edge.engines.build import build_engine
from heartvit_edge.engines.fingerprint import detect_machine
from heartvit_edge.engines.store import load_engine
from heartvit_edge.export.entries import planned_entries
from heartvit_edge.export.pack import write_pack
from heartvit_edge.export.parity import parity_batches
from heartvit_edge.export.routing_images import RoutingImages
from heartvit_edge.graph.half import float32_nodes, name_nodes
from heartvit_edge.model.zoo import DenseModel
from heartvit_edge.runtime.open import open_runners
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.engine import BatchRange
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.pack import BudgetPack, Form
from heartvit_edge.spec.plan import PruningPlan
from heartvit_edge.spec.target import TARGETS

MODELS = ("deit_small_patch16_224", "vit_base_patch16_224")
SITES = (3, 6, 9)
SHARE = 0.5
FORMS: tuple[Form, ...] = ("static", "adaptive-shape", "adaptive-input")
AT_MOST = {"adaptive-shape": 1.03, "adaptive-input": 1.05}
PARITY_IMAGES = 64
EXPORTED = (0.8, 0.65, 0.5)
WARM_UP = 3


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="calls of each engine at batch 1; a third at batch 8")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="timm names")
    args = parser.parse_args()
    claims: list[Claim] = []
    details: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.models:
            dense = load_untrained(name, Path(scratch))
            images = dinov2.draw(args.shared, "train", PARITY_IMAGES, 5)
            inputs = np.concatenate([*preprocess(islice(images, PARITY_IMAGES), dense.preprocessing, 8)])
            made, rows = _measure(name, dense, inputs, Path(scratch), args.rounds)
            claims += made
            details[name] = rows
            if name == MODELS[1]:
                claims.append(_export(name, dense, inputs, Path(scratch)))
    finish(claims, details, args)


def plan_of(dense: DenseModel, share: float) -> PruningPlan:
    """Return the plan of the largest keep ratio at the sites that takes no more than a share of the dense MACs."""
    empty, shape = dense_plan(dense.source, dense.shape), dense.shape
    for ratio in np.arange(0.99, 0.05, -0.002):
        left, blocks = shape.num_patches, []
        counts = dict(zip(SITES, symmetric_counts(shape.num_patches, float(ratio), len(SITES)), strict=True))
        for index, block in enumerate(dense_blocks(shape)):
            left = counts.get(index, left)
            blocks.append(block.model_copy(update={"num_tokens": shape.num_prefix_tokens + left}))
        macs = plan_macs(shape, blocks, 0)
        if macs <= share * empty.dense_macs:
            changes = {"budgets": (Budget(quantity="macs", limit=share),), "blocks": tuple(blocks), "macs": macs}
            return PruningPlan.model_validate(
                empty.model_dump() | changes | {"params": plan_params(shape, blocks, 0), "predicted_loss_nats": None}
            )
    raise ValueError(f"no keep ratio comes down to {share} of the MACs")


def _measure(
    name: str, dense: DenseModel, inputs: NDArray[np.float32], scratch: Path, rounds: int
) -> tuple[list[Claim], dict[str, Any]]:
    """Export, build and time the dense model and a plan in each form; return claims and what is behind them."""
    plan = plan_of(dense, SHARE)
    machine, engines, loaded = detect_machine(), scratch / "engines", []
    for form in FORMS:
        folder = scratch / f"{name}.{form}"
        pack = _write(dense, [plan], form, folder, inputs[:16])
        for entry in pack.entries if form == "static" else pack.entries[1:]:
            where = build_engine(
                folder, pack, entry.name, "onnxruntime", "fp32", BatchRange(max=8), engines / form, machine, force=True
            )
            loaded.append((load_engine(where, machine), where))
    shares = _gate_share(loaded[1][1] / "engine.onnx", dense.shape, inputs[:8])
    claims, rows = [], {"macs_fraction": plan.macs_fraction, "gate_share": shares, "plan": json.loads(plan.to_json())}
    with open_runners(loaded) as runners:
        kept = [{key: values.shape[1] for key, values in runner.infer(inputs[:2]).items()} for runner in runners[1:]]
        if any(one != kept[0] for one in kept):
            raise ValueError(f"forms keep different counts: {kept}")
        for batch in (1, 8):
            times = _interleaved(runners, inputs, batch, rounds if batch == 1 else max(10, rounds // 3))
            rows[f"ms, batch {batch}"] = dict(zip(("dense", *FORMS), 1000 * np.median(times, axis=0), strict=True))
            realised = _median(times[:, 0] / times[:, 1] * plan.macs_fraction)
            claims.append(Claim(f"{name}, batch {batch}: speed-up x MAC share, static", *realised, at_least=0.90))
            for column, form in enumerate(FORMS[1:], 2):
                ratio = _median(times[:, column] / times[:, 1])
                claims.append(Claim(f"{name}, batch {batch}: {form} / static", *ratio, at_most=AT_MOST[form]))
    claims += [
        Claim(f"{name}, batch {batch}: share of gate and top-k", share, at_most=0.03) for batch, share in shares.items()
    ]
    return claims, rows


def _write(
    dense: DenseModel, plans: Sequence[PruningPlan], form: Form, out: Path, inputs: NDArray[np.float32]
) -> BudgetPack:
    """Write a pack with class attention as the gate."""
    return write_pack(
        dense,
        planned_entries(dense, plans, "class-attention", form=form),
        out,
        batches=parity_batches(inputs, (1, 2, 8)),
        classes=(),
        calibration=None,
        routing=RoutingImages([inputs], None, num_buckets=1) if form == "adaptive-input" else None,
        force=True,
        target=TARGETS["onnxruntime"],
    )


def _interleaved(runners: Sequence[Any], inputs: NDArray[np.float32], batch: int, rounds: int) -> NDArray[np.float64]:
    """Return seconds of each call, shape (rounds, runners); the first of a round moves on by one each time."""
    times = np.zeros((rounds, len(runners)))
    for number in range(-WARM_UP, rounds):
        start = (number * batch) % (len(inputs) - batch + 1)
        images = inputs[start : start + batch]
        for turn in range(len(runners)):
            which = (number + turn) % len(runners)
            began = time.perf_counter()
            runners[which].infer(images)
            if number >= 0:
                times[number, which] = time.perf_counter() - began
    return times


def _median(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the median and its 95 % bootstrap interval."""
    draws = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(np.median(values[draws], axis=1), (0.025, 0.975)).tolist()
    return float(np.median(values)), low, high


def _gate_share(engine: Path, shape: ModelShape, inputs: NDArray[np.float32]) -> dict[int, float]:
    """Return the share of the nodes' time that goes into choosing tokens, by batch size, by ONNX Runtime's profile."""
    import onnxruntime

    model = onnx.load(str(engine))
    name_nodes(model.graph)
    choosing = _choosing(model.graph, shape)
    found = {}
    for batch in (1, 8):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling = True
        options.profile_file_prefix = str(engine.with_name(f"profile-{batch}"))
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for _ in range(10):
            session.run(None, {"images": inputs[:batch]})
        spent = [0.0, 0.0]
        for event in json.loads(Path(session.end_profiling()).read_text()):
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                spent[event["name"].removesuffix("_kernel_time") in choosing] += event["dur"]
        found[batch] = spent[True] / sum(spent)
    return found


def _choosing(graph: onnx.GraphProto, shape: ModelShape) -> set[str]:
    """Return the nodes without which every token would go on: those that lead to a TopK alone, it, and what gathers."""
    given = {weight.name for weight in graph.initializer}
    embeds = {node.name for node in graph.node if node.op_type == "Add" and not given.isdisjoint(node.input)}
    held = float32_nodes(graph, shape) - embeds
    made = {output for node in graph.node if node.name in held for output in node.output}
    for node in graph.node:
        wanted = [name for name in node.input if name and name not in given]
        if node.name not in held and any(name in made for name in wanted):
            if all(name in made for name in wanted):
                held.add(node.name)
                made.update(node.output)
            elif node.op_type.startswith("Gather"):
                held.add(node.name)
    return held


def _export(name: str, dense: DenseModel, inputs: NDArray[np.float32], scratch: Path) -> Claim:
    """Return how long a pack of three budgets takes, compared with PyTorch on every image."""
    began = time.perf_counter()
    _write(dense, [plan_of(dense, share) for share in EXPORTED], "static", scratch / "three", inputs)
    return Claim(
        f"{name}: export of dense and 3 budgets, parity included, minutes",
        (time.perf_counter() - began) / 60,
        at_most=5,
    )


if __name__ == "__main__":
    main()
