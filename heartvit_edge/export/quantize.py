"""INT8 in the graph: explicit Q/DQ pairs on the inputs and weights of matrix products, as TensorRT wants them.

ONNX Runtime's quantiser writes them. TensorRT wants zero points of 0, a pair of its own for each reader, pairs on
weights too (8.x reads no weights that are INT8 already), a scale for each output channel of a weight, and neither
outputs nor biases quantised. The residual stream, LayerNorm, the products inside attention, softmax, scores and TopK
stay as they are, so that attention and the chain from one product to the next can be fused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import helper

from heartvit_edge.graph.half import float32_nodes, in_order, name_nodes
from heartvit_edge.spec.model import ModelShape

OPERATORS = ("Conv", "Gemm", "MatMul")


def find_layers(graph: onnx.GraphProto, shape: ModelShape) -> dict[str, onnx.NodeProto]:
    """Return the products of activations with weights, by the layer's name, in order; those of a gate are left out.

    A layer is called as its bias or weight is, such as ``blocks.0.attn.qkv``, or, where these have lost their names, as
    its node.

    Args:
        graph: In FP32; nameless nodes get a name.
        shape: Dimensions of the dense model.
    """
    name_nodes(graph)
    weights = {weight.name for weight in graph.initializer if weight.data_type == onnx.TensorProto.FLOAT}
    held = float32_nodes(graph, shape)
    biases = {
        source: other
        for node in graph.node
        if node.op_type == "Add"
        for source, other in (node.input, reversed(node.input))
        if other in weights
    }
    layers: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        if node.op_type in OPERATORS and node.name not in held and node.input[1] in weights:
            known = (biases.get(node.output[0], ""), *node.input[1:])
            name = next((_layer_name(tensor) for tensor in known if tensor.endswith((".weight", ".bias"))), node.name)
            layers[name if name not in layers else node.name] = node
    return layers


def _layer_name(tensor: str) -> str:
    return tensor.rpartition(".")[0].removeprefix("model.").removeprefix("backbone.")


def quantize(model: onnx.ModelProto, nodes: Collection[str], ranges: Mapping[str, float]) -> onnx.ModelProto:
    """Return the graph with Q/DQ pairs on the inputs and weights of some nodes.

    Args:
        model: In FP32, with its weights; it is left as it is.
        nodes: Names of nodes from ``find_layers``.
        ranges: The magnitude to cover of each node's first input, by the tensor's name.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    # a tensor of zeros alone has no range, and a scale of zero would divide by it
    symmetric = {name: (np.float32(-(value or 1.0)), np.float32(value or 1.0)) for name, value in ranges.items()}
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, symmetric),
        nodes_to_quantize=sorted(nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=list(OPERATORS),
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": True,
            "DedicatedQDQPair": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(OPERATORS),
            "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
        },
    )
    quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    del quantized.graph.value_info[:]  # follows from the nodes
    _sort(quantized.graph, list(quantized.graph.node))
    quantized.producer_name, quantized.producer_version = model.producer_name, model.producer_version
    return quantized


def add_switches(quantized: onnx.ModelProto, nodes: Mapping[str, str]) -> None:
    """Let a boolean input decide for each node, as the graph runs, whether it is quantised; in place.

    One session then measures every choice of layers.

    Args:
        quantized: From ``quantize``.
        nodes: Name of each quantised node to the name of its switch.
    """
    graph = quantized.graph
    producer = {name: node for node in graph.node for name in node.output if name}
    switched = []
    for node in graph.node:
        if node.name in nodes:
            for position in range(2):
                rounded = node.input[position]
                exact = producer[producer[rounded].input[0]].input[0]
                chosen = f"{node.name}.{position}.chosen"
                switched.append(helper.make_node("Where", [nodes[node.name], rounded, exact], [chosen], chosen))
                node.input[position] = chosen
        switched.append(node)
    _sort(graph, switched)
    graph.input.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, []) for name in dict.fromkeys(nodes.values())
    )


def _sort(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Make these the graph's nodes, each after those it reads from; in place."""
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in in_order(nodes)]
    del graph.node[:]
    graph.node.extend(ordered)
