"""ONNX graphs of the parts of a ViT with random weights, for timing: a chain of blocks, and all that is not a block.

Operators come in the order in which :mod:`heartvit_edge.export` writes them, so that a runtime fuses them alike. Layer
scale and the norms of query and key, which a model's dimensions do not tell of, are left out.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from heartvit_edge.errors import MachineError
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.pack import TensorInfo

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

OPSET = 17
"""That of the exported graphs."""

IR_VERSION = 8
"""The one that came with this opset."""

WEIGHT_STD = 0.02
"""A ViT's at its initialisation: what a few blocks add up to stays well within FP16's range."""


class Ports(NamedTuple):
    """What a graph takes and gives."""

    input: TensorInfo
    output: TensorInfo


def write_chain(
    path: Path, shape: ModelShape, num_tokens: int, num_heads: int, num_blocks: int, generator: np.random.Generator
) -> Ports:
    """Write ``num_blocks`` pre-norm blocks, each with weights of its own, and the mean over the tokens.

    The mean reads every token, so that no runtime can leave out a part of the last block, and what travels back to the
    host is as small as a model's logits. Without a block, the graph costs what a call costs beside its blocks.

    Args:
        path: ONNX file to write.
        shape: Dimensions of the dense model.
        num_tokens: Tokens of every block, prefix included.
        num_heads: Heads of every block.
        num_blocks: Blocks; 0 for the mean alone.
        generator: Source of the weights.

    Returns:
        ``tokens`` (B, num_tokens, embed_dim) and ``pooled`` (B, embed_dim), both float32.

    Raises:
        MachineError: If onnx is not installed.
    """
    graph = _Graph(generator)
    tokens = "tokens"
    for _ in range(num_blocks):
        tokens = _block(graph, tokens, shape, num_tokens, num_heads)
    pooled = graph.add("ReduceMean", tokens, axes=[1], keepdims=0)
    source = TensorInfo(name="tokens", dtype="float32", shape=(None, num_tokens, shape.embed_dim))
    result = TensorInfo(name="pooled", dtype="float32", shape=(None, shape.embed_dim))
    return graph.save(path, Ports(source, result), pooled)


def write_fixed(path: Path, shape: ModelShape, generator: np.random.Generator) -> Ports:
    """Write a ViT without blocks: patch embedding, prefix tokens, position embedding, norm, pooling and classifier.

    Args:
        path: ONNX file to write.
        shape: Dimensions of the dense model.
        generator: Source of the weights.

    Returns:
        ``images`` (B, in_chans, img_size, img_size) and ``logits`` (B, num_classes), both float32.

    Raises:
        MachineError: If onnx is not installed.
    """
    graph = _Graph(generator)
    side, width = shape.patch_size, shape.embed_dim
    kernel, bias = graph.weight(width, shape.in_chans, side, side), graph.weight(width)
    grid = graph.add("Conv", "images", kernel, bias, kernel_shape=[side, side], strides=[side, side])
    flat = graph.add("Reshape", grid, graph.integers(0, width, shape.num_patches))
    tokens = graph.add("Transpose", flat, perm=[0, 2, 1])  # (B, num_patches, C)
    if shape.num_prefix_tokens:
        batch = graph.add("Slice", graph.add("Shape", tokens), graph.integers(0), graph.integers(1))
        size = graph.add("Concat", batch, graph.integers(shape.num_prefix_tokens, width), axis=0)
        prefix = graph.add("Expand", graph.weight(1, shape.num_prefix_tokens, width), size)
        tokens = graph.add("Concat", prefix, tokens, axis=1)
    tokens = graph.add("Add", tokens, graph.weight(1, shape.num_tokens, width))
    if shape.pool == "avg":
        ends = (graph.integers(shape.num_prefix_tokens), graph.integers(shape.num_tokens))
        patches = graph.add("Slice", tokens, *ends, graph.integers(1))
        pooled = graph.add("ReduceMean", patches, axes=[1], keepdims=0)
        logits = _classifier(graph, _norm(graph, pooled, width), shape)
    else:
        tokens = _norm(graph, tokens, width)
        count = 2 if shape.pool == "token+distillation" else 1
        read = [graph.add("Gather", tokens, graph.integer(position), axis=1) for position in range(count)]
        answers = [_classifier(graph, token, shape) for token in read]
        logits = answers[0] if count == 1 else graph.add("Div", graph.add("Add", *answers), graph.number(2.0))
    size_of_images = (None, shape.in_chans, shape.img_size, shape.img_size)
    source = TensorInfo(name="images", dtype="float32", shape=size_of_images)
    result = TensorInfo(name="logits", dtype="float32", shape=(None, shape.num_classes))
    return graph.save(path, Ports(source, result), logits)


def _block(graph: _Graph, tokens: str, shape: ModelShape, num_tokens: int, num_heads: int) -> str:
    """Add one block and return the name of its output, shape (B, num_tokens, embed_dim)."""
    attended = _attention(graph, _norm(graph, tokens, shape.embed_dim), shape, num_tokens, num_heads)
    tokens = graph.add("Add", tokens, attended)
    return graph.add("Add", tokens, _mlp(graph, _norm(graph, tokens, shape.embed_dim), shape))


def _attention(graph: _Graph, tokens: str, shape: ModelShape, num_tokens: int, num_heads: int) -> str:
    width = num_heads * shape.head_dim
    qkv = _linear(graph, tokens, shape.embed_dim, 3 * width)
    split = graph.add("Reshape", qkv, graph.integers(-1, num_tokens, 3, num_heads, shape.head_dim))
    parts = graph.add("Transpose", split, perm=[2, 0, 3, 1, 4])  # (3, B, heads, N, head_dim)
    each = graph.add_split(parts, graph.integers(1, 1, 1), 3)
    query, key, value = (graph.add("Squeeze", part, graph.integers(0)) for part in each)
    scaled = graph.add("Mul", query, graph.number(1 / math.sqrt(shape.head_dim)))
    logits = graph.add("MatMul", scaled, graph.add("Transpose", key, perm=[0, 1, 3, 2]))
    mixed = graph.add("MatMul", graph.add("Softmax", logits, axis=-1), value)
    joined = graph.add("Transpose", mixed, perm=[0, 2, 1, 3])
    flat = graph.add("Reshape", joined, graph.integers(-1, num_tokens, width))
    return _linear(graph, flat, width, shape.embed_dim)


def _mlp(graph: _Graph, tokens: str, shape: ModelShape) -> str:
    """Add a GELU MLP, or the SiLU-gated one where the first layer is twice as wide as the second's input."""
    hidden = _linear(graph, tokens, shape.embed_dim, shape.mlp_in_dim)
    if shape.mlp_in_dim == 2 * shape.mlp_hidden_dim:
        middle, end, last = (graph.integers(n) for n in (shape.mlp_hidden_dim, shape.mlp_in_dim, -1))
        gate = graph.add("Slice", hidden, graph.integers(0), middle, last)
        value = graph.add("Slice", hidden, middle, end, last)
        hidden = graph.add("Mul", graph.add("Mul", gate, graph.add("Sigmoid", gate)), value)
    else:
        curve = graph.add("Erf", graph.add("Div", hidden, graph.number(math.sqrt(2))))
        doubled = graph.add("Mul", hidden, graph.add("Add", curve, graph.number(1.0)))
        hidden = graph.add("Mul", doubled, graph.number(0.5))
    return _linear(graph, hidden, shape.mlp_hidden_dim, shape.embed_dim)


