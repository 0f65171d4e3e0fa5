"""The graphs of an entry in other precisions: each made from its FP32 graph, and compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from heartvit_edge.errors import CheckError, InputError
from heartvit_edge.export.activation_ranges import Feed, measure_ranges
from heartvit_edge.export.fidelity import check_half, compare_graphs
from heartvit_edge.export.quantize import find_layers, quantize
from heartvit_edge.export.sensitive_layers import choose_layers
from heartvit_edge.graph.half import write_half
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.precision import Calibration, PrecisionGraph, Quantization

LIMIT_NATS = 0.01
"""Most that INT8 may lose by default, in mean KL."""


@dataclass(frozen=True)
class Precisions:
    """What is asked for besides FP32.

    Attributes:
        asked: Each precision once.
        calibration: What decides the range of each activation in INT8.
        limit_nats: Most that INT8 may lose on the calibration images, mean KL(FP32 || INT8).
        images: Batches of calibration images, for INT8.
    """

    asked: tuple[Literal["fp16", "int8"], ...] = ()
    calibration: Calibration = "minmax"
    limit_nats: float = LIMIT_NATS
    images: Sequence[Feed] = ()

    def __post_init__(self) -> None:
        """Refuse INT8 without images.

        Raises:
            InputError: If INT8 is asked for and there are none to calibrate on.
        """
        if "int8" in self.asked and not self.images:
            raise InputError("INT8 needs images that tell the range of each activation, found none", hint="--data DIR")


def write_others(
    source: Path,
    shape: ModelShape,
    precisions: Precisions,
    feeds: Sequence[Feed],
) -> tuple[PrecisionGraph, ...]:
    """Write ``<name>.<precision>.onnx`` beside an FP32 graph for each precision asked for, and compare it.

    Args:
        source: The FP32 graph.
        shape: Dimensions of the dense model.
        precisions: What is asked for.
        feeds: Batches of real inputs for the comparison.

    Raises:
        MachineError: If what FP16 needs is missing.
        CheckError: If a logit is not finite, FP16 is too far from FP32, or INT8 loses too much whatever is left out.
    """
    written = []
    for precision in precisions.asked:
        target = source.with_name(f"{source.stem}.{precision}.onnx")
        quantization = None
        if precision == "fp16":
            write_half(source, target, shape)
        else:
            quantization = write_int8(source, target, shape, precisions)
        fidelity = compare_graphs(source, target, feeds, precision)
        graph = PrecisionGraph(
            precision=precision,
            onnx=target.name,
            onnx_sha256=sha256_file(target),
            fidelity=fidelity,
            quantization=quantization,
        )
        if precision == "fp16":
            check_half(fidelity, target.stem)
        written.append(graph)
    return tuple(written)


def write_int8(source: Path, target: Path, shape: ModelShape, precisions: Precisions) -> Quantization:
    """Write an FP32 graph with its matrix products in INT8, but for those that lose too much.

    Raises:
        CheckError: If the graph has no product with weights in FP32, or no choice of layers is within the limit.
    """
    model = onnx.load(str(source))
    layers = find_layers(model.graph, shape)
    if not layers:
        raise CheckError(
            f"{source} has no matrix product with FP32 weights to quantise", hint="quantise the FP32 graph"
        )
    ranges = measure_ranges(
        source, [node.input[0] for node in layers.values()], precisions.images, precisions.calibration
    )
    nodes = {layer: node.name for layer, node in layers.items()}
    whole = quantize(model, nodes.values(), ranges)
    choice = choose_layers(whole, nodes, precisions.images, source.parent, precisions.limit_nats, target.stem)
    onnx.save_model(quantize(model, [nodes[layer] for layer in choice.layers], ranges), str(target))
    onnx.checker.check_model(str(target), full_check=True)
    return Quantization(
        calibration=precisions.calibration,
        num_images=sum(len(next(iter(feed.values()))) for feed in precisions.images),
        limit_nats=precisions.limit_nats,
        loss_nats=choice.loss_nats,
        num_quantized=len(choice.layers),
        left_out=choice.left_out,
    )


def describe(graph: PrecisionGraph) -> str:
    """Return one line on how close a graph comes to FP32."""
    found, made = graph.fidelity, graph.quantization
    text = (
        f"{graph.onnx.removesuffix('.onnx')}: {found.num_agreeing} of {found.num_images} images are given the class of "
        f"FP32, mean cosine {found.cosine:.6f}, mean KL {found.kl_nats:.2g} nats"
    )
    if found.num_other_tokens:
        alike = "" if found.same_tokens_cosine is None else f" (cosine of the others {found.same_tokens_cosine:.6f})"
        text += f", {found.num_other_tokens} keep other tokens{alike}"
    if made is None:
        return text
    left_out = ", ".join(f"{layer.name} ({layer.loss_nats:.2g})" for layer in made.left_out)
    return (
        f"{text}; {made.num_quantized} layers in INT8, {len(made.left_out)} left out"
        f"{f' for what each loses alone, in nats: {left_out}' if left_out else ''}"
    )
