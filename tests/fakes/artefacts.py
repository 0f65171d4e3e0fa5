"""One valid value of every artefact."""

from __future__ import annotations

import numpy as np
from fakes.device_tables import make_device_table
from fakes.finetune_runs import entry, finetune_run
from fakes.learned import trained_gate
from fakes.machines import DESKTOP
from fakes.runs import make_evaluation, make_measurement, make_pack
from fakes.small_plans import SHAPE, make_table

from heartvit_edge.allocation.plan import make_plan
from heartvit_edge.spec.base import Artefact
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.engine import BatchRange, EngineManifest
from heartvit_edge.spec.layers import EngineLayer, EngineLayers
from heartvit_edge.spec.model import ImageSetRef
from heartvit_edge.spec.sensitivity import Calibration


def every_artefact() -> dict[str, Artefact]:
    """Map the name of each artefact's schema to a value of it."""
    random = np.random.default_rng(0)
    tokens = {site: random.uniform(0, 1, (6, SHAPE.num_patches)).astype(np.float32) for site in (1, 3)}
    table = make_table(tokens, random.uniform(0, 1, (SHAPE.depth, SHAPE.num_heads)))
    calibration = Calibration(
        component="head",
        scale=1.5,
        exponent=0.9,
        spearman=0.8,
        r_squared=0.7,
        median_factor=1.3,
        num_points=60,
        num_images=4,
    )
    info = table.info.model_copy(
        update={
            "site_mean": {1: 0.5, 3: 0.25},
            "site_stderr": {1: 0.05, 3: 0.025},
            "calibration": (calibration,),
            "calibration_images": ImageSetRef(name="held out", num_images=4, sha256="4" * 64, labelled=True),
        }
    )
    pack = make_pack()
    dense = pack.entry("dense")
    engine = EngineManifest(
        entry="dense",
        backend="onnxruntime",
        precision="fp32",
        file="engine.onnx",
        sha256="5" * 64,
        onnx_sha256=dense.onnx_sha256,
        inputs=dense.inputs,
        outputs=dense.outputs,
        batch=BatchRange(min=1, opt=2, max=4),
        machine=DESKTOP,
        options=(("provider", "CPUExecutionProvider"),),
        build_s=1.0,
        tool_version="0",
    )
    few_ms = {"dense": [2.0, 2.1], "macs-0.5": [1.0, 1.1]}
    values = (
        make_plan(table, (Budget(limit=0.6),)),
        info,
        pack,
        engine,
        make_measurement(few_ms, power=True),
        make_evaluation(),
        make_device_table(),
        finetune_run(entry(), entry(control=True)),
        trained_gate(),
        EngineLayers(
            engine_sha256="5" * 64,
            layers=(EngineLayer(name="head", kind="gemm", tactic="sm80", precision="fp16", nodes=("/head/Gemm",)),),
            num_fused_attention=1,
        ),
    )
    return {value.schema_name: value for value in values}