def _linear(graph: _Graph, tokens: str, width_in: int, width_out: int) -> str:
    product = graph.add("MatMul", tokens, graph.weight(width_in, width_out))
    return graph.add("Add", graph.weight(width_out), product)


def _norm(graph: _Graph, tokens: str, width: int) -> str:
    scale, bias = graph.weight(width, mean=1.0), graph.weight(width)
    return graph.add("LayerNormalization", tokens, scale, bias, axis=-1, epsilon=1e-6)


def _classifier(graph: _Graph, pooled: str, shape: ModelShape) -> str:
    weight, bias = graph.weight(shape.num_classes, shape.embed_dim), graph.weight(shape.num_classes)
    return graph.add("Gemm", pooled, weight, bias, transB=1)


class _Graph:
    """Collects nodes and weights; a node is known by the name of its output."""

    def __init__(self, generator: np.random.Generator) -> None:
        try:
            from onnx import helper, numpy_helper
        except ImportError as err:
            raise MachineError(
                f"writing a graph needs {err.name}", hint="pip install 'heartvit-edge[onnxruntime]'"
            ) from err
        self._helper, self._numpy_helper = helper, numpy_helper
        self._generator = generator
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - whatever ONNX takes
        """Add a node of one output and return its name."""
        name = f"{operator}_{len(self._nodes)}"
        self._nodes.append(self._helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def add_split(self, tensor: str, sizes: str, count: int) -> list[str]:
        """Split a tensor along its first axis and return the names of the parts."""
        name = f"Split_{len(self._nodes)}"
        parts = [f"{name}_{position}" for position in range(count)]
        self._nodes.append(self._helper.make_node("Split", [tensor, sizes], parts, name, axis=0))
        return parts

    def weight(self, *size: int, mean: float = 0.0) -> str:
        """Add a random float32 weight; a uniform draw of the same spread is several times faster than a normal one."""
        reach = math.sqrt(3) * WEIGHT_STD
        values = (2 * self._generator.random(size, dtype=np.float32) - 1) * np.float32(reach) + np.float32(mean)
        return self._keep(values)

    def integer(self, value: int) -> str:
        """Add an int64 scalar."""
        return self._keep(np.array(value, dtype=np.int64))

    def integers(self, *values: int) -> str:
        """Add an int64 vector."""
        return self._keep(np.array(values, dtype=np.int64))

    def number(self, value: float) -> str:
        """Add a float32 scalar."""
        return self._keep(np.array(value, dtype=np.float32))

    def save(self, path: Path, ports: Ports, result: str) -> Ports:
        """Write the graph whose output is the node ``result``, with a dynamic batch, and return its ports."""
        import onnx

        for node in self._nodes:
            node.output[:] = [ports.output.name if name == result else name for name in node.output]
        infos = [
            self._helper.make_tensor_value_info(
                info.name, onnx.TensorProto.FLOAT, ["batch" if size is None else size for size in info.shape]
            )
            for info in ports
        ]
        graph = self._helper.make_graph(self._nodes, "timing", infos[:1], infos[1:], self._weights)
        opset = self._helper.make_opsetid("", OPSET)
        onnx.save_model(self._helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION), str(path))
        return ports

    def _keep(self, values: NDArray[Any]) -> str:
        name = f"weight_{len(self._weights)}"
        self._weights.append(self._numpy_helper.from_array(values, name))
        return name
