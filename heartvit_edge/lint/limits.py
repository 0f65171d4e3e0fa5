"""What TensorRT's parser asks of an operator's attributes and inputs, beyond taking the operator.

Source:
    The restrictions of the operator support matrix (``operators.json``), and the checks of onnx-tensorrt 10.1
    (``onnxOpCheckers.cpp``, ``onnxOpImporters.cpp``) where they say more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from heartvit_edge.lint.graph import Scope, attributes, name_of, shown
from heartvit_edge.lint.operators import OWN_DOMAINS, support_matrix
from heartvit_edge.lint.report import Finding
from heartvit_edge.spec.target import Target

if TYPE_CHECKING:
    from onnx import NodeProto

Problems = Iterator[tuple[str, str]]
"""What is wrong and what to do about it."""
Limit = Callable[[Scope, "NodeProto", Target], Problems]

MOST_K = 3840
RESIZE_COORDINATES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
FOLD = "fold constants first, for example with onnxslim"


def check_limits(scope: Scope, target: Target) -> Iterator[Finding]:
    """Yield an error for each attribute or input that TensorRT's importer of the operator refuses."""
    if not target.is_tensorrt:
        return
    for node in scope.graph.node:
        if node.domain in OWN_DOMAINS and target.name in support_matrix().get(node.op_type, {}):
            for limit in LIMITS.get(node.op_type, ()):
                for reason, cure in limit(scope, node, target):
                    yield Finding(
                        severity="error", rule="limit", node=name_of(node), op=node.op_type, reason=reason, cure=cure
                    )


def _matrix_says(node: NodeProto, target: Target) -> str:
    """Return the restrictions that the matrix states for the target."""
    return str(support_matrix()[node.op_type][target.name].get("limits", ""))


def _stored(index: int, word: str) -> Limit:
    """Return a limit: the input must be stored in the model wherever the matrix restricts it."""

    def limit(scope: Scope, node: NodeProto, target: Target) -> Problems:
        if f"`{word}`" not in _matrix_says(node, target) or len(node.input) <= index or not node.input[index]:
            return
        tensor = node.input[index]
        if scope.constant(tensor) is None and scope.initializer(tensor) is None:
            folds = scope.is_constant(tensor)
            yield (
                f"{word} is computed by the graph, expected a stored constant",
                FOLD if folds else f"make {word} a constant",
            )

    return limit


def _attribute(name: str, default: object, allowed: tuple[object, ...], cure: str) -> Limit:
    """Return a limit: the attribute has one of the allowed values."""

    def limit(_scope: Scope, node: NodeProto, _target: Target) -> Problems:
        found = attributes(node).get(name, default)
        if found not in allowed:
            yield f"{name} is {found!r}, expected {' or '.join(repr(value) for value in allowed)}", cure

    return limit


def _top_k(scope: Scope, node: NodeProto, target: Target) -> Problems:
    if "`sorted`" in _matrix_says(node, target) and attributes(node).get("sorted", 1) != 1:
        yield "sorted is 0, expected 1", "call topk(sorted=True), or set the attribute to 1: a sorted answer is as good"
    values = scope.constant(node.input[1]) if len(node.input) > 1 else None
    counts = (
        [int(attributes(node)["k"])] if "k" in attributes(node) else [] if values is None else values.ravel().tolist()
    )
    if counts and max(counts) > MOST_K:
        yield f"K is {max(counts)}, expected at most {MOST_K}", "take the best in two steps, of parts and then of these"


def _int32(scope: Scope, node: NodeProto, _target: Target) -> Problems:
    if scope.dtype(node.input[0]) == "INT32":
        yield "dequantizes INT32, expected INT8", "leave biases in float: extra_options={'QuantizeBias': False}"


def _zero_point(scope: Scope, node: NodeProto, _target: Target) -> Problems:
    if len(node.input) < 3 or not node.input[2]:
        return
    values = scope.constant(node.input[2])
    if values is not None and values.astype("float32").any():
        yield "the zero point is not 0", "quantize symmetrically: ActivationSymmetric and WeightSymmetric"
    if scope.dtype(node.input[2]) in ("UINT8", "UINT4", "UINT16", "INT16"):
        yield f"quantized to {scope.dtype(node.input[2])}, expected INT8", "quantize to QInt8, activations too"


def _unit_dilations(_scope: Scope, node: NodeProto, target: Target) -> Problems:
    dilations = attributes(node).get("dilations", ())
    if "`dilations`" in _matrix_says(node, target) and any(step != 1 for step in dilations):
        yield f"dilations are {list(dilations)}, expected ones", "pool without dilation"


def _at_most_3d(_scope: Scope, node: NodeProto, _target: Target) -> Problems:
    spatial = len(attributes(node).get("kernel_shape", ()))
    if spatial > 3:
        yield f"{spatial} spatial dimensions, expected at most 3", "pool over fewer dimensions at a time"


def _one_output(scope: Scope, node: NodeProto, _target: Target) -> Problems:
    given = {value.name for value in scope.graph.output}
    used = [name for name in node.output[1:] if name and (name in given or name in scope.consumers)]
    if used:
        yield f"output {used[0]} is used, expected the first alone", "compute it by other operators"


