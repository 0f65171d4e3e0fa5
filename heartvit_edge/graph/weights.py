"""The file of a pack's weights, in which tensors that several graphs have are stored once."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

from typing_extensions import Self

from heartvit_edge.spec.files import sha256_bytes
from heartvit_edge.spec.pack import WEIGHTS

if TYPE_CHECKING:
    import onnx

LEAST_BYTES = 1024
"""Tensors smaller than this stay in the graph, where TensorRT and shape inference read them as constants."""
ALIGNMENT = 4096
"""Tensors begin at multiples of a page, so that a runtime can map them."""


class WeightFile:
    """``weights.bin``, which is written while it is open, and which graphs beside it name as their external data."""

    def __init__(self, folder: Path, name: str = WEIGHTS) -> None:
        """Remember the folder and the file's name; the file is made when it is entered."""
        self._path = folder / name
        self._file: IO[bytes] | None = None
        self._places: dict[str, tuple[int, int]] = {}  # hash to offset and length

    def __enter__(self) -> Self:
        """Begin an empty file."""
        self._file = self._path.open("wb")
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file, and remove it where no tensor was stored."""
        assert self._file is not None
        self._file.close()
        if not self._places:
            self._path.unlink()

    def take(self, tensor: onnx.TensorProto) -> None:
        """Move a tensor's bytes from a graph to the file, unless they are few or lie there already.

        Args:
            tensor: With ``raw_data``; it names its place in the file afterwards.
        """
        assert self._file is not None, "the file is not open"
        content = tensor.raw_data
        if len(content) < LEAST_BYTES:
            return
        digest = sha256_bytes(content)
        if digest not in self._places:
            offset = -(-self._file.tell() // ALIGNMENT) * ALIGNMENT
            self._file.write(b"\0" * (offset - self._file.tell()) + content)
            self._file.flush()  # the graph is read as soon as it is written
            self._places[digest] = offset, len(content)
        self._name_place(tensor, digest)

    def take_all(self, model: onnx.ModelProto) -> None:
        """Move every initializer of a graph that has its bytes."""
        for tensor in model.graph.initializer:
            if tensor.HasField("raw_data"):
                self.take(tensor)

    def let_go(self, model: onnx.ModelProto) -> None:
        """Take from a graph the bytes that lie in the file already; what does not stays in the graph."""
        for tensor in model.graph.initializer:
            if tensor.HasField("raw_data") and (digest := sha256_bytes(tensor.raw_data)) in self._places:
                self._name_place(tensor, digest)

    def _name_place(self, tensor: onnx.TensorProto, digest: str) -> None:
        tensor.ClearField("raw_data")
        tensor.data_location = tensor.EXTERNAL
        offset, length = self._places[digest]
        del tensor.external_data[:]
        for key, value in (("location", self._path.name), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
