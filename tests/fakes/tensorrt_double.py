"""A ``tensorrt`` module made from the surface of one release: what the release lacks, the double lacks.

``tests/golden/tensorrt_api/<version>.json`` maps each class to its members and each method to its signature, read off
NVIDIA's own Python bindings. The double has these members and no others; a call is refused unless the signature takes
its arguments and keyword names. Behind them a small imitation does the work: a plan holds the parsed ONNX graph,
and running it enqueues ONNX Runtime on the fake device. Scripted answers make each call fail in turn.
"""

from __future__ import annotations

import enum
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import onnx
import onnxruntime
from fakes.cuda_double import FakeDevice

SURFACES = Path(__file__).resolve().parents[1] / "golden" / "tensorrt_api"
VERSIONS = ("8.6.1", "10.3.0", "10.7.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")
KINDS = {
    "LayerNormalization": "NORMALIZATION",
    "Softmax": "SOFTMAX",
    "TopK": "TOPK",
    "ReduceMean": "REDUCE",
    "Conv": "CONVOLUTION",
    "Cast": "CAST",
    "GatherElements": "GATHER",
}


class ParserFault(NamedTuple):
    """One error that the parser reports."""

    position: int
    name: str
    operator: str
    text: str


@dataclass
class Script:
    """What the double answers, and the calls that it saw.

    Attributes:
        has_gpu: Whether a builder can be made.
        faults: What the parser reports instead of parsing.
        takes_profile_shapes: Whether ``IOptimizationProfile.set_shape`` succeeds.
        profile_index: What ``add_optimization_profile`` returns; -1 stands for refusal.
        builds: Whether ``build_serialized_network`` gives a plan.
        loads: Whether ``deserialize_cuda_engine`` gives an engine.
        makes_context: Whether ``create_execution_context`` gives a context.
        takes_input_shape: Whether ``set_input_shape`` succeeds.
        takes_address: Whether ``set_tensor_address`` succeeds.
        runs: Whether ``execute_async_v3`` succeeds.
        log: (severity, text) that is logged by each step that fails.
        device: Where buffers lie and work is enqueued.
        calls: (class.member, arguments without self) in order.
        layers: The network's layers after parsing.
        output_types: (layer name, output) to the type that was set.
    """

    has_gpu: bool = True
    faults: tuple[ParserFault, ...] = ()
    takes_profile_shapes: bool = True
    profile_index: int = 0
    builds: bool = True
    loads: bool = True
    makes_context: bool = True
    takes_input_shape: bool = True
    takes_address: bool = True
    runs: bool = True
    log: tuple[tuple[str, str], ...] = ()
    device: FakeDevice = field(default_factory=FakeDevice)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    layers: list[Any] = field(default_factory=list)
    output_types: dict[tuple[str, int], str] = field(default_factory=dict)

    def arguments(self, member: str) -> list[dict[str, Any]]:
        """Return the arguments of every call of ``Class.member``, in order."""
        return [arguments for name, arguments in self.calls if name == member]


def read_surface(version: str) -> dict[str, dict[str, str]]:
    """Return class -> member -> signature of a release; the signature is empty for values and properties."""
    return json.loads((SURFACES / f"{version}.json").read_text())


def make_tensorrt(version: str, script: Script | None = None, surface: dict[str, Any] | None = None) -> ModuleType:
    """Return the double of a release.

    Args:
        version: One of VERSIONS.
        script: What it answers; everything succeeds by default.
        surface: Its classes; those of the release by default.
    """
    double = _Double(version, script or Script(), surface or read_surface(version))
    return double.module


class _PybindEnum(enum.Enum):
    """pybind11's enums convert to int on request and equal nothing but themselves."""

    def __int__(self) -> int:
        return self.value

    __index__ = __int__


