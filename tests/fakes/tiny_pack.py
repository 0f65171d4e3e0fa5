"""A budget pack small enough for a unit test: hand-written ONNX graphs, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.model import ModelShape, ModelSource, Preprocessing
from heartvit_edge.spec.pack import MANIFEST, BudgetPack, PackEntry, TensorInfo
from heartvit_edge.spec.parity import Parity
from heartvit_edge.spec.plan import BlockPlan, PruningPlan

if TYPE_CHECKING:
    import onnx

OPSET = 17
SHAPE = ModelShape(
    img_size=32,
    patch_size=8,
    embed_dim=8,
    depth=2,
    num_heads=2,
    head_dim=4,
    mlp_in_dim=16,
    mlp_hidden_dim=16,
    num_classes=3,
    num_prefix_tokens=1,
    pool="token",
)
SOURCE = ModelSource(name="tiny_vit", weights_sha256="0" * 64)
NUM_KEPT = 8  # of the 16 patches, from block 1 on


def _graph(num_kept: int | None) -> onnx.ModelProto:
    """Return patches -> LayerNorm -> (keep the best) -> softmax attention -> mean -> logits, batch dynamic.

    Patch order is row-major; the weights are drawn from a fixed seed.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    random = np.random.default_rng(0)
    dim = SHAPE.embed_dim
    weights = {
        "patch.weight": random.normal(0, 0.1, (dim, 3, SHAPE.patch_size, SHAPE.patch_size)),
        "patch.bias": random.normal(0, 0.1, dim),
        "norm.weight": np.ones(dim),
        "norm.bias": np.zeros(dim),
        "gate.weight": random.normal(0, 1, (dim, 1)),
        "query.weight": random.normal(0, 0.5, (dim, dim)),
        "head.weight": random.normal(0, 1, (dim, SHAPE.num_classes)),
        "head.bias": random.normal(0, 0.1, SHAPE.num_classes),
    }
    integers: dict[str, list[int]] = {"tokens_shape": [0, dim, -1]}
    node = helper.make_node
    nodes = [
        node("Conv", ["images", "patch.weight", "patch.bias"], ["grid"], "patch", strides=[SHAPE.patch_size] * 2),
        node("Reshape", ["grid", "tokens_shape"], ["flat"], "flatten"),
        node("Transpose", ["flat"], ["patches"], "transpose", perm=[0, 2, 1]),  # (B, 16, C)
        node("LayerNormalization", ["patches", "norm.weight", "norm.bias"], ["all_tokens"], "norm", axis=-1),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", SHAPE.num_classes])]
    tokens = "all_tokens"
    if num_kept is not None:
        integers |= {"k": [num_kept], "last": [-1], "wide": [1, 1, dim]}
        nodes += [
            node("MatMul", ["all_tokens", "gate.weight"], ["gate_column"], "gate"),
            node("Squeeze", ["gate_column", "last"], ["scores"], "scores"),  # (B, 16)
            node("TopK", ["scores", "k"], ["best", "by_score"], "topk", axis=-1, sorted=1),
            node("TopK", ["by_score", "k"], ["index", "unused"], "order", axis=-1, largest=0, sorted=1),
            node("Cast", ["index"], ["kept_1"], "kept", to=TensorProto.INT32),
            node("Unsqueeze", ["index", "last"], ["index_column"], "index_column"),
            node("Tile", ["index_column", "wide"], ["index_wide"], "index_wide"),
            node("GatherElements", ["all_tokens", "index_wide"], ["kept_tokens"], "gather", axis=1),  # (B, K, C)
        ]
        outputs.append(helper.make_tensor_value_info("kept_1", TensorProto.INT32, ["batch", num_kept]))
        tokens = "kept_tokens"
    nodes += [
        node("MatMul", [tokens, "query.weight"], ["query"], "query"),
        node("Transpose", [tokens], ["key"], "key", perm=[0, 2, 1]),
        node("MatMul", ["query", "key"], ["attention_logits"], "attention_logits"),
        node("Softmax", ["attention_logits"], ["attention"], "softmax", axis=-1),
        node("MatMul", ["attention", tokens], ["mixed"], "mix"),
        node("ReduceMean", ["mixed"], ["pooled"], "pool", axes=[1], keepdims=0),
        node("Gemm", ["pooled", "head.weight", "head.bias"], ["logits"], "head"),
    ]
    used = {name for one in nodes for name in one.input}
    initializers = [
        numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items() if name in used
    ] + [numpy_helper.from_array(np.array(v, dtype=np.int64), name) for name, v in integers.items()]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SHAPE.img_size, SHAPE.img_size])
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", [image], outputs, initializers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
    )
    checker.check_model(model, full_check=True)
    return model


def _entry(folder: Path, name: str, plan: PruningPlan, num_kept: int | None) -> PackEntry:
    import onnx

    path = folder / f"{name}.onnx"
    onnx.save_model(_graph(num_kept), path)
    outputs = [TensorInfo(name="logits", dtype="float32", shape=(None, SHAPE.num_classes))]
    if num_kept is not None:
        outputs.append(TensorInfo(name="kept_1", dtype="int32", shape=(None, num_kept)))
    return PackEntry(
        name=name,
        plan=plan,
        gate=None if num_kept is None else "tiny",
        onnx=path.name,
        onnx_sha256=sha256_file(path),
        inputs=(TensorInfo(name="images", dtype="float32", shape=(None, 3, SHAPE.img_size, SHAPE.img_size)),),
        outputs=tuple(outputs),
        opset=OPSET,
        parity=Parity(num_images=1, max_abs_error=0.0, logit_scale=1.0, tolerance=1e-3, kept_token_mismatches=0),
    )


def make_tiny_pack(folder: Path) -> BudgetPack:
    """Write a pack of two entries, ``dense`` and ``macs-0.5``, into ``folder`` and return its manifest.

    Input ``images`` (B, 3, 32, 32) float32; outputs ``logits`` (B, 3) float32 and, for ``macs-0.5`` alone,
    ``kept_1`` (B, 8) int32: the patches kept from block 1 on, ascending, of 16. The batch is dynamic.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blocks = (
        BlockPlan(kept_heads=(0, 1), num_tokens=SHAPE.num_tokens),
        BlockPlan(kept_heads=(0,), num_tokens=SHAPE.num_prefix_tokens + NUM_KEPT),
    )
    dense = PruningPlan(
        source=SOURCE,
        shape=SHAPE,
        budgets=(),
        blocks=(BlockPlan(kept_heads=(0, 1), num_tokens=SHAPE.num_tokens),) * SHAPE.depth,
        predicted_loss_nats=0.0,
        macs=40_000,
        dense_macs=40_000,
        scorer=None,
        sensitivity_sha256=None,
    )
    pruned = PruningPlan(
        source=SOURCE,
        shape=SHAPE,
        budgets=(Budget(limit=0.5),),
        blocks=blocks,
        predicted_loss_nats=0.01,
        macs=20_000,
        dense_macs=40_000,
        scorer="curvature",
        sensitivity_sha256="1" * 64,
    )
    pack = BudgetPack(
        source=SOURCE,
        shape=SHAPE,
        preprocessing=Preprocessing(
            img_size=SHAPE.img_size,
            interpolation="bilinear",
            crop_pct=1.0,
            crop_mode="center",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        classes=("circle", "square", "triangle"),
        calibration=None,
        entries=(_entry(folder, "dense", dense, None), _entry(folder, "macs-0.5", pruned, NUM_KEPT)),
        tool_version="0",
    )
    pack.write(folder / MANIFEST, force=True)
    return pack
