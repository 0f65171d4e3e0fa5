"""The TensorRT builder, on the double of every release that it supports."""

from __future__ import annotations

import json
import os
import signal
import sys

import onnx
import pytest
from fakes.precise_pack import make_precise_pack
from fakes.tensorrt_double import ParserFault, Script, make_tensorrt
from fakes.tensorrt_surface import VERSIONS

from heartvit_edge.engines import tensorrt_build, tensorrt_module
from heartvit_edge.engines.profiles import make_profiles
from heartvit_edge.engines.tensorrt_build import Job, Means
from heartvit_edge.errors import CheckError, MachineError
from heartvit_edge.spec.engine import BatchRange, BuildSettings

STRONG = [version for version in VERSIONS if version != "8.6.1"]


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Return a function that builds an entry with a release; it returns the double and the plan's head and graph."""
    folder = tmp_path / "pack"
    pack = make_precise_pack(folder)

    def run(
        version,
        *,
        script=None,
        name="macs-0.5",
        precision="fp32",
        batch=None,
        entry=None,
        settings=None,
        progress=None,
        written=None,
    ):
        trt = make_tensorrt(version, script)
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        plan = tmp_path / "engine.plan"
        entry = entry or pack.entry(name)
        profiles = make_profiles(entry.inputs, batch or BatchRange())
        file, found = (entry.other("int8").onnx, "int8") if precision == "int8" else (entry.onnx, "fp32")
        job = Job(folder / file, entry, pack.shape, precision, profiles, settings or BuildSettings(), written or found)
        means = Means(tmp_path / "timings.cache", 300 << 20, (600 << 20, 800 << 20), progress or (lambda *_: None))
        run.built = tensorrt_build.build_plan(job, plan, means)
        head, _, graph = plan.read_bytes().partition(b"\n")
        return trt, json.loads(head), onnx.load_from_string(graph)

    run.pack = pack
    return run


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_release_builds_every_precision(build, version, precision):
    _, head, _ = build(version, precision=precision)
    assert head["version"] == version


@pytest.mark.parametrize("version", VERSIONS)
def test_the_profile_spans_the_batch_range(build, version):
    _, head, _ = build(version, batch=BatchRange(min=2, opt=4, max=16))
    assert head["shapes"] == {"images": [[2, 3, 32, 32], [4, 3, 32, 32], [16, 3, 32, 32]]}


@pytest.mark.parametrize(("version", "flag"), [("8.6.1", "EXPLICIT_BATCH"), *((v, "STRONGLY_TYPED") for v in STRONG)])
def test_the_network_has_the_one_flag_of_its_release(build, version, flag):
    script = Script()
    trt, _, _ = build(version, script=script)
    wanted = 1 << int(trt.NetworkDefinitionCreationFlag[flag])
    assert script.arguments("Builder.create_network") == [{"flags": wanted}]


@pytest.mark.parametrize("version", VERSIONS)
def test_tf32_is_off_and_the_workspace_has_the_limit(build, version):
    script = Script()
    trt, head, _ = build(version, script=script)
    assert "TF32" not in head["flags"]
    assert script.arguments("IBuilderConfig.set_memory_pool_limit") == [
        {"pool": trt.MemoryPoolType.WORKSPACE, "pool_size": 300 << 20}
    ]


@pytest.mark.parametrize("version", STRONG)
def test_from_release_10_on_fp16_is_in_the_graph_and_no_flag_asks_for_it(build, version):
    _, head, graph = build(version, precision="fp16")
    weights = {weight.name: weight.data_type for weight in graph.graph.initializer}
    assert weights["query.weight"] == onnx.TensorProto.FLOAT16
    assert weights["gate.weight"] == weights["norm.weight"] == onnx.TensorProto.FLOAT
    assert head["flags"] == []


