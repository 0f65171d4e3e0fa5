"""Reading a graph without its weights, and checking that they are there."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from heartvit_edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import GraphProto, ModelProto, TensorProto

SMALL = 4096
"""Bytes up to which external data is read: shapes and axes, never weights."""


def read_model(path: Path) -> ModelProto:
    """Return the model at ``path``; of its external data only small tensors are read, and the rest is seen to exist.

    Raises:
        InputError: If the file is missing, is no ONNX model, or its external data is missing, cut short or outside its
            folder.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no annotations

    if not path.is_file():
        raise InputError(f"no file {path}", hint="name an .onnx file, or the folder of a budget pack")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as err:  # ValueError: a text format, by the file's suffix
        raise InputError(f"{path} is no ONNX model: {err}", hint="name a file that torch.onnx.export wrote") from err
    if (not model.graph.node and not model.graph.output) or not model.ir_version:
        raise InputError(f"{path} is no ONNX model: it has no graph", hint="name a file that torch.onnx.export wrote")
    for tensor in external_tensors(model):
        _read_external(tensor, path)
    return model


def external_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor whose values are in another file, those of subgraphs and of nodes' attributes included."""
    from onnx import TensorProto

    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        tensors = [*graph.initializer]
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            if attribute.HasField("t"):
                tensors.append(attribute.t)
            graphs += _subgraphs(attribute)
        yield from (tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL)


def _subgraphs(attribute: object) -> list[GraphProto]:
    """Return the graphs that an attribute of a node holds."""
    from onnx import AttributeProto

    assert isinstance(attribute, AttributeProto)
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _read_external(tensor: TensorProto, path: Path) -> None:
    """Check that the tensor's file holds it, and read it into the tensor where it is small."""
    from onnx import TensorProto

    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    if not location or PurePosixPath(location).is_absolute() or ".." in PurePosixPath(location).parts:
        raise InputError(
            f"{path}: the values of {tensor.name} are in {location!r}, expected a file in the model's folder",
            hint="save the model again with onnx.save(model, path, save_as_external_data=True, location=NAME)",
        )
    file = path.parent / location
    if not file.is_file():
        raise InputError(
            f"{path}: external data {location} is missing, it holds {tensor.name}",
            hint=f"copy {location} beside {path}",
        )
    offset = int(fields.get("offset", 0))
    length = int(fields["length"]) if "length" in fields else file.stat().st_size - offset
    if offset + length > file.stat().st_size:
        raise InputError(
            f"{path}: external data {location} has {file.stat().st_size} bytes, and {tensor.name} ends at "
            f"{offset + length}",
            hint=f"copy {location} again, whole",
        )
    if length <= SMALL:
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
