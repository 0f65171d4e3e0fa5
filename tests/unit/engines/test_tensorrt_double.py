"""The double of TensorRT is as strict as the release that it stands for; the other tests rest on that."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fakes.tensorrt_double import Script, make_tensorrt
from fakes.tensorrt_surface import SURFACES, VERSIONS, parse_signature, read_surface

SHARED = SURFACES.parents[3] / "shared" / "tensorrt_api"


def builder_of(trt):
    """Return a builder with a logger that forgets."""

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)

        def log(self, severity, msg):
            pass

    return trt.Builder(Logger())


@pytest.mark.skipif(not SHARED.is_dir(), reason="NVIDIA's surfaces are not in ../shared/tensorrt_api")
@pytest.mark.parametrize("version", VERSIONS)
def test_each_stored_class_equals_the_one_read_off_the_bindings(version):
    whole = json.loads((SHARED / f"{version}.json").read_text())
    stored = read_surface(version)
    assert stored == {name: whole[name] for name in stored}


def test_every_stored_surface_is_tested():
    assert sorted(VERSIONS) == sorted(path.stem for path in SURFACES.glob("*.json"))


def test_tensorrt_11_has_no_fp16_flag_and_8_has():
    assert make_tensorrt("8.6.1").BuilderFlag.FP16.name == "FP16"
    with pytest.raises(AttributeError, match="FP16"):
        _ = make_tensorrt("11.4.0.106").BuilderFlag.FP16


def test_tensorrt_8_has_no_strongly_typed_networks_and_11_no_explicit_batch():
    with pytest.raises(AttributeError, match="STRONGLY_TYPED"):
        _ = make_tensorrt("8.6.1").NetworkDefinitionCreationFlag.STRONGLY_TYPED
    with pytest.raises(AttributeError, match="EXPLICIT_BATCH"):
        _ = make_tensorrt("11.4.0.106").NetworkDefinitionCreationFlag.EXPLICIT_BATCH


@pytest.mark.parametrize("version", VERSIONS)
def test_a_method_that_the_release_lacks_cannot_be_called(version):
    with pytest.raises(AttributeError, match="build_cuda_graph"):
        builder_of(make_tensorrt(version)).build_cuda_graph()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_property_that_the_release_lacks_cannot_be_set(version):
    config = builder_of(make_tensorrt(version)).create_builder_config()
    config.builder_optimization_level = 3
    with pytest.raises(AttributeError, match="workspace"):
        config.workspace = 3


@pytest.mark.parametrize("version", VERSIONS)
def test_arguments_are_held_against_the_signature(version):
    trt = make_tensorrt(version)
    config = builder_of(trt).create_builder_config()
    pool = trt.MemoryPoolType.WORKSPACE
    config.set_memory_pool_limit(pool=pool, pool_size=1 << 20)
    with pytest.raises(TypeError, match="missing a required argument"):
        config.set_memory_pool_limit(pool)
    with pytest.raises(TypeError, match="unexpected keyword"):
        config.set_memory_pool_limit(pool, 1 << 20, size=1 << 20)
    with pytest.raises(TypeError, match="takes MemoryPoolType, found BuilderFlag"):
        config.set_memory_pool_limit(trt.BuilderFlag.TF32, 1 << 20)
    with pytest.raises(TypeError, match=r"takes (int|SupportsInt), found str"):
        config.set_memory_pool_limit(pool, "1 GiB")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_shape_of_numpy_integers_is_refused(version):
    profile = builder_of(make_tensorrt(version)).create_optimization_profile()
    with pytest.raises(TypeError, match="takes Dims"):
        profile.set_shape("images", (np.int64(1), 3), (1, 3), (1, 3))


def test_calls_are_recorded_with_their_arguments():
    script = Script()
    trt = make_tensorrt("10.3.0", script)
    builder_of(trt).create_builder_config().set_flag(trt.BuilderFlag.TF32)
    assert script.arguments("IBuilderConfig.set_flag") == [{"flag": trt.BuilderFlag.TF32}]


def test_a_logger_whose_base_was_not_initialised_is_refused():
    trt = make_tensorrt("10.3.0")
    logger = type("Logger", (trt.ILogger,), {"__init__": lambda _: None})()
    with pytest.raises(AttributeError, match="_initialised"):
        trt.Builder(logger)


def test_a_signature_with_nested_brackets_and_a_default_is_read():
    signature = parse_signature(
        "f(self: a.B, weights: std::vector<nv::W, std::allocator<nv::W> >, strategy: t.E = <E.STATIC: 0>) -> List[int]"
    )
    assert list(signature.parameters) == ["self", "weights", "strategy"]
    assert signature.parameters["strategy"].default is None
    assert parse_signature("f(*args, **kwargs)") is None


@pytest.mark.parametrize("version", VERSIONS)
def test_an_overloaded_method_still_takes_what_older_releases_write(version):
    trt = make_tensorrt(version)
    builder = builder_of(trt)
    network = builder.create_network(0)
    with pytest.raises(TypeError, match="missing a required argument: 'config'"):
        builder.build_serialized_network(network)
    with pytest.raises(TypeError, match="unexpected keyword argument 'settings'"):
        builder.build_serialized_network(network, builder.create_builder_config(), settings=None)


def test_a_subclass_overrides_only_what_is_there_and_with_its_parameters():
    trt = make_tensorrt("10.3.0")
    with pytest.raises(TypeError, match="IProgressMonitor has no method 'phase_begin' to override"):
        type("Monitor", (trt.IProgressMonitor,), {"phase_begin": lambda self, phase_name: None})  # noqa: ARG005
    with pytest.raises(TypeError, match=r"takes \['self', 'phase_name', 'step'\], the override \['self', 'step'\]"):
        type("Monitor", (trt.IProgressMonitor,), {"step_complete": lambda self, step: True})  # noqa: ARG005


def test_what_is_used_is_written_down_and_what_is_asked_for_in_vain_is_not():
    trt = make_tensorrt("8.6.1")
    assert not hasattr(trt, "IProgressMonitor")
    config = builder_of(trt).create_builder_config()
    trt.used.clear()
    config.builder_optimization_level = 3
    config.set_flag(trt.BuilderFlag.FP16)
    assert trt.used == {
        "BuilderFlag",
        "BuilderFlag.FP16",
        "IBuilderConfig.builder_optimization_level",
        "IBuilderConfig.set_flag",
    }


def test_a_property_that_was_not_set_cannot_be_read():
    with pytest.raises(AttributeError, match=r"IBuilderConfig\.max_aux_streams was not set"):
        _ = builder_of(make_tensorrt("10.3.0")).create_builder_config().max_aux_streams
