"""INT8 graphs of an entry: ranges measured on what each graph is fed, and the layers that together lose little."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from heartvit_edge.errors import CheckError
from heartvit_edge.export.activation_ranges import Feed, measure_ranges
from heartvit_edge.export.assembly import Assembly
from heartvit_edge.export.quantize import add_switches, find_layers, quantize
from heartvit_edge.export.sensitive_layers import choose_layers
from heartvit_edge.export.sessions import as_run, open_graph
from heartvit_edge.graph.half import name_nodes
from heartvit_edge.graph.weights import WeightFile
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.precision import Calibration, Quantization
from heartvit_edge.spec.route import Arrays, Run


class Part(NamedTuple):
    """One graph that is to be quantised.

    Attributes:
        path: The FP32 graph.
        nodes: Name of each layer to that of its node.
        ranges: The magnitude to cover of each layer's input, by the tensor's name.
        run: Runs the graph; which layers are in INT8 is said by switches.
    """

    path: Path
    nodes: Mapping[str, str]
    ranges: Mapping[str, float]
    run: Run

    def switched(self, chosen: Collection[str]) -> Run:
        """Return what runs the graph with some layers in INT8."""
        switches = {_switch(layer): np.array(layer in chosen) for layer in self.nodes}
        return lambda given: self.run({**given, **switches})


def write_int8(
    graphs: Assembly,
    shape: ModelShape,
    groups: Sequence[Sequence[Feed]],
    calibration: Calibration,
    limit_nats: float,
    name: str,
    weights: WeightFile | None = None,
) -> Quantization:
    """Write FP32 graphs with their matrix products in INT8, but for those that lose too much.

    A layer that several tails have is in INT8 in all of them or in none, so that they share its weights.

    Args:
        graphs: The FP32 graphs; those in INT8 go beside them.
        shape: Dimensions of the dense model.
        groups: Calibration images in batches, once for each way of running the graphs, such as a budget's counts; none
            of these may lose more than the limit.
        calibration: What decides the range of each activation.
        limit_nats: Most that may be lost, mean KL(FP32 || INT8).
        name: What messages call it.
        weights: Where the weights go; None: into each graph.

    Raises:
        CheckError: If there is no product with weights in FP32, or no choice of layers is within the limit.
    """
    fed = graphs.feeds([feed for group in groups for feed in group])
    parts = [_prepare(path, shape, feeds, calibration, weights) for path, feeds in zip(graphs.paths, fed, strict=True)]
    layers = tuple(dict.fromkeys(layer for part in parts for layer in part.nodes))
    if not layers:
        raise CheckError(
            f"{graphs.paths[0]} has no matrix product with FP32 weights to quantise", hint="quantise the FP32 graph"
        )

    def logits(chosen: Collection[str], feed: Arrays) -> NDArray[Any]:
        return next(iter(graphs.join([part.switched(chosen) for part in parts])(feed).values()))

    choice = choose_layers(logits, layers, groups, limit_nats, name)
    for part, target in zip(parts, graphs.written_in("int8").paths, strict=True):
        _write(part, choice.layers, target, weights)
    return Quantization(
        calibration=calibration,
        num_images=sum(len(next(iter(feed.values()))) for feed in groups[0]),
        limit_nats=limit_nats,
        loss_nats=choice.loss_nats,
        num_quantized=len(choice.layers),
        left_out=choice.left_out,
    )


def _prepare(
    path: Path, shape: ModelShape, feeds: Sequence[Feed], calibration: Calibration, weights: WeightFile | None
) -> Part:
    """Measure the ranges of a graph, and open it with a switch for each layer."""
    model = onnx.load(str(path))
    layers = find_layers(model.graph, shape)
    nodes = {layer: node.name for layer, node in layers.items()}
    ranges = measure_ranges(path, [node.input[0] for node in layers.values()], feeds, calibration) if layers else {}
    if layers:
        model = quantize(model, nodes.values(), ranges)
        add_switches(model, {node: _switch(layer) for layer, node in nodes.items()})
    if weights is not None:
        weights.let_go(model)
    return Part(path, nodes, ranges, as_run(open_graph(model, path.parent)))


def _write(part: Part, layers: Collection[str], target: Path, weights: WeightFile | None) -> None:
    """Write a graph with its share of the layers in INT8; it may have none."""
    model = onnx.load(str(part.path))
    name_nodes(model.graph)
    if chosen := [node for layer, node in part.nodes.items() if layer in layers]:
        model = quantize(model, chosen, part.ranges)
    if weights is not None:
        weights.take_all(model)
    onnx.save_model(model, str(target))
    onnx.checker.check_model(str(target), full_check=True)


def _switch(layer: str) -> str:
    return f"{layer}.int8"