class _Object:
    """Base of the classes: only members of the surface may be read or set from outside.

    What the imitation itself keeps has a leading underscore.
    """

    _members: ClassVar[dict[str, str]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if type(self).__module__ == __name__ and self._members.get(name) != "":
            raise AttributeError(f"{type(self).__name__} has no property {name!r} that can be set")
        object.__setattr__(self, name, value)


def _keep(target: Any, /, **values: Any) -> Any:
    """Set the imitation's own attributes, and of the surface's properties those that this release has."""
    for name, value in values.items():
        if name.startswith("_") or name in target._members:
            object.__setattr__(target, name, value)
    return target


def parse_signature(text: str) -> inspect.Signature | None:
    """Return the signature that pybind11 wrote; None for ``(*args, **kwargs)``, which stands for several."""
    opening = text.index("(")
    depth, parts, start, closing = 0, [], opening + 1, None
    for position in range(opening, len(text)):
        letter = text[position]
        if letter in "([{<":
            depth += 1
        elif letter in ")]}>":
            depth -= 1
        if (letter == "," and depth == 1) or depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
        if depth == 0:
            closing = position
            break
    assert closing is not None, f"unbalanced signature {text!r}"
    if parts and parts[0].startswith("*"):
        return None
    parameters = []
    for part in filter(None, parts):
        declared, has_default, _ = part.partition(" = ")
        name, _, annotation = declared.partition(": ")
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=None if has_default else inspect.Parameter.empty,
                annotation=annotation.rpartition(".")[2].rpartition("::")[2],
            )
        )
    required = [number for number, one in enumerate(parameters) if one.default is inspect.Parameter.empty]
    for number in range(max(required, default=0)):  # C++ can place a default before a required argument, Python not
        parameters[number] = parameters[number].replace(default=inspect.Parameter.empty)
    return inspect.Signature(parameters)


