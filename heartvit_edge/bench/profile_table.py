"""Building and timing the parts of a device table on this machine.

build all | round 1: parts in random order | round 2: in another | ...       each time: load, warm up, window, unload

A chain is loaded several times, and calls take the copies in turn: before one is called again, as many weights have
been read as the model has. Else a large cache would hold the four blocks and hide what it costs to read weights, which
is all that is left of a block's latency where tokens are few.
"""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heartvit_edge import __version__
from heartvit_edge.bench.block_cost import (
    FIXED,
    NUM_CHAINED,
    Grid,
    Part,
    energy_fields,
    latency_fields,
    no_energy_fields,
)
from heartvit_edge.bench.block_graph import write_chain, write_fixed
from heartvit_edge.bench.session import NUM_INPUTS, Schedule
from heartvit_edge.bench.stored import StoredEngine, processor_of
from heartvit_edge.bench.window import WARM_UP_CV, Infer, measure_window, warm_up
from heartvit_edge.engines.build import build_engine
from heartvit_edge.engines.store import MANIFEST
from heartvit_edge.errors import MachineError
from heartvit_edge.power.choose import check_power, choose
from heartvit_edge.power.sampler import NoPowerError, PowerLostError
from heartvit_edge.runtime.open import CudaChoice, open_runner
from heartvit_edge.runtime.runner import Runner
from heartvit_edge.spec.device_table import DeviceTable
from heartvit_edge.spec.engine import Backend, BatchRange, EngineManifest, Precision
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.machine import Machine
from heartvit_edge.spec.measurement import Trial
from heartvit_edge.spec.pack import BudgetPack

SEED = 0
"""Of the weights, the inputs and the order of the parts."""


@dataclass(frozen=True)
class Target:
    """What the table is for.

    Attributes:
        pack: Of the model; its dimensions count alone, no engine is needed.
        backend: What runs the engines.
        precision: Element type of their matrix products.
        batch_size: Images an inference.
        machine: This machine.
        choice: How TensorRT engines reach the device.
    """

    pack: BudgetPack
    backend: Backend
    precision: Precision
    batch_size: int
    machine: Machine
    choice: CudaChoice = field(default_factory=CudaChoice)

    @property
    def num_copies(self) -> int:
        """How often a chain is loaded, so that there are as many blocks as the model has, or up to three more."""
        return math.ceil(self.pack.shape.depth / NUM_CHAINED)


def profile_table(
    target: Target,
    grid: Grid,
    schedule: Schedule,
    power: str,
    interval_s: float,
    command: str,
    scratch: Path,
    tell: Callable[[str], None],
    step: Callable[[str], None],
    timer: Callable[[], float] = time.perf_counter,
) -> tuple[DeviceTable, PowerLostError | None]:
    """Build the engine of every part, time all of them in rounds, and return what follows for one block.

    Args:
        target: What the table is for.
        grid: Which cells to measure.
        schedule: How long each window is, which also caps its warm-up, and how many rounds there are.
        power: Which power source to read, as ``power.choose`` takes it.
        interval_s: Time between power readings to ask for.
        command: What measures this again.
        scratch: Folder that exists, in which the engines lie until the table is made.
        tell: Takes a remark for the user.
        step: Called before each build and each window with what comes, never inside a window;
            ``len(grid.parts) * (1 + num_trials)`` times in all.
        timer: A monotonic clock in seconds.

    Returns:
        The table, and the error that ended the power readings in mid-run; None where nothing did.

    Raises:
        MachineError: If the disk is too small, the backend or what it needs is missing, a power source was asked for
            and cannot be read, or the machine is too unsteady for a chain to take longer than a call without blocks.
        CheckError: If an engine cannot be built or loaded.
    """
    check_power(power)
    _check_space(scratch, target, grid)
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    origin = timer()

    def clock() -> float:
        return timer() - origin

    told: set[str] = set()

    def tell_once(text: str) -> None:
        if text not in told:  # what holds for the machine is said once, not once a part
            told.add(text)
            tell(text)

    generator = np.random.default_rng(SEED)
    engines: dict[Part, StoredEngine] = {}
    lost: PowerLostError | None = None
    with (
        tempfile.TemporaryDirectory(prefix=".heartvit-edge-", dir=scratch) as folder,
        ExitStack() as stack,
    ):
        for part in grid.parts:
            step(f"building {_label(part)}")
            engines[part] = _build(part, target, Path(folder), generator, tell_once)
        processor = processor_of(engines[FIXED].manifest)
        sampler = stack.enter_context(choose(power, interval_s=interval_s, clock=clock, processor=processor))
        tell(f"power: {sampler.name} ({sampler.why})")
        windows = _measure(engines, target, schedule, generator, clock, tell, step)
        try:
            energy = energy_fields(grid, windows, sampler.stop())
        except NoPowerError as err:
            energy = no_energy_fields(str(err))
            lost = err if isinstance(err, PowerLostError) else None
    facts = {
        "shape": target.pack.shape,
        "machine": target.machine,
        "backend": target.backend,
        "precision": target.precision,
        "options": engines[FIXED].manifest.options,
        "batch_size": target.batch_size,
        "tokens": grid.tokens,
        "heads": grid.heads,
        "num_chained": NUM_CHAINED,
        "num_copies": target.num_copies,
        "num_rounds": schedule.num_trials,
        "created": created,
        "command": command,
        "tool_version": __version__,
    }
    return DeviceTable.model_validate(facts | latency_fields(grid, windows) | energy), lost


