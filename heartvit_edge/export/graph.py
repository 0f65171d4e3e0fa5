"""Writing models as ONNX graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from heartvit_edge.export.any_count import AnyCountViT
from heartvit_edge.export.attach import attach_weights, fold_constants, name_batch_by_zero
from heartvit_edge.export.exporter import run_exporter
from heartvit_edge.export.projections import separate_projections
from heartvit_edge.export.row_gathers import gather_rows
from heartvit_edge.gating.gated import GatedViT
from heartvit_edge.graph.weights import WeightFile
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.pack import TensorInfo, num_keep_name
from heartvit_edge.spec.target import DEFAULT_TARGET, TARGETS, Target

Step = Callable[[onnx.ModelProto], onnx.ModelProto]
"""Something that is done to a graph with its weights before it is stored."""


@dataclass(frozen=True)
class Traceable:
    """What a graph is traced from.

    Attributes:
        module: In evaluation mode, on the CPU.
        example: Its arguments, a batch of two.
        inputs: Names, types and sizes of the arguments; None where any size is taken.
        outputs: The same of its results.
        width: Channels of its tokens.
    """

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    width: int


def graph_inputs(shape: ModelShape, sites: Iterable[int] = ()) -> tuple[TensorInfo, ...]:
    """Return the graph's inputs: the image batch, normalised, then the counts of the sites that take one."""
    size = (None, shape.in_chans, shape.img_size, shape.img_size)
    counts = (TensorInfo(name=num_keep_name(site), dtype="int64", shape=()) for site in sites)
    return (TensorInfo(name="images", dtype="float32", shape=size), *counts)


def graph_outputs(shape: ModelShape, num_listed: Mapping[int, int | None]) -> tuple[TensorInfo, ...]:
    """Return the graph's outputs: logits, then the kept patches of each site (block index to patches listed)."""
    kept = (TensorInfo(name=f"kept_{site}", dtype="int32", shape=(None, count)) for site, count in num_listed.items())
    return (TensorInfo(name="logits", dtype="float32", shape=(None, shape.num_classes)), *kept)


def whole_model(model: GatedViT | AnyCountViT, shape: ModelShape) -> Traceable:
    """Return what the graph of a whole model is traced from; its batch is dynamic.

    Args:
        model: A plan's model, whose counts are constants, or one that is told them.
        shape: The dense model's dimensions.
    """
    images = torch.zeros(2, shape.in_chans, shape.img_size, shape.img_size)
    if isinstance(model, GatedViT):
        outputs = graph_outputs(shape, model.num_listed)
        return Traceable(model, (images,), graph_inputs(shape), outputs, shape.embed_dim)
    num_keep = model.model.num_keep
    counts = (torch.tensor(count) for count in num_keep.values())
    outputs = graph_outputs(shape, dict.fromkeys(num_keep))
    return Traceable(model, (images, *counts), graph_inputs(shape, num_keep), outputs, shape.embed_dim)


def store_graph(
    source: Traceable,
    path: Path,
    *,
    target: Target = TARGETS[DEFAULT_TARGET],
    weights: WeightFile | None = None,
    steps: Sequence[Step] = (),
) -> None:
    """Store a module as ONNX and check the graph.

    torch's older exporter traces the graph without weights; those are attached one by one. The newer one stores them.

    Args:
        source: What is traced.
        path: File to write.
        target: Who reads it, which decides opset, exporter and how attention is written.
        weights: Where the weights go, beside the graph; None: into the graph.
        steps: What is done to the graph before it is stored, in order; it has its weights then.
    """
    inputs, outputs = source.inputs, source.outputs
    run_exporter(
        source.module,
        source.example,
        path,
        target,
        inputs=[info.name for info in inputs],
        outputs=[info.name for info in outputs],
        open_axes={
            info.name: {axis: "batch" if axis == 0 else f"{info.name}_{axis}" for axis, size in sizes if size is None}
            for info in (*inputs, *outputs)
            if (sizes := list(enumerate(info.shape)))
        },
        weights=target.dynamo,
    )
    model = onnx.load(path)
    if target.gathers_rows:
        steps = (_in_place(partial(gather_rows, width=source.width)), *steps)
    if target.separate_projections:
        steps = (_in_place(separate_projections), *steps)
    at_once = weights is not None and not steps and not target.dynamo
    if not target.dynamo:
        named = (source.module.named_parameters, source.module.named_buffers)
        tensors = {name: tensor for each in named for name, tensor in each(remove_duplicate=False)}
        attach_weights(model.graph, tensors, weights.take if weights is not None and at_once else lambda _: None)
        fold_constants(model.graph, target.opset)
        name_batch_by_zero(model.graph)
    _state_shapes(model, (*inputs, *outputs))
    for step in steps:
        model = step(model)
    if weights is not None and not at_once:
        weights.take_all(model)
    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)


def _in_place(rewrite: Callable[[onnx.ModelProto], int]) -> Step:
    """Return a step that rewrites the graph in place."""

    def step(model: onnx.ModelProto) -> onnx.ModelProto:
        rewrite(model)
        return model

    return step


def _state_shapes(graph: onnx.ModelProto, declared: tuple[TensorInfo, ...]) -> None:
    """Write the declared sizes into the graph's inputs and outputs, where the exporter leaves some of them open."""
    for value, info in zip((*graph.graph.input, *graph.graph.output), declared, strict=True):
        for dimension, size in zip(value.type.tensor_type.shape.dim, info.shape, strict=True):
            if size is not None:
                dimension.dim_value = size
