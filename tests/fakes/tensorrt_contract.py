"""What heartvit-edge uses of TensorRT, and a run through all of it.

``claimed`` lists each member that the package names, for each release that it claims to support; ``use_everything``
builds, fails, inspects and runs with a release's double, and returns what was used. Both must be equal.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import numpy as np
from fakes.cuda_double import FakeCuda
from fakes.machines import orin
from fakes.precise_pack import make_precise_pack
from fakes.tensorrt_double import ParserFault, Script, make_tensorrt
from fakes.tensorrt_surface import Surface, read_surface

from heartvit_edge.engines.build import build_engine
from heartvit_edge.engines.profiles import add_profiles, make_profiles
from heartvit_edge.engines.tensorrt_module import collecting_logger
from heartvit_edge.errors import CheckError
from heartvit_edge.runtime.scratch import Scratch
from heartvit_edge.runtime.tensorrt_runner import TensorRTRunner
from heartvit_edge.spec.engine import BatchRange, BuildSettings, EngineManifest, Precision
from heartvit_edge.spec.pack import BudgetPack, TensorInfo

EVERYWHERE: dict[str, tuple[str, ...]] = {
    "Builder": ("build_serialized_network", "create_builder_config", "create_network", "create_optimization_profile"),
    "BuilderFlag": ("SPARSE_WEIGHTS", "TF32"),
    "DataType": ("FLOAT", "HALF", "INT32"),
    "EngineInspector": ("get_engine_information",),
    "IBuilderConfig": (
        *("add_optimization_profile", "builder_optimization_level", "clear_flag", "create_timing_cache"),
        *("get_timing_cache", "profiling_verbosity", "set_flag", "set_memory_pool_limit", "set_timing_cache"),
    ),
    "ICudaEngine": (
        *("create_engine_inspector", "get_tensor_dtype", "get_tensor_mode", "get_tensor_name", "num_io_tensors"),
    ),
    "IExecutionContext": (
        *("execute_async_v3", "infer_shapes", "set_input_shape", "set_optimization_profile_async"),
        "set_tensor_address",
    ),
    "ILogger": ("ERROR", "INTERNAL_ERROR", "WARNING", "log"),
    "INetworkDefinition": ("get_input", "get_output", "num_inputs", "num_outputs"),
    "IOptimizationProfile": ("set_shape", "set_shape_input"),
    "ITensor": ("name",),
    "ITimingCache": ("serialize",),
    "LayerInformationFormat": ("JSON",),
    "MemoryPoolType": ("WORKSPACE",),
    "NetworkDefinitionCreationFlag": (),
    "OnnxParser": ("get_error", "num_errors", "parse_from_file"),
    "ParserError": ("desc",),
    "ProfilingVerbosity": ("DETAILED",),
    "Runtime": ("deserialize_cuda_engine",),
    "TensorIOMode": ("INPUT",),
}
"""Members that every release has and that are used on every one."""

WEAK: dict[str, tuple[str, ...]] = {
    "BuilderFlag": ("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"),
    "IBuilderConfig": ("set_preview_feature",),
    "ICudaEngine": ("create_execution_context_without_device_memory", "device_memory_size"),
    "IExecutionContext": ("device_memory",),
    "ILayer": ("get_output", "name", "num_outputs", "precision", "set_output_type", "type"),
    "INetworkDefinition": ("get_layer", "num_layers"),
    "ITensor": ("dtype",),
    "LayerType": ("NORMALIZATION", "REDUCE", "SOFTMAX", "TOPK"),
    "NetworkDefinitionCreationFlag": ("EXPLICIT_BATCH",),
    "ParserError": ("node",),
    "PreviewFeature": ("PROFILE_SHARING_0806",),
}
"""What is used on 8.6 alone, whose networks are weakly typed."""

STRONG: dict[str, tuple[str, ...]] = {
    "DataType": ("INT64",),
    "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
    "IBuilderConfig": ("progress_monitor",),
    "ICudaEngine": ("create_execution_context", "device_memory_size_v2"),
    "IExecutionContext": ("set_device_memory",),
    "IProgressMonitor": ("phase_finish", "phase_start", "step_complete"),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "ParserError": ("node_name", "node_operator"),
}
"""What is used from 10.0 on."""

HANDED_OUT = {
    *("EngineInspector", "IBuilderConfig", "ICudaEngine", "IExecutionContext", "ILayer", "INetworkDefinition"),
    *("IOptimizationProfile", "ITensor", "ITimingCache", "ParserError"),
}
"""Classes of which TensorRT hands out objects; the package never names them."""


def claimed(version: str) -> set[str]:
    """Return what the package uses on a release: classes that it names, and members as ``Class.member``."""
    tables = (EVERYWHERE, WEAK if version.startswith("8.") else STRONG)
    members = {f"{name}.{member}" for table in tables for name, members in table.items() for member in members}
    return members | {name for table in tables for name in table if name not in HANDED_OUT}


def renamed(surface: Surface, name: str) -> Surface:
    """Return a surface in which a class or a member has another name."""
    changed = {owner: dict(members) for owner, members in surface.items()}
    owner, _, member = name.partition(".")
    place, key = (changed[owner], member) if member else (changed, owner)
    place[f"{key}_renamed"] = place.pop(key)
    return changed


def check(version: str, folder: Path, pack: BudgetPack, surface: Surface | None = None) -> None:
    """Return only if what is claimed of a release is what is used of it, and the release has it all.

    Raises:
        Exception: If not.
    """
    used = use_everything(version, folder, pack, surface)
    assert used == claimed(version), sorted(used ^ claimed(version))
    known = surface or read_surface(version)
    members = {f"{owner}.{member}" for owner, members in known.items() for member in members} | set(known)
    assert used <= members, sorted(used - members)


def prepare(folder: Path) -> BudgetPack:
    """Write the pack that :func:`use_everything` builds from."""
    return make_precise_pack(folder / "pack")


def use_everything(version: str, folder: Path, pack: BudgetPack, surface: Surface | None = None) -> set[str]:
    """Build, inspect, run and fail with the double of a release; return the members that were used.

    Args:
        version: One of VERSIONS.
        folder: Where :func:`prepare` wrote the pack; engines of a former run are replaced.
        pack: The pack's manifest.
        surface: The classes; those of the release by default.

    Raises:
        Exception: Whatever a member that is missing leads to.
    """
    script = Script()
    trt = make_tensorrt(version, script, surface)

    def build(precision: Precision = "fp16", **changes: object) -> Path:
        for name, value in changes.items():
            setattr(script, name, value)
        return build_engine(
            folder / "pack",
            pack,
            "macs-0.5",
            "tensorrt",
            precision,
            BatchRange(),
            folder / "engines",
            orin(version),
            force=True,
            settings=BuildSettings(sparse=True),
            memory=lambda _: (2 << 30, 8 << 30),
        )

    with mock.patch.dict(sys.modules, tensorrt=trt):
        if version.startswith("8."):
            build("int8")
        built = build()
        cuda = FakeCuda(script.device)
        with TensorRTRunner(EngineManifest.read(built / "manifest.json"), built, cuda, Scratch(cuda)) as runner:
            for _ in range(2):
                runner.infer(np.zeros((1, 3, 32, 32), dtype=np.float32))
        logger, log = collecting_logger(trt)
        builder = trt.Builder(logger)
        counts = (TensorInfo(name="num_keep", dtype="int64", shape=(1,)),)
        profiles = make_profiles(counts, BatchRange(), [{"num_keep": 9}])
        add_profiles(builder, builder.create_builder_config(), profiles, log)
        log_lines = (("ERROR", "refused"), ("WARNING", "slow"), ("INTERNAL_ERROR", "assertion"))
        for changes in (
            {"builds": False, "log": log_lines},
            {"faults": (ParserFault(0, "patch", "Conv", "too large"),)},
        ):
            try:
                build(**changes)
            except CheckError as err:
                assert "refused" in str(err) or "node 'patch' (Conv): too large" in str(err), err
            else:
                raise AssertionError("a build that fails was not told")
    return trt.used


def survivors(version: str, folder: Path) -> tuple[int, list[str]]:
    """Rename each used member in turn; return how many there are, and those whose renaming nothing noticed."""
    pack = prepare(folder)
    check(version, folder, pack)
    surface = read_surface(version)
    unnoticed = []
    for name in sorted(claimed(version)):
        try:
            check(version, folder, pack, renamed(surface, name))
        except Exception:  # noqa: BLE001 - whatever a missing member leads to
            continue
        unnoticed.append(name)
    return len(claimed(version)), unnoticed
