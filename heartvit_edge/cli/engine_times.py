"""``heartvit-edge engines time``: what inferences of TensorRT engines spend their time on."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from heartvit_edge.cli import engine_options as options
from heartvit_edge.cli.console import say
from heartvit_edge.cli.table import aligned
from heartvit_edge.cli.window_progress import window_progress
from heartvit_edge.errors import InputError

NUM_INPUTS = 4
SEED = 0


def time_engines(
    folders: Annotated[
        list[Path], typer.Argument(metavar="ENGINE...", help="Folders of TensorRT engines.", show_default=False)
    ],
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images an inference.", show_default="what each engine is tuned for"),
    ] = None,
    duration: Annotated[float, typer.Option(min=0.01, metavar="SECONDS", help="Length of each of two runs.")] = 3.0,
    cuda_binding: options.Binding = options.BindingName.cuda_python,
    cuda_graph: options.Graphs = True,
    any_power_mode: options.AnyPowerMode = False,
    json: options.Json = False,
) -> None:
    """Show what an inference spends its time on: medians in milliseconds, in trtexec's words.

    h2d, gpu compute and d2h are taken between CUDA events; enqueue and latency on the host, latency from array to
    arrays. Throughput is of a second run, in which a batch is copied in while the one before it runs. For percentiles,
    energy and comparisons use `heartvit-edge bench`.

    Example: heartvit-edge engines time engines/deit_small-0123456789ab/dense-tensorrt-fp16
    """
    import numpy as np

    from heartvit_edge.engines.fingerprint import detect_machine
    from heartvit_edge.engines.store import load_engine
    from heartvit_edge.runtime.open import open_runners
    from heartvit_edge.runtime.slot import sizes
    from heartvit_edge.runtime.steps import time_runner
    from heartvit_edge.runtime.tensorrt_runner import TensorRTRunner

    machine = detect_machine()
    engines = [(load_engine(folder, machine, any_power_mode=any_power_mode), folder) for folder in folders]
    for manifest, folder in engines:
        if manifest.backend != "tensorrt" or manifest.parts:
            found = "a stem with tails" if manifest.parts else f"an engine of {manifest.backend}"
            raise InputError(
                f"{folder} is {found}, expected one engine of tensorrt",
                hint="measure it with: heartvit-edge bench PACK --out run",
            )
    rows = []
    with (
        open_runners(engines, options.cuda_choice(cuda_binding, cuda_graph)) as runners,
        window_progress(len(engines)) as (tell, step),
    ):
        for (manifest, folder), runner in zip(engines, runners, strict=True):
            assert isinstance(runner, TensorRTRunner)  # by its manifest
            step(str(folder))
            batch = batch_size or manifest.batch.opt
            shape = (batch, *sizes(manifest.inputs[0], batch)[1:])
            generator = np.random.default_rng(SEED)
            inputs = [generator.standard_normal(shape, dtype=np.float32) for _ in range(NUM_INPUTS)]
            run = time_runner(runner, inputs, duration)
            for remark in run.remarks():
                tell(f"{folder}: {remark}")
            rows.append((folder, batch, len(run.steps), run.median(), batch * run.batches_per_s))
    if json:
        content = [
            {"engine": str(folder), "batch_size": batch, "num_samples": count, **times._asdict(), "images_per_s": rate}
            for folder, batch, count, times, rate in rows
        ]
        typer.echo(jsonlib.dumps(content, indent=1))
        return
    header = (
        "engine",
        "batch",
        "samples",
        "h2d ms",
        "gpu compute ms",
        "d2h ms",
        "enqueue ms",
        "latency ms",
        "images/s",
    )
    lines = [
        (folder.name, str(batch), str(count), *(f"{value:.4g}" for value in times), f"{rate:.4g}")
        for folder, batch, count, times, rate in rows
    ]
    typer.echo(aligned(header, lines))
    say(f"medians; {'CUDA graphs' if cuda_graph and cuda_binding.value == 'cuda-python' else 'plain enqueues'}")
