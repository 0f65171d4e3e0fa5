"""Options that the commands which run engines share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from heartvit_edge.runtime.open import CudaChoice


class BackendName(str, Enum):
    """What can run an engine."""

    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"


class PrecisionName(str, Enum):
    """Element type of an engine's matrix products."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class BindingName(str, Enum):
    """What gives TensorRT engines memory, streams and events."""

    cuda_python = "cuda-python"
    pycuda = "pycuda"


def cuda_choice(binding: BindingName, cuda_graph: bool) -> CudaChoice:
    """Return how TensorRT engines reach the device."""
    from heartvit_edge.runtime.open import CudaChoice

    return CudaChoice(binding.value, cuda_graph)


Pack = Annotated[Path, typer.Argument(help="Folder that `heartvit-edge export` wrote.", show_default=False)]
Engines = Annotated[Path, typer.Option(help="Where `heartvit-edge build-engine` stored the engines.")]
BuiltBackend = Annotated[
    BackendName | None, typer.Option(help="What runs the engines.", show_default="the one that was built")
]
BuiltPrecision = Annotated[
    PrecisionName | None, typer.Option(help="Of the engines.", show_default="the one that was built")
]
BuiltVariant = Annotated[
    str | None,
    typer.Option(
        "--variant",
        metavar="NAME",
        help="Batch sizes and settings that the engines were built for, as the end of their folders' names says: "
        "batch8, level5-sparse; default for none.",
        show_default="the one that was built",
    ),
]
Entries = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        help="Entry to use, by name or number; repeat for more. The dense entry is always used.",
        metavar="NAME|NUMBER",
        show_default="all",
    ),
]
Binding = Annotated[
    BindingName,
    typer.Option("--cuda-binding", help="TensorRT: what gives memory and streams. PyCUDA has no CUDA graphs."),
]
Graphs = Annotated[
    bool, typer.Option("--cuda-graph/--no-cuda-graph", help="TensorRT: launch an inference as one captured graph.")
]
AnyPowerMode = Annotated[
    bool, typer.Option("--any-power-mode", help="Take TensorRT engines that were built in another power mode.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]
