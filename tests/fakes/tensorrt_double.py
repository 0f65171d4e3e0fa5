"""A ``tensorrt`` of one release without a GPU: the strict surface, and a small imitation behind it that does the work.

An engine holds the parsed ONNX graph, and running it enqueues ONNX Runtime on the fake device. Scripted answers make
each call fail in turn.
"""

from __future__ import annotations

import ctypes
import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from fakes.cuda_double import FakeDevice
from fakes.tensorrt_surface import StrictModule, Surface, keep, peek, read_surface

KINDS = {
    "LayerNormalization": "NORMALIZATION",
    "Softmax": "SOFTMAX",
    "TopK": "TOPK",
    "ReduceMean": "REDUCE",
    "Conv": "CONVOLUTION",
    "Cast": "CAST",
    "GatherElements": "GATHER",
}
FORMATS = {
    onnx.TensorProto.FLOAT: "Float",
    onnx.TensorProto.FLOAT16: "Half",
    onnx.TensorProto.INT32: "Int32",
    onnx.TensorProto.INT64: "Int64",
    onnx.TensorProto.BOOL: "Bool",
    onnx.TensorProto.INT8: "Int8",
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
        profile_index: What ``add_optimization_profile`` returns; None for the truth, -1 for refusal.
        takes_timings: Whether ``set_timing_cache`` takes timings that are not empty.
        has_timings: Whether ``create_timing_cache`` gives a cache.
        builds: Whether ``build_serialized_network`` gives a plan.
        during_build: Called in the midst of a build, from C++ as it were.
        loads: Whether ``deserialize_cuda_engine`` gives an engine.
        inspects: Whether ``create_engine_inspector`` gives an inspector.
        layer_table: What the inspector says; None for the truth.
        makes_context: Whether a context is made.
        takes_profile: Whether ``set_optimization_profile_async`` succeeds.
        takes_input_shape: Whether ``set_input_shape`` succeeds.
        missing_shapes: What ``infer_shapes`` misses.
        takes_address: Whether ``set_tensor_address`` succeeds.
        runs: Whether ``execute_async_v3`` succeeds.
        scratch_bytes: What a context needs to run.
        log: (severity, text) that is logged by each step that fails.
        device: Where buffers lie and work is enqueued.
        calls: (class.member, arguments without self) in order.
        phases: What the progress monitor was told, in order.
        layers: The network's layers after parsing.
        output_types: (layer name, output) to the type that was set.
    """

    has_gpu: bool = True
    faults: tuple[ParserFault, ...] = ()
    takes_profile_shapes: bool = True
    profile_index: int | None = None
    takes_timings: bool = True
    has_timings: bool = True
    builds: bool = True
    during_build: Callable[[], None] = lambda: None
    loads: bool = True
    inspects: bool = True
    layer_table: str | None = None
    makes_context: bool = True
    takes_profile: bool = True
    takes_input_shape: bool = True
    missing_shapes: tuple[str, ...] = ()
    takes_address: bool = True
    runs: bool = True
    scratch_bytes: int = 4096
    log: tuple[tuple[str, str], ...] = ()
    device: FakeDevice = field(default_factory=FakeDevice)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    layers: list[Any] = field(default_factory=list)
    output_types: dict[tuple[str, int], str] = field(default_factory=dict)

    def arguments(self, member: str) -> list[dict[str, Any]]:
        """Return the arguments of every call of ``Class.member``, in order."""
        return [arguments for name, arguments in self.calls if name == member]


def make_tensorrt(version: str, script: Script | None = None, surface: Surface | None = None) -> StrictModule:
    """Return the double of a release.

    Args:
        version: One of VERSIONS.
        script: What it answers; everything succeeds by default.
        surface: Its classes; those of the release by default.
    """
    return _Double(version, script or Script(), surface or read_surface(version)).module


class _Double:
    """What the module's methods do; ``Class_member`` does the work of ``Class.member``."""

    def __init__(self, version: str, script: Script, surface: Surface) -> None:
        self.version = version
        self.script = script
        self.surface = surface
        self.module: ModuleType = StrictModule(version, surface, self.called)
        self.classes = self.module.classes
        makers = {
            "ILogger": lambda logger: keep(logger, _initialised=True),
            "IProgressMonitor": lambda monitor: keep(monitor, _initialised=True),
            "Builder": lambda builder, logger: self.make_builder(builder, logger),
            "OnnxParser": lambda parser, network, logger: self.make_parser(parser, network, logger),
            "Runtime": lambda runtime, logger: self.make_runtime(runtime, logger),
        }
        for name, make in makers.items():
            if name in self.classes:
                self.classes[name].__init__ = make

    def called(self, name: str, instance: Any, given: dict[str, Any]) -> Any:
        self.script.calls.append((name, given))
        return getattr(self, name.replace(".", "_"))(instance, *given.values())

    def _log(self, logger: Any) -> None:
        for severity, text in self.script.log:
            self.module.touch("ILogger.log")
            assert "log" in self.surface["ILogger"], "this release calls its loggers by another name"
            logger.log(self.classes["ILogger"].Severity[severity], text)

    def _make(self, owner: str, /, **kept: Any) -> Any:
        return keep(self.classes[owner].__new__(self.classes[owner]), **kept)

    def _dtype(self, element: int) -> Any:
        kinds = {onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF", onnx.TensorProto.INT32: "INT32"}
        kinds[onnx.TensorProto.BOOL] = "BOOL"
        kinds[onnx.TensorProto.INT8] = "INT8"
        kinds[onnx.TensorProto.INT64] = "INT64" if "INT64" in self.surface["DataType"] else "INT32"
        return self.classes["DataType"][kinds[element]]

    # Making the three that are made by name.

    def make_builder(self, builder: Any, logger: Any) -> None:
        assert isinstance(logger, self.classes["ILogger"]), "a logger that is none"
        assert logger._initialised, "ILogger.__init__ was not called"
        if not self.script.has_gpu:
            self._log(logger)
            raise TypeError("pybind11::init(): factory function returned nullptr")
        keep(builder, _logger=logger)

    def make_parser(self, parser: Any, network: Any, logger: Any) -> None:
        assert isinstance(network, self.classes["INetworkDefinition"]), "a network that is none"
        keep(parser, _network=network, _logger=logger, num_errors=0)

    def make_runtime(self, runtime: Any, logger: Any) -> None:
        assert logger._initialised, "ILogger.__init__ was not called"
        keep(runtime, _logger=logger)

    # Building.

    def Builder_create_network(self, _builder: Any, flags: int = 0) -> Any:
        kinds = self.classes["NetworkDefinitionCreationFlag"]
        strong = kinds["STRONGLY_TYPED"] if "STRONGLY_TYPED" in kinds.__members__ else None
        return self._make("INetworkDefinition", _strong=strong is not None and bool(flags >> int(strong) & 1))

    def Builder_create_builder_config(self, _builder: Any) -> Any:
        return self._make("IBuilderConfig", _profiles=[], _flags={"TF32"}, _features=set(), _timings=None)

    def Builder_create_optimization_profile(self, _builder: Any) -> Any:
        return self._make("IOptimizationProfile", _shapes={}, _inputs={})

    def Builder_build_serialized_network(self, builder: Any, network: Any, config: Any) -> Any:
        tuned = {name for profile in config._profiles for name in (*profile._shapes, *profile._inputs)}
        assert tuned >= _open_inputs(network._graph), "what is open needs an optimization profile"
        assert all(profile._shapes or profile._inputs for profile in config._profiles), "a profile of nothing"
        if not (self._progress(peek(config, "progress_monitor")) and self.script.builds):
            self._log(builder._logger)
            return None
        if config._timings is not None:
            keep(config._timings, _content=config._timings._content + b"timed;")
        verbosity = peek(config, "profiling_verbosity")
        head = {
            "version": self.version,
            "shapes": config._profiles[0]._shapes if config._profiles else {},
            "profiles": [[profile._shapes, profile._inputs] for profile in config._profiles],
            "flags": sorted(config._flags),
            "shares_profiles": not self.version.startswith("8.") or "PROFILE_SHARING_0806" in config._features,
            "level": peek(config, "builder_optimization_level"),
            "verbosity": verbosity and verbosity.name,
        }
        return self.classes["IHostMemory"](json.dumps(head).encode() + b"\n" + network._graph)

    def _progress(self, monitor: Any) -> bool:
        """Tell a monitor of three steps; return whether it lets the build go on."""
        go_on = True
        steps = [("phase_start", ("Building", None, 3))]
        steps += [("step_complete", ("Building", number)) for number in range(3)]
        steps += [("phase_finish", ("Building",))]
        for number, (name, arguments) in enumerate(steps):
            if number == 2:
                self.script.during_build()
            if monitor is None:
                continue
            assert monitor._initialised, "IProgressMonitor.__init__ was not called"
            assert name in self.surface["IProgressMonitor"], "this release calls its monitors by other names"
            self.module.touch(f"IProgressMonitor.{name}")
            go_on = getattr(monitor, name)(*arguments) is not False and go_on
        return go_on

    def IBuilderConfig_set_memory_pool_limit(self, _config: Any, _pool: Any, size: int) -> None:
        assert size > 0

    def IBuilderConfig_set_flag(self, config: Any, flag: Any) -> None:
        config._flags.add(flag.name)

    def IBuilderConfig_set_preview_feature(self, config: Any, feature: Any, enable: bool) -> None:
        assert enable
        config._features.add(feature.name)

    def IBuilderConfig_clear_flag(self, config: Any, flag: Any) -> None:
        config._flags.discard(flag.name)

    def IBuilderConfig_create_timing_cache(self, _config: Any, content: bytes) -> Any:
        return self._make("ITimingCache", _content=bytes(content)) if self.script.has_timings else None

    def IBuilderConfig_set_timing_cache(self, config: Any, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch, "the timings of another device would be used"
        if cache._content and not self.script.takes_timings:
            return False
        keep(config, _timings=cache)
        return True

    def IBuilderConfig_get_timing_cache(self, config: Any) -> Any:
        return config._timings

    def ITimingCache_serialize(self, cache: Any) -> Any:
        return self.classes["IHostMemory"](cache._content)

    def IBuilderConfig_add_optimization_profile(self, config: Any, profile: Any) -> int:
        config._profiles.append(profile)
        return len(config._profiles) - 1 if self.script.profile_index is None else self.script.profile_index

    def IOptimizationProfile_set_shape(self, profile: Any, name: str, *shapes: Any) -> None:
        if not self.script.takes_profile_shapes:
            raise RuntimeError("Shape provided for min is inconsistent with other shapes.")
        profile._shapes[name] = [list(shape) for shape in shapes]

    def IOptimizationProfile_set_shape_input(self, profile: Any, name: str, *values: Any) -> None:
        profile._inputs[name] = [list(value) for value in values]

    def OnnxParser_parse_from_file(self, parser: Any, path: str) -> bool:
        if self.script.faults:
            keep(parser, num_errors=len(self.script.faults))
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
        keep(
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
        self.script.output_types[peek(layer, "name"), index] = dtype.name

    # Inspecting.

    def ICudaEngine_create_engine_inspector(self, engine: Any) -> Any:
        return self._make("EngineInspector", _engine=engine) if self.script.inspects else None

    def EngineInspector_get_engine_information(self, inspector: Any, form: Any) -> str:
        if self.script.layer_table is not None:
            return self.script.layer_table
        assert form.name == "JSON"
        graph = inspector._engine._graph
        if inspector._engine._head["verbosity"] != "DETAILED":
            return json.dumps({"Layers": [node.name for node in graph.node]})
        types = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.output)}
        attention = [node for node in graph.node if node.name in ("attention_logits", "softmax", "mix")]
        rest = [node for node in graph.node if node not in attention]
        whole = "Myelin" if self.version.startswith("8") else "kgen"
        name = "{ForeignNode[attention_logits...mix]}" if whole == "Myelin" else "_gemm_mha_v2_myl0_4"
        layers = [_described(name, whole, attention, types)] if attention else []
        layers += [_described(node.name, "kgen", [node], types) for node in rest]
        more = [  # as the inspector names the layers of the profiles after the first
            layer | {"Name": f"{layer['Name']} [profile {number}]"}
            for number in range(1, len(inspector._engine._head["profiles"]))
            for layer in layers
        ]
        return json.dumps({"Layers": layers + more, "Bindings": []})

    # Running.

    def Runtime_deserialize_cuda_engine(self, runtime: Any, plan: bytes) -> Any:
        line, _, content = bytes(plan).partition(b"\n")
        head = json.loads(line)
        if not self.script.loads or head["version"] != self.version:
            self._log(runtime._logger)
            return None
        model = onnx.load_from_string(content)
        inputs = {info.name: self._dtype(info.type.tensor_type.elem_type) for info in model.graph.input}
        outputs = {info.name: self._dtype(info.type.tensor_type.elem_type) for info in model.graph.output}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return self._make(
            "ICudaEngine",
            _inputs=inputs,
            _types=inputs | outputs,
            _names=[*inputs, *outputs],
            _head=head,
            _graph=model.graph,
            _session=session,
            _contexts=weakref.WeakSet(),
            _logger=runtime._logger,
            num_io_tensors=len(inputs) + len(outputs),
            device_memory_size=self.script.scratch_bytes,
            device_memory_size_v2=self.script.scratch_bytes,
        )

    def ICudaEngine_get_tensor_name(self, engine: Any, index: int) -> str:
        return engine._names[index]

    def ICudaEngine_get_tensor_mode(self, engine: Any, name: str) -> Any:
        return self.classes["TensorIOMode"]["INPUT" if name in engine._inputs else "OUTPUT"]

    def ICudaEngine_get_tensor_dtype(self, engine: Any, name: str) -> Any:
        return engine._types[name]

    def ICudaEngine_create_execution_context(self, engine: Any, strategy: Any = None) -> Any:
        return self._context(engine, strategy is not None and strategy.name == "USER_MANAGED")

    def ICudaEngine_create_execution_context_without_device_memory(self, engine: Any) -> Any:
        return self._context(engine, True)

    def _context(self, engine: Any, needs_scratch: bool) -> Any:
        if not self.script.makes_context:
            self._log(engine._logger)
            return None
        kept = {"_shapes": {}, "_addresses": {}, "_scratch": None}
        # Before TensorRT 10 a context has a profile from the start only where no other one has it.
        has_profile = not self.version.startswith("8.") or not any(other._profile == 0 for other in engine._contexts)
        kept["_profile"] = 0 if has_profile else None
        context = self._make("IExecutionContext", _engine=engine, _needs_scratch=needs_scratch, **kept)
        engine._contexts.add(context)
        return context

    def IExecutionContext_set_optimization_profile_async(self, context: Any, index: int, stream: int) -> bool:
        assert stream in self.script.device.streams, f"a profile on stream {stream}, which does not exist"
        engine = context._engine
        taken = any(other is not context and other._profile == index for other in engine._contexts)
        known = index < max(1, len(engine._head["profiles"]))  # one that is empty, where none was given
        taken = taken and bool(engine._head["profiles"])
        if not (known and self.script.takes_profile and (engine._head["shares_profiles"] or not taken)):
            self._log(engine._logger)
            return False
        keep(context, _profile=index)
        return True

    def IExecutionContext_set_device_memory(self, context: Any, memory: int, size: int) -> None:
        assert size <= len(self.script.device.buffers[memory]), "scratch that is smaller than it is said to be"
        keep(context, _scratch=memory)

    def IExecutionContext_set_input_shape(self, context: Any, name: str, shape: Sequence[int]) -> bool:
        assert context._profile is not None, "a context without an optimization profile"
        only = [[size.dim_value for size in _sizes(context._engine._graph, name)]] * 3
        smallest, _, largest = _profile(context)[0].get(name, only)
        inside = all(low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True))
        if not (inside and self.script.takes_input_shape):
            self._log(context._engine._logger)
            return False
        context._shapes[name] = tuple(shape)
        keep(context, _has_run=False)
        return True

    def IExecutionContext_infer_shapes(self, context: Any) -> list[str]:
        told = context._shapes.keys() | {name for name in self._values(context) if name in context._addresses}
        return [*self.script.missing_shapes, *(name for name in context._engine._inputs if name not in told)]

    def _values(self, context: Any) -> dict[str, list[list[int]]]:
        """Return the values of each input that is a shape tensor, as the context's profile has them."""
        return _profile(context)[1]

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
        assert stream not in device.capturing or context._has_run, "captured before a plain enqueue of this shape"
        addresses, shapes = dict(context._addresses), dict(context._shapes)
        assert addresses.keys() == set(engine._names), "a tensor without an address"
        scratch = peek(context, "device_memory", context._scratch)
        if context._needs_scratch:
            assert len(device.buffers[scratch]) >= self.script.scratch_bytes, "too little scratch"

        def work() -> None:
            assert not context._needs_scratch or scratch in device.buffers, "the scratch was freed"
            feeds = {}
            for name, profile in self._values(context).items():  # in host memory, read as the network is enqueued
                kind = np.int64 if engine._types[name].name == "INT64" else np.int32
                value = np.frombuffer(ctypes.string_at(addresses[name], np.dtype(kind).itemsize), dtype=kind)
                assert profile == [value.tolist()] * 3, "a count that is not the profile's"
                feeds[name] = value.reshape(()).astype(np.int64)
            for name, shape in shapes.items():
                count = int(np.prod(shape)) * 4
                feeds[name] = np.frombuffer(device.read(addresses[name], count), dtype=np.float32).reshape(shape)
            outputs = engine._names[len(engine._inputs) :]
            for name, value in zip(outputs, engine._session.run(outputs, feeds), strict=True):
                device.write(addresses[name], value.tobytes())

        device.enqueue(stream, work)
        keep(context, _has_run=True)
        return True


def _profile(context: Any) -> Any:
    """Return shapes and values of a context's profile; a network of constant shapes has an empty one."""
    profiles = context._engine._head["profiles"] or [[{}, {}]]
    return profiles[context._profile]


def _sizes(graph: Any, name: str) -> Any:
    """Return the dimensions of an input."""
    return next(info.type.tensor_type.shape.dim for info in graph.input if info.name == name)


def _open_inputs(graph: bytes) -> set[str]:
    """Return the inputs with a size that is not constant, and the numbers that sizes follow from."""
    found = onnx.load_from_string(graph).graph
    kinds = {info.name: info.type.tensor_type.elem_type for info in found.input}
    return {
        name
        for name, kind in kinds.items()
        if kind == onnx.TensorProto.INT64 or any(not size.HasField("dim_value") for size in _sizes(found, name))
    }


def _described(name: str, kind: str, nodes: Sequence[Any], types: dict[str, int]) -> dict[str, Any]:
    """Return a layer as the inspector describes it."""
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [],
        "Outputs": [
            {"Name": output, "Dimensions": [], "Format/Datatype": FORMATS[types[output]]} for output in nodes[-1].output
        ],
        "TacticName": f"tactic of {name}",
        "StreamId": 0,
        "Metadata": "".join(f"[ONNX Layer: {node.name}]" for node in nodes),
    }