def test_release_8_takes_the_fp32_graph_and_holds_what_must_stay_fp32(build):
    script = Script()
    trt, head, graph = build("8.6.1", script=script, precision="fp16")
    assert {weight.data_type for weight in graph.graph.initializer} == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    assert head["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
    held = {layer.name for layer in script.layers if hasattr(layer, "precision")}  # reading what was not set fails
    assert held == {"norm", "softmax", "pool", "topk", "gate", "scores"}
    assert {layer.precision for layer in script.layers if layer.name in held} == {trt.DataType.FLOAT}
    assert script.output_types == {(name, 0): "FLOAT" for name in held}  # TopK's indices keep their type


@pytest.mark.parametrize("version", STRONG)
def test_from_release_10_on_int8_is_in_the_graph_and_the_rest_is_fp16(build, version):
    _, head, graph = build(version, precision="int8")
    values = {weight.name: weight.data_type for weight in graph.graph.initializer}
    pairs = [node for node in graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) == 4 * 3  # of patch, query and head; the gate stays as it is
    assert {values[node.input[1]] for node in pairs} == {onnx.TensorProto.FLOAT16}
    assert values["gate.weight"] == values["norm.weight"] == onnx.TensorProto.FLOAT
    assert head["flags"] == []


def test_release_8_takes_the_int8_graph_with_fp32_scales_and_both_flags(build):
    script = Script()
    _, head, graph = build("8.6.1", script=script, precision="int8")
    assert onnx.TensorProto.FLOAT16 not in {weight.data_type for weight in graph.graph.initializer}
    assert head["flags"] == ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"]
    held = {layer.name for layer in script.layers if hasattr(layer, "precision")}  # reading what was not set fails
    assert held == {"norm", "softmax", "pool", "topk", "gate", "scores"}


@pytest.mark.parametrize("version", STRONG)
def test_a_graph_that_is_fp16_already_is_built_as_it_is(build, version, monkeypatch):
    monkeypatch.setattr(tensorrt_build, "write_half", None)  # calling it fails
    entry = build.pack.entry("macs-0.5")
    half = entry.other("fp16")
    _, _, graph = build(version, entry=entry.model_copy(update={"onnx": half.onnx}), precision="fp16", written="fp16")
    assert onnx.TensorProto.FLOAT16 in {weight.data_type for weight in graph.graph.initializer}


@pytest.mark.parametrize("version", VERSIONS)
def test_fp32_needs_no_flag_and_holds_nothing(build, version):
    script = Script()
    _, head, _ = build(version, script=script)
    assert head["flags"] == []
    assert not any(hasattr(layer, "precision") for layer in script.layers)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_parser_error_is_told_with_its_nodes_name_and_operator(build, version):
    faults = (ParserFault(6, "topk", "TopK", "K exceeds 3840"), ParserFault(3, "norm", "LayerNormalization", "no axis"))
    with pytest.raises(CheckError) as caught:
        build(version, script=Script(faults=faults))
    assert "node 'topk' (TopK): K exceeds 3840 (K must be a constant" in str(caught.value)
    assert "; node 'norm' (LayerNormalization): no axis (TensorRT reads it from 8.6 on" in str(caught.value)
    assert "--backend onnxruntime" in caught.value.hint


def test_release_8_names_a_position_that_is_no_node(build):
    with pytest.raises(CheckError, match=r"node '-1' \(not one node\): no graph"):
        build("8.6.1", script=Script(faults=(ParserFault(-1, "", "", "no graph"),)))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_failed_build_tells_the_errors_that_tensorrt_logged(build, version):
    log = (("WARNING", "slow"), ("INFO", "hello"), ("ERROR", "no tactic for softmax"), ("INTERNAL_ERROR", "assertion"))
    with pytest.raises(CheckError) as caught:
        build(version, script=Script(builds=False, log=log))
    assert str(caught.value).endswith("error: no tactic for softmax; internal error: assertion")


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_gpu_there_is_no_builder(build, version):
    with pytest.raises(MachineError, match="cannot make a builder: error: no CUDA device"):
        build(version, script=Script(has_gpu=False, log=(("ERROR", "no CUDA device"),)))


@pytest.mark.parametrize("version", VERSIONS)
def test_refused_profile_shapes_are_an_error(build, version):
    with pytest.raises(CheckError, match=r"refuses \(1, 3, 32, 32\).* for input 'images': .*inconsistent"):
        build(version, script=Script(takes_profile_shapes=False))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_refused_profile_is_an_error(build, version):
    with pytest.raises(CheckError, match="refuses optimization profile 0"):
        build(version, script=Script(profile_index=-1))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_graph_whose_outputs_are_not_the_packs_is_refused(build, version):
    entry = build.pack.entry("macs-0.5")
    other = entry.model_copy(update={"outputs": entry.outputs[:1]})
    with pytest.raises(CheckError, match=r"outputs \['logits', 'kept_1'\], the pack says .*\['logits'\]"):
        build(version, entry=other)


@pytest.mark.parametrize("version", ["8.5.3", "9.2.0", "10.0.1"])
def test_an_unknown_release_is_refused(monkeypatch, version):
    trt = make_tensorrt("8.6.1")
    trt.__version__ = version
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    with pytest.raises(MachineError, match=f"found TensorRT {version}, expected 8.6, or 10.1 and later"):
        tensorrt_module.import_tensorrt()


def test_on_a_jetson_tensorrt_comes_from_apt(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    assert tensorrt_module.install_hint(tmp_path).startswith("sudo apt-get install python3-libnvinfer")
    assert "apt-get" not in tensorrt_module.install_hint(tmp_path / "etc")


@pytest.mark.parametrize(
    ("version", "precision", "typing", "constraints"),
    [
        ("8.6.1", "fp32", "weak", "none"),
        ("8.6.1", "fp16", "weak", "obey"),
        ("8.6.1", "int8", "weak", "obey"),
        ("10.3.0", "fp16", "strong", "none"),
        ("10.3.0", "int8", "strong", "none"),
    ],
)
def test_the_options_tell_how_precision_is_enforced(monkeypatch, version, precision, typing, constraints):
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(version))
    options = dict(tensorrt_build.plan_options(precision, BuildSettings(optimization_level=4, sparse=True)))
    assert (options["typing"], options["precision_constraints"]) == (typing, constraints)
    assert (options["optimization_level"], options["sparse_weights"]) == ("4", "on")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_optimization_level_is_set_and_sparse_kernels_are_allowed_where_asked_for(build, version):
    _, head, _ = build(version)
    assert (head["level"], head["flags"]) == (3, [])
    _, head, _ = build(version, settings=BuildSettings(optimization_level=5, sparse=True))
    assert (head["level"], head["flags"]) == (5, ["SPARSE_WEIGHTS"])


@pytest.mark.parametrize("version", VERSIONS)
def test_kernel_timings_are_kept_and_used_by_the_next_build(build, version, tmp_path):
    build(version)
    assert build.built.timings == "new"
    assert (tmp_path / "timings.cache").read_bytes() == b"timed;"
    script = Script()
    build(version, script=script)
    assert build.built.timings == "reused"
    assert script.arguments("IBuilderConfig.create_timing_cache") == [{"serialized_timing_cache": b"timed;"}]
    assert (tmp_path / "timings.cache").read_bytes() == b"timed;timed;"


@pytest.mark.parametrize("version", VERSIONS)
def test_timings_that_tensorrt_refuses_are_begun_anew(build, version, tmp_path):
    (tmp_path / "timings.cache").write_bytes(b"of another device;")
    build(version, script=Script(takes_timings=False))
    assert build.built.timings == "new"
    assert (tmp_path / "timings.cache").read_bytes() == b"timed;"


@pytest.mark.parametrize("version", VERSIONS)
def test_without_timings_the_engine_is_built_all_the_same(build, version, tmp_path):
    build(version, script=Script(has_timings=False))
    assert build.built.timings == "refused"
    assert not (tmp_path / "timings.cache").exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_build_that_fails_keeps_no_timings(build, version, tmp_path):
    with pytest.raises(CheckError):
        build(version, script=Script(builds=False))
    assert not (tmp_path / "timings.cache").exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_progress_is_told_by_phase_where_the_release_tells_it(build, version):
    told = []
    build(version, progress=lambda *step: told.append(step))
    steps = [("Building", 0, 3), ("Building", 1, 3), ("Building", 2, 3), ("Building", 3, 3), ("Building", 3, 3)]
    assert told == ([] if version == "8.6.1" else steps)


@pytest.mark.parametrize("version", VERSIONS)
def test_ctrl_c_in_the_midst_of_a_build_ends_it_at_the_next_step(build, version):
    told = []
    script = Script(during_build=lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        build(version, script=script, progress=lambda *step: told.append(step))
    inspected = script.arguments("ICudaEngine.create_engine_inspector") != []
    assert inspected == (version == "8.6.1")  # which cannot be stopped: it ends once the engine is built


@pytest.mark.parametrize("version", VERSIONS)
def test_the_layer_table_tells_precision_and_fused_attention(build, version):
    build(version, precision="fp16")
    layers = build.built.layers
    if version == "8.6.1":  # FP16 is the builder's choice there, and a region's inside is not told
        assert layers.num_fused_attention is None
        return
    assert layers.num_fused_attention == 1
    (attention,) = (layer for layer in layers.layers if "mha" in layer.name)
    assert attention.nodes == ("attention_logits", "softmax", "mix")
    precision = {layer.name: layer.precision for layer in layers.layers}
    assert (precision["query"], precision["norm"], precision["gate"]) == ("fp16", "fp32", "fp32")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script(layer_table='{"Layers": ["quote " inside"]}'), "table cannot be read"),
        (Script(inspects=False), "cannot inspect the engine that it built"),
    ],
)
def test_an_engine_whose_layers_cannot_be_read_is_kept_and_the_reason_told(build, version, script, reason):
    build(version, script=script)
    assert build.built.layers is None
    assert reason in build.built.no_layers_reason


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Requested amount of GPU memory (943718400 bytes) could not be allocated.", "900.0 MiB"),
        ("[virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory", "more than there is"),
    ],
)
def test_memory_that_runs_out_in_a_build_is_told_with_what_was_asked_and_what_was_free(build, version, text, asked):
    with pytest.raises(MachineError, match=f"asked for {asked}, 600.0 of 800.0 MiB were free") as caught:
        build(version, script=Script(builds=False, log=(("ERROR", text),)))
    assert caught.value.exit_code == 3
