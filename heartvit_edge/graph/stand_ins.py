"""Weights that stay in their files while a graph is rewritten, so that neither memory nor protobuf's 2 GiB bound it."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from heartvit_edge.graph.weights import LEAST_BYTES

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

FLOAT = 1


def put_aside(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Let tensors that hold nothing stand in for those of a kilobyte and more, in place; return these by name.

    Args:
        graph: External data is not loaded.
    """
    aside: dict[str, onnx.TensorProto] = {}
    for tensor in graph.initializer:
        if tensor.data_location == tensor.EXTERNAL or len(tensor.raw_data) >= LEAST_BYTES:
            aside[tensor.name] = type(tensor)()
            aside[tensor.name].CopyFrom(tensor)
            for field in ("raw_data", "data_location", "external_data"):
                tensor.ClearField(field)
    return aside


def empty(graph: onnx.GraphProto, aside: dict[str, onnx.TensorProto]) -> None:
    """Give stand-ins of FP32 the size 0, which is what they hold, for what reads their values; in place."""
    for tensor in graph.initializer:
        if tensor.name in aside and tensor.data_type == FLOAT:
            tensor.dims[:] = [0]


def bring_back(
    graph: onnx.GraphProto,
    aside: dict[str, onnx.TensorProto],
    folder: Path,
    convert: Callable[[NDArray[np.float32]], NDArray[np.float16]],
    place: Callable[[onnx.TensorProto], None],
) -> None:
    """Put tensors where their stand-ins are, one at a time, converted where the stand-in has another type; in place.

    Args:
        graph: With stand-ins.
        aside: From ``put_aside``; emptied.
        folder: Where external data lies.
        convert: FP32 to the other type.
        place: Told each one; it may move the bytes elsewhere.
    """
    from onnx import numpy_helper

    for tensor in graph.initializer:
        if (former := aside.pop(tensor.name, None)) is not None:
            values = numpy_helper.to_array(former, str(folder))
            if tensor.data_type != former.data_type:
                values = convert(values)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            place(tensor)


def num_bytes(graph: onnx.GraphProto, aside: dict[str, onnx.TensorProto]) -> int:
    """Return the bytes that the tensors will take in their stand-ins' types."""
    from onnx import helper

    item = {tensor.name: helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize for tensor in graph.initializer}
    return sum(item[name] * prod(tensor.dims) for name, tensor in aside.items() if name in item)