def _not_training(scope: Scope, node: NodeProto, _target: Target) -> Problems:
    if len(node.input) < 3 or not node.input[2]:
        return
    training = scope.constant(node.input[2])
    if training is None or training.any():
        yield "training_mode is not the constant False", "export in evaluation mode: model.eval()"


def _plain_value(_scope: Scope, node: NodeProto, _target: Target) -> Problems:
    for name in ("sparse_value", "value_string", "value_strings"):
        if name in attributes(node):
            yield f"{name} is not supported", "store the constant as a dense tensor of numbers"


def _static(axis_of: Callable[[NodeProto, int], list[int]]) -> Limit:
    """Return a limit: some of the first input's dimensions must be known when the engine is built."""

    def limit(scope: Scope, node: NodeProto, _target: Target) -> Problems:
        dims = scope.dims(node.input[0])
        if dims is not None and any(dims[axis] is None for axis in axis_of(node, len(dims))):
            yield f"the input's shape {shown(dims)} is dynamic, expected a static one", "export with that size fixed"

    return limit


def _rank(index: int, rank: int) -> Limit:
    def limit(scope: Scope, node: NodeProto, _target: Target) -> Problems:
        dims = scope.dims(node.input[index]) if len(node.input) > index and node.input[index] else None
        if dims is not None and len(dims) != rank:
            yield f"input {index} has {len(dims)} dimensions, expected {rank}", "reshape it before the node"

    return limit


def _einsum(_scope: Scope, node: NodeProto, target: Target) -> Problems:
    equation = str(attributes(node).get("equation", ""))
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if "Ellipsis" in _matrix_says(node, target) and ("." in equation or any(len(set(t)) < len(t) for t in terms)):
        yield f"equation {equation!r} has an ellipsis or a diagonal", "write it with MatMul, Mul and ReduceSum"


def _no_inputs_from(first: int) -> Limit:
    def limit(_scope: Scope, node: NodeProto, _target: Target) -> Problems:
        if any(node.input[first:]):
            yield f"input {first} and later are not supported", "leave past and padded keys out"

    return limit


_EVALUATE = "export in evaluation mode: model.eval()"
_POOL: tuple[Limit, ...] = (_at_most_3d, _unit_dilations)
_REDUCE = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)
_NORMS = (_attribute("p", 2, (1, 2), "take the L1 or L2 norm"),)

LIMITS: dict[str, tuple[Limit, ...]] = {
    "Attention": (
        *(_rank(index, 4) for index in range(3)),
        _no_inputs_from(4),
        _one_output,
        _attribute("softcap", 0.0, (0.0,), "write the cap out with Tanh"),
    ),
    "AveragePool": _POOL,
    "BatchNormalization": (_attribute("training_mode", 0, (0,), _EVALUATE),),
    "Constant": (_plain_value,),
    "CumSum": (_stored(1, "axis"),),
    "DequantizeLinear": (_zero_point, _int32),
    "Dropout": (_not_training,),
    "Einsum": (_einsum,),
    "EyeLike": (_static(lambda _node, rank: list(range(rank))),),
    "GridSample": (_rank(0, 4),),
    "Hardmax": (_static(lambda node, _rank: [int(attributes(node).get("axis", -1))]),),
    "LayerNormalization": (_one_output,),
    "LSTM": (
        _attribute("input_forget", 0, (0,), "use separate input and forget gates"),
        _attribute("layout", 0, (0,), "put the sequence first"),
    ),
    "LpNormalization": _NORMS,
    "LpPool": (*_NORMS, *_POOL),
    "MaxPool": (*_POOL, _one_output),
    "OneHot": (_stored(1, "depth"),),
    "Pad": (_stored(3, "axes"),),
    "QuantizeLinear": (_zero_point,),
    **dict.fromkeys(_REDUCE.split(), (_stored(1, "axes"),)),
    "Resize": (
        _attribute("mode", "nearest", ("nearest", "linear", "cubic"), "resize by one of these"),
        _attribute("coordinate_transformation_mode", "half_pixel", RESIZE_COORDINATES, "resize by one of these"),
        _attribute("antialias", 0, (0,), "resize with antialias=False"),
        _attribute("keep_aspect_ratio_policy", "stretch", ("stretch",), "give sizes or scales of both sides"),
    ),
    "RoiAlign": (_attribute("mode", "avg", ("avg", "max"), "align by one of these"),),
    "Slice": (_stored(3, "axes"),),
    "Squeeze": (_stored(1, "axes"),),
    "STFT": (_stored(1, "frame_step"), _stored(2, "window")),
    "TensorScatter": (_rank(0, 4), _attribute("axis", -2, (-2,), "scatter on the second last axis")),
    "TopK": (_top_k,),
    "Unsqueeze": (_stored(1, "axes"),),
    "Upsample": (_attribute("mode", "nearest", ("nearest", "linear", "bilinear"), "resize by one of these"),),
}