class _Double:
    """Builds the module and keeps what its parts share."""

    def __init__(self, version: str, script: Script, surface: dict[str, dict[str, str]]) -> None:
        self.version = version
        self.script = script
        self.module = ModuleType("tensorrt")
        self.module.__version__ = version
        self.classes: dict[str, Any] = {}
        for name, members in surface.items():
            self.classes[name] = self._enum(name, members) if "value" in members else self._class(name, members)
            setattr(self.module, name, self.classes[name])
        self.classes["ILogger"].__init__ = lambda logger: _keep(logger, _initialised=True)
        self.classes["Builder"].__init__ = lambda builder, logger: self.make_builder(builder, logger)
        self.classes["OnnxParser"].__init__ = lambda *given: self.make_parser(*given)
        self.classes["Runtime"].__init__ = lambda runtime, logger: self.make_runtime(runtime, logger)

    def _enum(self, name: str, members: dict[str, str]) -> type[_PybindEnum]:
        values = [member for member in members if member not in ("name", "value", "itemsize")]
        return _PybindEnum(name, {member: number for number, member in enumerate(values)})

    def _class(self, name: str, members: dict[str, str]) -> type[_Object]:
        content: dict[str, Any] = {"_members": members, "__module__": __name__}
        for member, text in members.items():
            if text:
                content[member] = self._method(name, member, text)
        if name == "ILogger":
            severities = [member for member in members if member.isupper()]
            content["Severity"] = self._enum("Severity", dict.fromkeys(severities, ""))
            content |= {member: content["Severity"][member] for member in severities}
        if name == "IHostMemory":  # a buffer, as pybind11 declares it
            return type(name, (bytes,), {"nbytes": property(len)})
        return type(name, (_Object,), content)

    def _method(self, owner: str, member: str, text: str) -> Callable[..., Any]:
        signature = parse_signature(text)

        def call(instance: Any, *args: Any, **kwargs: Any) -> Any:
            if signature is None:
                if kwargs:
                    raise TypeError(f"{owner}.{member} is overloaded: the double takes no keywords")
                given = {str(position): value for position, value in enumerate(args)}
            else:
                bound = signature.bind(instance, *args, **kwargs)
                given = dict(list(bound.arguments.items())[1:])
                for name, value in given.items():
                    self._check_type(f"{owner}.{member}({name})", value, signature.parameters[name].annotation)
            self.script.calls.append((f"{owner}.{member}", given))
            behaviour = getattr(self, f"{owner}_{member}", None)
            assert behaviour is not None, f"the double does not imitate {owner}.{member}"
            return behaviour(instance, *given.values())

        return call

    def _check_type(self, what: str, value: Any, annotation: str) -> None:
        checks: dict[str, Callable[[Any], bool]] = {
            "str": lambda v: isinstance(v, str),
            "bool": lambda v: isinstance(v, bool),
            "int": lambda v: hasattr(v, "__int__") and not isinstance(v, str),
            "SupportsInt": lambda v: hasattr(v, "__int__") and not isinstance(v, str),
            "Dims": lambda v: isinstance(v, Sequence) and all(type(size) is int for size in v),
            "buffer": lambda v: isinstance(v, bytes | memoryview),
            "Buffer": lambda v: isinstance(v, bytes | memoryview),
        }
        known = self.classes.get(annotation)
        fits = isinstance(value, known) if known else checks.get(annotation, lambda _: True)(value)
        if not fits:
            raise TypeError(f"{what} takes {annotation}, found {type(value).__name__}")

    def _log(self, logger: Any) -> None:
        for severity, text in self.script.log:
            logger.log(getattr(self.classes["ILogger"], severity), text)

    def _make(self, owner: str, /, **kept: Any) -> Any:
        return _keep(object.__new__(self.classes[owner]), **kept)

    def _dtype(self, element: int) -> Any:
        kinds = {onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF", onnx.TensorProto.INT32: "INT32"}
        kinds[onnx.TensorProto.BOOL] = "BOOL"
        kinds[onnx.TensorProto.INT64] = "INT64" if hasattr(self.classes["DataType"], "INT64") else "INT32"
        return self.classes["DataType"][kinds[element]]

    # Making the three that are made by name.

    def make_builder(self, builder: Any, logger: Any) -> None:
        assert isinstance(logger, self.classes["ILogger"]), "a logger that is none"
        assert logger._initialised, "ILogger.__init__ was not called"
        if not self.script.has_gpu:
            self._log(logger)
            raise TypeError("pybind11::init(): factory function returned nullptr")
        _keep(builder, _logger=logger)

    def make_parser(self, parser: Any, network: Any, logger: Any) -> None:
        assert isinstance(network, self.classes["INetworkDefinition"]), "a network that is none"
        _keep(parser, _network=network, _logger=logger, num_errors=0)

    def make_runtime(self, runtime: Any, logger: Any) -> None:
        assert logger._initialised, "ILogger.__init__ was not called"
        _keep(runtime, _logger=logger)

    # Building.

    def Builder_create_network(self, _builder: Any, flags: int = 0) -> Any:
        strong = getattr(self.classes["NetworkDefinitionCreationFlag"], "STRONGLY_TYPED", None)
        return self._make("INetworkDefinition", _strong=strong is not None and bool(flags >> int(strong) & 1))

    def Builder_create_builder_config(self, _builder: Any) -> Any:
        return self._make("IBuilderConfig", _profiles=[], _flags={"TF32"})

    def Builder_create_optimization_profile(self, _builder: Any) -> Any:
        return self._make("IOptimizationProfile", _shapes={})

    def Builder_build_serialized_network(self, builder: Any, network: Any, config: Any) -> Any:
        assert config._profiles, "a dynamic batch needs an optimization profile"
        if not self.script.builds:
            self._log(builder._logger)
            return None
        head = {"version": self.version, "shapes": config._profiles[0]._shapes, "flags": sorted(config._flags)}
        return self.classes["IHostMemory"](json.dumps(head).encode() + b"\n" + network._graph)

    def IBuilderConfig_set_memory_pool_limit(self, _config: Any, _pool: Any, size: int) -> None:
        assert size > 0

    def IBuilderConfig_set_flag(self, config: Any, flag: Any) -> None:
        config._flags.add(flag.name)

    def IBuilderConfig_clear_flag(self, config: Any, flag: Any) -> None:
        config._flags.discard(flag.name)

    def IBuilderConfig_add_optimization_profile(self, config: Any, profile: Any) -> int:
        if self.script.profile_index >= 0:
            config._profiles.append(profile)
        return self.script.profile_index

    def IOptimizationProfile_set_shape(self, profile: Any, name: str, *shapes: Any) -> None:
        if not self.script.takes_profile_shapes:
            raise RuntimeError("Shape provided for min is inconsistent with other shapes.")
        profile._shapes[name] = [list(shape) for shape in shapes]

    def OnnxParser_parse_from_file(self, parser: Any, path: str) -> bool:
        if self.script.faults:
            _keep(parser, num_errors=len(self.script.faults))
            return False
        model = onnx.shape_inference.infer_shapes(onnx.load(path))
        graph, network = model.graph, parser._network
        half = any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in graph.initializer)
        assert not half or network._strong, "FP16 in the graph takes effect in a strongly typed network alone"
        types = {
            info.name: info.type.tensor_type.elem_type for info in (*graph.input, *graph.output, *graph.value_info)
        }
        layers = []
        for node in graph.node:
            outputs = [self._make("ITensor", name=name, dtype=self._dtype(types[name])) for name in node.output]
            kind = self.classes["LayerType"][KINDS.get(node.op_type, "SHUFFLE")]
            layers.append(self._make("ILayer", name=node.name, type=kind, num_outputs=len(outputs), _outputs=outputs))
        self.script.layers = layers
        _keep(
            network,
            _graph=model.SerializeToString(),
            _layers=layers,
            _inputs=[self._make("ITensor", name=info.name) for info in graph.input],
            _outputs=[self._make("ITensor", name=info.name) for info in graph.output],
            num_layers=len(layers),
            num_inputs=len(graph.input),
            num_outputs=len(graph.output),
        )
        return True

    def OnnxParser_get_error(self, _parser: Any, index: int) -> Any:
        return self._make("ParserError", _fault=self.script.faults[index])

    def ParserError_node(self, error: Any) -> int:
        return error._fault.position

    def ParserError_node_name(self, error: Any) -> str:
        return error._fault.name

    def ParserError_node_operator(self, error: Any) -> str:
        return error._fault.operator

    def ParserError_desc(self, error: Any) -> str:
        return error._fault.text

    def INetworkDefinition_get_input(self, network: Any, index: int) -> Any:
        return network._inputs[index]

    def INetworkDefinition_get_output(self, network: Any, index: int) -> Any:
        return network._outputs[index]

    def INetworkDefinition_get_layer(self, network: Any, index: int) -> Any:
        return network._layers[index]

    def ILayer_get_output(self, layer: Any, index: int) -> Any:
        return layer._outputs[index]

    def ILayer_set_output_type(self, layer: Any, index: int, dtype: Any) -> None:
        self.script.output_types[layer.name, index] = dtype.name

    # Running.

    def Runtime_deserialize_cuda_engine(self, runtime: Any, plan: bytes) -> Any:
        head, _, graph = plan.partition(b"\n")
        if not self.script.loads or json.loads(head)["version"] != self.version:
            self._log(runtime._logger)
            return None
        model = onnx.load_from_string(graph)
        inputs = {info.name: self._dtype(info.type.tensor_type.elem_type) for info in model.graph.input}
        outputs = {info.name: self._dtype(info.type.tensor_type.elem_type) for info in model.graph.output}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return self._make(
            "ICudaEngine",
            _inputs=inputs,
            _types=inputs | outputs,
            _names=[*inputs, *outputs],
            _shapes=json.loads(head)["shapes"],
            _session=session,
            _logger=runtime._logger,
            num_io_tensors=len(inputs) + len(outputs),
        )

    def ICudaEngine_get_tensor_name(self, engine: Any, index: int) -> str:
        return engine._names[index]

    def ICudaEngine_get_tensor_mode(self, engine: Any, name: str) -> Any:
        return self.classes["TensorIOMode"]["INPUT" if name in engine._inputs else "OUTPUT"]

    def ICudaEngine_get_tensor_dtype(self, engine: Any, name: str) -> Any:
        return engine._types[name]

    def ICudaEngine_create_execution_context(self, engine: Any) -> Any:
        if not self.script.makes_context:
            self._log(engine._logger)
            return None
        return self._make("IExecutionContext", _engine=engine, _shapes={}, _addresses={})

    def IExecutionContext_set_input_shape(self, context: Any, name: str, shape: Sequence[int]) -> bool:
        smallest, _, largest = context._engine._shapes[name]
        inside = all(low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True))
        if not (inside and self.script.takes_input_shape):
            self._log(context._engine._logger)
            return False
        context._shapes[name] = tuple(shape)
        return True

    def IExecutionContext_infer_shapes(self, context: Any) -> list[str]:
        return [name for name in context._engine._inputs if name not in context._shapes]

    def IExecutionContext_set_tensor_address(self, context: Any, name: str, address: int) -> bool:
        if not self.script.takes_address:
            self._log(context._engine._logger)
            return False
        context._addresses[name] = int(address)
        return True

    def IExecutionContext_execute_async_v3(self, context: Any, stream: int) -> bool:
        if not self.script.runs:
            self._log(context._engine._logger)
            return False
        engine, device = context._engine, self.script.device
        addresses, shapes = dict(context._addresses), dict(context._shapes)

        def work() -> None:
            feeds = {}
            for name, shape in shapes.items():
                count = int(np.prod(shape)) * 4
                feeds[name] = np.frombuffer(device.read(addresses[name], count), dtype=np.float32).reshape(shape)
            outputs = engine._names[len(engine._inputs) :]
            for name, value in zip(outputs, engine._session.run(outputs, feeds), strict=True):
                device.write(addresses[name], value.tobytes())

        device.enqueue(stream, work)
        return True
