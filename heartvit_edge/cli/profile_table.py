"""``heartvit-edge bench PACK --profile-table TABLE.json``: what one block costs on this machine."""

from __future__ import annotations

import json as jsonlib
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from heartvit_edge.cli.console import say
from heartvit_edge.cli.table import aligned
from heartvit_edge.cli.window_progress import window_progress
from heartvit_edge.errors import InputError
from heartvit_edge.spec.device_table import Cells, DeviceTable
from heartvit_edge.spec.engine import Backend, Precision
from heartvit_edge.spec.files import refuse_existing
from heartvit_edge.spec.model import ModelShape
from heartvit_edge.spec.pack import BudgetPack

if TYPE_CHECKING:
    from heartvit_edge.bench.block_cost import Grid
    from heartvit_edge.runtime.open import CudaChoice


def refuse_options_of_engines(given: Mapping[str, object], batch_sizes: Sequence[int]) -> None:
    """Return only if nothing was given that a device table cannot follow.

    Args:
        given: Option to its value, for those that speak of built engines.
        batch_sizes: As given; a table holds for one.

    Raises:
        InputError: If one of the options has a value, or there are several batch sizes.
    """
    for option, value in given.items():
        if value:
            raise InputError(
                f"{option} is about built engines, and --profile-table builds its own", hint=f"leave {option} out"
            )
    if len(batch_sizes) > 1:
        raise InputError(
            f"a device table holds for one batch size, found --batch-size {','.join(map(str, batch_sizes))}",
            hint=f"one table each: --batch-size {batch_sizes[0]}",
        )


def run_profile(
    pack: Path,
    target: Path,
    *,
    backend: Backend | None,
    precision: Precision,
    batch_size: int,
    tokens: Sequence[int],
    heads: Sequence[int],
    duration_s: float,
    num_rounds: int,
    power: str,
    interval_ms: float,
    choice: CudaChoice,
    json: bool,
    force: bool,
) -> None:
    """Measure a device table for the dense model of a pack, store it, and print it and its path.

    Args:
        pack: Folder of the pack.
        target: Where the table goes.
        backend: What runs the engines; None for TensorRT where it can be used, else ONNX Runtime.
        precision: Element type of their matrix products.
        batch_size: Images an inference.
        tokens: Token counts beside all tokens; empty for a grid that suits the model.
        heads: Head counts beside all heads; empty likewise.
        duration_s: Length of each window, and the cap of its warm-up.
        num_rounds: Windows of each part.
        power: Where power readings come from.
        interval_ms: Time between power readings to ask for.
        choice: How TensorRT engines reach the device.
        json: Print the table as JSON.
        force: Replace ``target``.

    Raises:
        InputError: If the pack or a count cannot be used, or ``target`` cannot be written.
        MachineError: If this machine lacks what is needed, or a power source died in mid-run: the table is stored then.
        CheckError: If an engine cannot be built.
    """
    from heartvit_edge.bench.profile_table import Target, profile_table
    from heartvit_edge.bench.session import Schedule
    from heartvit_edge.engines.build import pick_backend
    from heartvit_edge.engines.fingerprint import detect_machine

    scratch = _folder_for(target, force=force)
    content = BudgetPack.open(pack)
    grid = choose_grid(content.shape, tokens, heads)
    chosen, reason = pick_backend(backend)
    say(f"backend: {chosen} ({reason})")
    with window_progress(len(grid.parts) * (1 + num_rounds)) as (tell, step):
        table, lost = profile_table(
            Target(content, chosen, precision, batch_size, detect_machine(), choice),
            grid,
            Schedule(duration_s, num_rounds),
            power,
            interval_ms / 1000,
            shlex.join(["heartvit-edge", *sys.argv[1:]]),
            scratch,
            tell,
            step,
        )
    table.write(target, force=force)
    typer.echo(_as_json(table, target) if json else f"{_as_text(table)}\n{target}")
    if lost is not None:
        raise lost


def choose_grid(shape: ModelShape, tokens: Sequence[int], heads: Sequence[int]) -> Grid:
    """Return the cells to measure: the counts given and the dense model's, or where none are given a default.

    Raises:
        InputError: If a count is above the dense model's.
    """
    from heartvit_edge.bench.block_cost import Grid, default_grid

    default = default_grid(shape)
    return Grid(
        _with_all("--tokens", tokens, shape.num_tokens) if tokens else default.tokens,
        _with_all("--heads", heads, shape.num_heads) if heads else default.heads,
    )


def _with_all(option: str, counts: Sequence[int], every: int) -> tuple[int, ...]:
    if max(counts) > every:
        raise InputError(
            f"{option} names {max(counts)}, the dense model has {every}", hint=f"write {option} {max(1, every // 2)}"
        )
    return tuple(sorted({*counts, every}))


def _folder_for(target: Path, *, force: bool) -> Path:
    """Return the nearest folder above ``target`` that exists, checked before the work begins rather than after.

    Raises:
        InputError: If ``target`` exists and ``force`` is not set, is a folder, or cannot be written.
    """
    refuse_existing(target, force=force)
    hint = "name a file of your own: --profile-table TABLE.json"
    if target.is_dir():
        raise InputError(f"{target} is a folder, expected the name of a file", hint=hint)
    nearest = next(place for place in target.absolute().parents if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        what = "cannot be written in" if nearest.is_dir() else "is a file, expected a folder"
        raise InputError(f"{nearest} {what}", hint=hint)
    return nearest


def _as_text(table: DeviceTable) -> str:
    depth, dense_ms = table.shape.depth, table.block_ms[-1][-1]
    lines = [
        f"ms of one block, batch size {table.batch_size}, {table.backend} {table.precision}",
        _cells(table, table.block_ms),
        f"all but the blocks: {table.fixed_ms:.4g} ms; "
        f"with {depth} dense blocks: {table.fixed_ms + depth * dense_ms:.4g} ms",
    ]
    if table.block_mj is None or table.fixed_mj is None:
        return "\n".join([*lines, f"no energy: {table.no_energy_reason}"])
    dense_mj = table.fixed_mj + depth * table.block_mj[-1][-1]
    return "\n".join(
        [
            *lines,
            f"mJ of one block, gross, from {table.energy_source}",
            _cells(table, table.block_mj),
            f"all but the blocks: {table.fixed_mj:.4g} mJ; with {depth} dense blocks: {dense_mj:.4g} mJ",
        ]
    )


def _cells(table: DeviceTable, values: Cells) -> str:
    header = ("tokens", *(f"{heads} head{'s' if heads > 1 else ''}" for heads in table.heads))
    rows = [(str(tokens), *(f"{value:.4g}" for value in row)) for tokens, row in zip(table.tokens, values, strict=True)]
    return aligned(header, rows)


def _as_json(table: DeviceTable, target: Path) -> str:
    return jsonlib.dumps({"device_table": str(target), **table.model_dump(mode="json")}, indent=1)
