"""Opening ONNX Runtime sessions: one way for the builder, the check and the runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from heartvit_edge.engines.cuda_device import why_no_cuda_device
from heartvit_edge.errors import CheckError, MachineError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
FATAL_ONLY = 4
INSTALL = "pip install 'heartvit-edge[onnxruntime]'"


def import_onnxruntime() -> Any:  # noqa: ANN401 - the module carries no types
    """Return the onnxruntime module.

    Raises:
        MachineError: If it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as err:
        raise MachineError(f"ONNX Runtime cannot be imported: {err}", hint=INSTALL) from err
    return onnxruntime


def open_session(
    model: Path | bytes,
    provider: str,
    num_threads: int,
    *,
    optimise: bool,
    save_to: Path | None = None,
    save_weights_to: Path | None = None,
    weights_in: Path | None = None,
) -> Any:  # noqa: ANN401 - an onnxruntime.InferenceSession, which carries no types
    """Return a session that runs on ``provider`` and on no other device.

    Args:
        model: ONNX file, or its bytes.
        provider: CPU or CUDA, by ONNX Runtime's name.
        num_threads: Threads inside an operator; operators run one after the other.
        optimise: Apply every graph optimisation; False runs the graph as it stands.
        save_to: Where the optimised graph is written.
        save_weights_to: Where its weights are written, in the same folder; None: into the graph.
        weights_in: Folder of the external data of a graph that is given as bytes.

    Raises:
        MachineError: If onnxruntime is missing or does not have the provider.
        CheckError: If it cannot read or run the graph.
    """
    onnxruntime = import_onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY  # errors are raised; what is left is advice about portability
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # Threads that wait busily for this session's next call take the cores from another's, such as a tail's.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
    if save_weights_to is not None:
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", save_weights_to.name
        )
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    if weights_in is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights_in))
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise MachineError(f"ONNX Runtime has no {provider}, only {', '.join(available)}", hint=INSTALL)
    providers = [provider] if provider == CPU else [provider, CPU]  # shape arithmetic stays on the CPU
    name = model if isinstance(model, Path) else "the engine"
    try:
        session = onnxruntime.InferenceSession(
            str(model) if isinstance(model, Path) else model, options, providers=providers, enable_fallback=0
        )
    except (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
        state.RuntimeException,
        RuntimeError,
    ) as err:
        raise CheckError(f"ONNX Runtime cannot use {name}: {err}", hint="export the pack again") from err
    if session.get_providers()[0] != provider:
        raise MachineError(
            f"ONNX Runtime lists {provider} but cannot load it", hint="heartvit-edge doctor shows what CUDA lacks here"
        )
    return session


def pick_provider(onnx: Path) -> tuple[str, str]:
    """Return the provider that can run the graph on this machine, and why it is that one.

    onnxruntime-gpu lists CUDA on every machine, so the driver is asked for a device and the provider is loaded once.

    Raises:
        MachineError: If onnxruntime is missing.
        CheckError: If it cannot read the graph.
    """
    if CUDA not in import_onnxruntime().get_available_providers():
        return CPU, "this onnxruntime is built for the CPU alone"
    if reason := why_no_cuda_device():
        return CPU, reason
    try:
        open_session(onnx, CUDA, 1, optimise=False)
    except MachineError as err:
        return CPU, str(err)
    return CUDA, "the driver has a GPU and ONNX Runtime's CUDA provider loads"
