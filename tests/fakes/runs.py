"""A measurement and an evaluation small enough to compute their figures by hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from fakes.measurements import MACHINE, make_row, make_trial
from fakes.tiny_pack import SHAPE as TINY_SHAPE
from fakes.tiny_pack import SOURCE
from PIL import Image

from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.evaluation import EntryEvaluation, Evaluation, SampleImage
from heartvit_edge.spec.measurement import Measurement, PowerTrace
from heartvit_edge.spec.model import ImageSetRef, Preprocessing
from heartvit_edge.spec.pack import BudgetPack, PackEntry, TensorInfo
from heartvit_edge.spec.parity import Parity
from heartvit_edge.spec.plan import BlockPlan, PruningPlan

SHAPE = TINY_SHAPE.model_copy(update={"depth": 3})
BLOCKS = {
    "dense": (BlockPlan(kept_heads=(0, 1), num_tokens=17),) * 3,
    "macs-0.5": (
        BlockPlan(kept_heads=(0, 1), num_tokens=17),
        BlockPlan(kept_heads=(1,), num_tokens=9),
        BlockPlan(kept_heads=(0, 1), num_tokens=5),
    ),
}
KEPT = ((1, (0, 1, 2, 3, 4, 5, 6, 7)), (2, (1, 2, 5, 6)))
MACS = {"dense": 40_000, "macs-0.5": 20_000}
ENGINE = "e" * 64
NO_POWER = "no power source on this machine"


def make_pack(name: str = "tiny_vit") -> BudgetPack:
    """Return a pack of ``dense`` and ``macs-0.5``: 16 patches, sites at blocks 1 and 2, 5 of 6 heads."""
    source = SOURCE.model_copy(update={"name": name})
    entries = []
    for entry, blocks in BLOCKS.items():
        dense = entry == "dense"
        plan = PruningPlan(
            source=source,
            shape=SHAPE,
            budgets=() if dense else (Budget(limit=0.5),),
            blocks=blocks,
            predicted_loss_nats=0.0 if dense else 0.0125,
            macs=MACS[entry],
            dense_macs=MACS["dense"],
            scorer=None if dense else "fisher",
            sensitivity_sha256=None if dense else "1" * 64,
        )
        entries.append(
            PackEntry(
                name=entry,
                plan=plan,
                gate=None if dense else "tiny",
                onnx=f"{entry}.onnx",
                onnx_sha256="2" * 64,
                inputs=(TensorInfo(name="images", dtype="float32", shape=(None, 3, 32, 32)),),
                outputs=(TensorInfo(name="logits", dtype="float32", shape=(None, 3)),),
                opset=18,
                parity=Parity(
                    num_images=4, max_abs_error=1e-5, logit_scale=10.0, tolerance=1e-3, kept_token_mismatches=0
                ),
            )
        )
    return BudgetPack(
        source=source,
        shape=SHAPE,
        preprocessing=Preprocessing(
            img_size=32,
            interpolation="bilinear",
            crop_pct=1.0,
            crop_mode="center",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        classes=("circle", "square", "triangle"),
        calibration=None,
        entries=tuple(entries),
        tool_version="0",
    )


def make_power(end_s: float) -> PowerTrace:
    """Return readings every 0.1 s of two rails, 2 W and 3 W without a change."""
    count = round(10 * end_s) + 1
    return PowerTrace(
        source="replay",
        times_s=tuple(0.1 * index for index in range(count)),
        rails_mw={"GPU": (2000.0,) * count, "CPU": (3000.0,) * count},
        total_rails=("GPU", "CPU"),
        total_rule="The rails add up.",
    )


def make_measurement(
    latency_ms: Mapping[str, Sequence[float]] | None = None,
    *,
    batch_sizes: Sequence[int] = (1,),
    power: bool = False,
    pack: BudgetPack | None = None,
    warm_up_stable: bool = True,
    num_trials: int = 2,
) -> Measurement:
    """Return a measurement of both entries: equal trials, two each, without a pause between inferences.

    ``latency_ms`` is one trial's at batch size 1; at size B each latency is B times as long. By default it runs from
    1.9 to 2.1 ms (dense) and 0.95 to 1.05 ms (macs-0.5) in 1,000 equal steps.
    """
    latency_ms = latency_ms or {
        "dense": [1.9 + 0.0002 * index for index in range(1000)],
        "macs-0.5": [0.95 + 0.0001 * index for index in range(1000)],
    }
    rows, clock = [], 1.0
    for batch_size in batch_sizes:
        for entry, samples in latency_ms.items():
            trials = []
            for _ in range(num_trials):
                trials.append(make_trial(clock, [batch_size * value for value in samples]))
                clock = trials[-1].end_s + 0.5
            row = make_row(entry, trials, batch_size)
            rows.append(row.model_copy(update={"warm_up_stable": warm_up_stable}))
    return Measurement(
        pack=pack or make_pack(),
        machine=MACHINE,
        backend="onnxruntime",
        precision="fp32",
        created="2025-01-02T03:04:05Z",
        command="heartvit-edge bench pack --out run",
        rows=tuple(rows),
        power=make_power(clock + 1.0) if power else None,
        no_power_reason=None if power else NO_POWER,
    )


def make_evaluation(
    *,
    labelled: bool = True,
    classes: Sequence[str] = ("circle", "square", "triangle"),
    pack: BudgetPack | None = None,
    engine: str = ENGINE,
) -> Evaluation:
    """Return answers to 100 images: dense 95 right; macs-0.5 90 right and 92 agreeing, KL 0.02 nats; one sample.

    Dense alone is right on 7 images, macs-0.5 alone on 2.
    """
    right = {"dense": range(95), "macs-0.5": range(7, 97)}
    return Evaluation(
        pack_sha256=(pack or make_pack()).digest(),
        images=ImageSetRef(name="shapes.npz", num_images=100, sha256="3" * 64, labelled=labelled),
        num_images=100,
        backend="onnxruntime",
        precision="fp32",
        entries=tuple(
            EntryEvaluation(
                entry=entry,
                engine_sha256=engine,
                top1_correct=len(right[entry]) if labelled else None,
                top5_correct=None,
                agreeing=100 if entry == "dense" else 92,
                kl_nats=(0.0 if entry == "dense" else 0.02,) * 100,
                correct=tuple(image in right[entry] for image in range(100)) if labelled else None,
            )
            for entry in BLOCKS
        ),
        samples=(
            SampleImage(
                index=7,
                png_base64=png_base64(),
                label=1 if labelled else None,
                predictions={"dense": 1, "macs-0.5": 2},
                kept={"macs-0.5": KEPT},
            ),
        ),
        classes=tuple(classes),
        command="heartvit-edge evaluate pack --data shapes.npz --out run",
    )


def png_base64() -> str:
    """Return a grey 32 x 32 PNG in base 64."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (90, 120, 150)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def write_run(folder: Path, measurement: Measurement | None = None, evaluation: Evaluation | None = None) -> Path:
    """Write what is given into a new run folder and return it."""
    folder.mkdir(parents=True)
    if measurement:
        measurement.write(folder / "measurement.json")
    if evaluation:
        evaluation.write(folder / "evaluation.json")
    return folder