def _label(part: Part) -> str:
    tokens, heads = part
    if part == FIXED:
        return "all but the blocks"
    return f"{tokens} tokens, {heads} heads" if heads else f"{tokens} tokens, no block"


def _check_space(scratch: Path, target: Target, grid: Grid) -> None:
    """Return only if the engines of all chains, and the largest graph while it is built, find room."""
    shape, element = target.pack.shape, 4 if target.precision == "fp32" else 2
    mlp = shape.embed_dim * (shape.mlp_in_dim + shape.mlp_hidden_dim)
    weights = [NUM_CHAINED * (4 * shape.embed_dim * heads * shape.head_dim + mlp) for heads in grid.heads]
    needed, free = element * len(grid.tokens) * sum(weights) + 8 * max(weights), shutil.disk_usage(scratch).free
    if needed > free:
        raise MachineError(
            f"the engines of {len(grid.tokens)} token counts and {len(grid.heads)} head counts need about "
            f"{needed / 1e9:.1f} GB in {scratch} until the table is made, {free / 1e9:.1f} GB are free",
            hint=f"name a place on another disk, or fewer cells: --tokens {grid.tokens[0]} --heads {grid.heads[0]}",
        )


def _build(
    part: Part, target: Target, folder: Path, generator: np.random.Generator, tell: Callable[[str], None]
) -> StoredEngine:
    """Write the part's graph, build its engine as ``build-engine`` does, and remove the graph."""
    pack = target.pack
    tokens, heads = part
    name = f"{tokens}-{heads}"
    onnx = folder / f"{name}.onnx"
    if part == FIXED:
        ports = write_fixed(onnx, pack.shape, generator)
    else:
        ports = write_chain(onnx, pack.shape, tokens, heads, NUM_CHAINED if heads else 0, generator)
    changes = {
        "name": name,
        "onnx": onnx.name,
        "onnx_sha256": sha256_file(onnx),
        "inputs": (ports.input,),
        "outputs": (ports.output,),
    }
    entry = pack.entries[0].model_copy(update=changes)
    alone = pack.model_copy(update={"entries": (entry,), "sensitivity": None, "weights": None, "weights_sha256": None})
    place = build_engine(
        folder,
        alone,
        name,
        target.backend,
        target.precision,
        BatchRange(min=target.batch_size, opt=target.batch_size, max=target.batch_size),
        folder / "engines",
        target.machine,
        force=False,
        tell=tell,
    )
    onnx.unlink()
    return StoredEngine(EngineManifest.read(place / MANIFEST), place)


def _measure(
    engines: Mapping[Part, StoredEngine],
    target: Target,
    schedule: Schedule,
    generator: np.random.Generator,
    clock: Callable[[], float],
    tell: Callable[[str], None],
    step: Callable[[str], None],
) -> dict[Part, list[Trial]]:
    """Return each part's windows; one part is loaded at a time, since all of them would not fit into a board."""
    parts = list(engines)
    windows: dict[Part, list[Trial]] = {part: [] for part in parts}
    num_unsettled = 0
    for number in range(schedule.num_trials):
        for index in generator.permutation(len(parts)):
            part = parts[index]
            step(f"round {number + 1} of {schedule.num_trials}: {_label(part)}")
            manifest, folder = engines[part].manifest, engines[part].folder
            size = [target.batch_size if known is None else known for known in manifest.inputs[0].shape]
            inputs = [generator.standard_normal(size, dtype=np.float32) for _ in range(NUM_INPUTS)]
            with ExitStack() as stack:
                count = target.num_copies if part[1] else 1
                infer = _in_turn(
                    [stack.enter_context(open_runner(manifest, folder, target.choice)) for _ in range(count)]
                )
                _, variation = warm_up(infer, inputs, schedule.duration_s, clock)
                num_unsettled += variation is None or variation >= WARM_UP_CV
                windows[part].append(measure_window(infer, inputs, schedule.duration_s, clock))
    if num_unsettled:
        total = schedule.num_trials * len(parts)
        tell(f"latency had not settled when the warm-up ended at its cap in {num_unsettled} of {total} windows")
    return windows


def _in_turn(runners: Sequence[Runner]) -> Infer:
    """Return what runs a batch on the next runner, and after the last on the first again."""
    turns = itertools.cycle(runners)

    def infer(batch: NDArray[np.float32]) -> object:
        return next(turns).infer(batch)

    return infer
