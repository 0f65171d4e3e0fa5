"""Writing a gated model as an ONNX graph."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import torch
from torch.jit import TracerWarning  # type: ignore[attr-defined]  # exported in fact, not in the stub

from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.pack import TensorInfo

OPSET = 17
"""The highest that TensorRT 8.5 and later all read."""


def graph_inputs(shape: ModelShape) -> tuple[TensorInfo, ...]:
    """Return the graph's inputs: the image batch, normalised."""
    return (TensorInfo(name="images", dtype="float32", shape=(None, shape.in_chans, shape.img_size, shape.img_size)),)


def graph_outputs(shape: ModelShape, num_listed: dict[int, int]) -> tuple[TensorInfo, ...]:
    """Return the graph's outputs: logits, then the kept patches of each site (block index to patches listed)."""
    kept = (TensorInfo(name=f"kept_{site}", dtype="int32", shape=(None, count)) for site, count in num_listed.items())
    return (TensorInfo(name="logits", dtype="float32", shape=(None, shape.num_classes)), *kept)


def write_graph(model: GatedViT, shape: ModelShape, path: Path) -> None:
    """Store the model as ONNX with a dynamic batch, and check the graph.

    The TorchScript-based exporter is asked for by name: the graphs that TensorRT 8.6 and 10.3 read are those of opset
    17, which the newer exporter does not write.

    Args:
        model: In evaluation mode, on the CPU.
        shape: The dense model's dimensions.
        path: File to write.
    """
    inputs, outputs = graph_inputs(shape), graph_outputs(shape, model.num_listed)
    example = torch.zeros(2, shape.in_chans, shape.img_size, shape.img_size)
    names = [info.name for info in (*inputs, *outputs)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=TracerWarning)  # shapes are constants here on purpose
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # the exporter on its own parts, as versions go
        torch.onnx.export(
            model.eval(),
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=names[: len(inputs)],
            output_names=names[len(inputs) :],
            dynamic_axes={name: {0: "batch"} for name in names},
        )
    graph = onnx.load(path)
    _state_shapes(graph, (*inputs, *outputs))
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, path)


def _state_shapes(graph: onnx.ModelProto, declared: tuple[TensorInfo, ...]) -> None:
    """Write the declared sizes into the graph's inputs and outputs, where the exporter leaves some of them open."""
    for value, info in zip((*graph.graph.input, *graph.graph.output), declared, strict=True):
        for dimension, size in zip(value.type.tensor_type.shape.dim, info.shape, strict=True):
            if size is not None:
                dimension.dim_value = size
