"""Options that the commands which run engines share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class BackendName(str, Enum):
    """What can run an engine."""

    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"


class PrecisionName(str, Enum):
    """Element type of an engine's matrix products."""

    fp32 = "fp32"
    fp16 = "fp16"


Pack = Annotated[Path, typer.Argument(help="Folder that `heartvit-edge export` wrote.", show_default=False)]
Engines = Annotated[Path, typer.Option(help="Where `heartvit-edge build-engine` stored the engines.")]
BuiltBackend = Annotated[
    BackendName | None, typer.Option(help="What runs the engines.", show_default="the one that was built")
]
BuiltPrecision = Annotated[
    PrecisionName | None, typer.Option(help="Of the engines.", show_default="the one that was built")
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
Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]
