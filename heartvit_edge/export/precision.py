"""The graphs of an entry in other precisions: each made from its FP32 graph, and compared with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from heartvit_edge.errors import InputError
from heartvit_edge.export.activation_ranges import Feed
from heartvit_edge.export.assembly import Assembly
from heartvit_edge.export.fidelity import check_half, compare
from heartvit_edge.export.half_rounding import open_rounded
from heartvit_edge.export.int8 import write_int8
from heartvit_edge.export.sessions import open_file
from heartvit_edge.graph.half import write_half
from heartvit_edge.graph.weights import WeightFile
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.precision import Calibration, PrecisionFile, PrecisionGraph

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
    graphs: Assembly,
    shape: ModelShape,
    precisions: Precisions,
    batches: Sequence[Feed],
    counts: Mapping[str, Feed],
    name: str,
    weights: WeightFile | None = None,
    *,
    beside: Mapping[str, Sequence[Feed]] | None = None,
) -> dict[str, tuple[PrecisionGraph, ...]]:
    """Write ``<name>.<precision>.onnx`` beside each FP32 graph for each precision asked for, and compare them.

    Args:
        graphs: The FP32 graphs of an entry, or of several that share one.
        shape: Dimensions of the dense model.
        precisions: What is asked for.
        batches: Real images for the comparison.
        counts: Name of each entry to what it is fed beside images.
        name: What messages call what the entries share.
        weights: Where the weights go; None: into each graph.
        beside: What else the graphs are compared on, by what messages call it; these few images are not recorded.

    Returns:
        What the manifest says of each entry's graphs, by the entry's name.

    Raises:
        MachineError: If what FP16 needs is missing.
        CheckError: If a logit is not finite, FP16 is too far from FP32, or INT8 loses too much whatever is left out.
    """
    written: dict[str, list[PrecisionGraph]] = {entry: [] for entry in counts}
    for precision in precisions.asked:
        made, quantization = graphs.written_in(precision), None
        if precision == "fp16":
            for source, target in zip(graphs.paths, made.paths, strict=True):
                write_half(source, target, shape, weights)
        else:
            groups = [[{**feed, **more} for feed in precisions.images] for more in counts.values()]
            how = precisions.calibration, precisions.limit_nats
            quantization = write_int8(graphs, shape, groups, *how, f"{name}.int8", weights)
        reference, other = graphs.open(open_file), made.open(open_rounded if precision == "fp16" else open_file)
        first, *tails = (PrecisionFile(onnx=path.name, onnx_sha256=sha256_file(path)) for path in made.paths)
        for what, feeds in (beside or {}).items():
            found = compare(reference, other, feeds, f"{what}, {precision}")
            if precision == "fp16":
                check_half(found, f"{what}, {precision}", few=True)
        for entry, more in counts.items():
            called = f"{entry}.{precision}"
            fidelity = compare(reference, other, [{**feed, **more} for feed in batches], called)
            if precision == "fp16":
                check_half(fidelity, called)
            written[entry].append(
                PrecisionGraph(
                    **first.model_dump(),
                    precision=precision,
                    fidelity=fidelity,
                    quantization=quantization,
                    tails=tuple(tails),
                )
            )
    return {entry: tuple(found) for entry, found in written.items()}


def describe(entry: str, graph: PrecisionGraph) -> str:
    """Return one line on how close an entry's graph comes to FP32."""
    found, made = graph.fidelity, graph.quantization
    text = (
        f"{entry}.{graph.precision}: {found.num_agreeing} of {found.num_images} images are given the class of "
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
