"""torch's two ONNX exporters behind one call; which one a target gets is said by the target."""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]  # exported in fact, not in the stub

from heartvit_edge.errors import InputError
from heartvit_edge.spec.target import Target

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""What terminals are told of colours, which the newer exporter puts into its messages."""

Axes = Mapping[str, Mapping[int, str]]
"""Name of an input or output to its dynamic axes, each with the name of its size."""


def run_exporter(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    target: Target,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    open_axes: Axes,
    weights: bool = True,
) -> None:
    """Write a module as ONNX in the target's opset, with the exporter that the target is given.

    Args:
        module: In evaluation mode, on the CPU.
        example: Its arguments; sizes that are not open become constants.
        path: File to write.
        target: Who reads the graph.
        inputs: Names of the arguments.
        outputs: Names of the results.
        open_axes: Sizes that any call may have anew.
        weights: Whether parameters are stored; without them they are inputs, and nothing is folded. The newer exporter
            stores them always.

    Raises:
        InputError: If the newer exporter is asked for and cannot follow the model.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=TracerWarning)  # shapes are constants here on purpose
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # the exporter on its own parts, as versions go
        if target.dynamo:
            _write_dynamo(module.eval(), example, path, target.opset, inputs, outputs, open_axes)
        else:
            torch.onnx.export(
                module.eval(),
                example,
                str(path),
                dynamo=False,
                opset_version=target.opset,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes={name: dict(axes) for name, axes in open_axes.items()},
                export_params=weights,
                do_constant_folding=weights,
            )


def _write_dynamo(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    opset: int,
    inputs: Sequence[str],
    outputs: Sequence[str],
    open_axes: Axes,
) -> None:
    names = sorted({size for name in inputs for size in open_axes.get(name, {}).values()})
    sizes = {name: torch.export.Dim(name) for name in names}
    shapes: tuple[Any, ...] = tuple(
        {axis: sizes[size] for axis, size in open_axes.get(name, {}).items()} for name in inputs
    )
    parameters = inspect.signature(module.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        plain = len(parameters) - 1
        shapes = (*shapes[:plain], shapes[plain:])
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    try:
        with _quiet():
            torch.onnx.export(
                module,
                example,
                str(path),
                dynamo=True,
                opset_version=opset,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as err:
        reason = COLOUR.sub("", str(err.__cause__ or err)).strip().splitlines()[0]  # its own says what to try next
        raise InputError(
            f"torch's newer exporter cannot write this model: {reason}", hint="leave --dynamo out"
        ) from err
    _forget_origins(path)


def _forget_origins(path: Path) -> None:
    """Remove what the newer exporter notes of the machine and the source code: paths, and the names of modules."""
    model = onnx.load(path)
    for noted in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
    ):
        del noted.metadata_props[:]
        noted.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    onnx.save(model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from logging its progress."""
    former = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(former)
