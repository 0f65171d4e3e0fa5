"""Running an FP16 graph on a CPU as a GPU would round it.

ONNX Runtime's CPU provider has few FP16 kernels. It computes the others in FP32 and drops the rounding between two of
them, so that neither lost digits nor overflow would be seen. What it cannot drop is a value that two FP16 operators in
a row hand on: each FP16 value here goes through two ``Identity`` nodes, which no optimisation is allowed to remove.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from heartvit_edge.export.sessions import open_graph


def open_rounded(path: Path) -> Any:  # noqa: ANN401 - an onnxruntime.InferenceSession, which carries no types
    """Return a session that runs an ONNX file with every FP16 value rounded to FP16; sums are kept in FP32."""
    model = onnx.load(str(path), load_external_data=False)
    add_rounding(model)
    return open_graph(model, path.parent, optimise=False)


def add_rounding(model: onnx.ModelProto) -> None:
    """Let each value that a node gives in FP16 go through two ``Identity`` nodes; in place."""
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    half = {info.name for info in inferred if info.type.tensor_type.elem_type == TensorProto.FLOAT16}
    nodes = []
    for node in model.graph.node:
        added = []
        for position, name in enumerate(node.output):
            if name in half:
                node.output[position] = f"{name}.exact"
                added.append(helper.make_node("Identity", [f"{name}.exact"], [f"{name}.once"], f"{name}.first"))
                added.append(helper.make_node("Identity", [f"{name}.once"], [name], f"{name}.second"))
        nodes += [onnx.NodeProto.FromString(node.SerializeToString()), *added]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
