"""Which built engines of a pack a run uses."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from heartvit_edge.engines import engine_name, store
from heartvit_edge.engines.onnxruntime_session import CPU
from heartvit_edge.errors import InputError
from heartvit_edge.power.choose import Processor
from heartvit_edge.spec.engine import Backend, BatchRange, EngineManifest, Precision
from heartvit_edge.spec.layers import EngineLayers
from heartvit_edge.spec.machine import Machine
from heartvit_edge.spec.pack import BudgetPack


@dataclass(frozen=True)
class StoredEngine:
    """An engine that is whole and fit for this machine.

    Attributes:
        manifest: What it was built from.
        folder: Where it lies.
    """

    manifest: EngineManifest
    folder: Path

    @property
    def kind(self) -> engine_name.Kind:
        """Return what it has in common with the other engines of a run."""
        variant = engine_name.variant_name(self.manifest.batch, store.settings_of(self.manifest))
        return engine_name.Kind(self.manifest.backend, self.manifest.precision, variant)


def find_engines(
    pack_folder: Path,
    pack: BudgetPack,
    entries: Sequence[str],
    engines: Path,
    backend: Backend | None,
    precision: Precision | None,
    machine: Machine,
    *,
    variant: str | None = None,
    any_power_mode: bool = False,
) -> tuple[StoredEngine, ...]:
    """Return one engine an entry, all of one backend, precision and variant.

    Args:
        pack_folder: Where the pack lies, for the hints.
        pack: Its manifest.
        entries: Names of the pack's entries, in the order to return.
        engines: The store.
        backend: What must run them; None for the one that was built.
        precision: Their precision; None for the one that was built.
        machine: Where they shall run.
        variant: Batch sizes and settings that they were built for, by their name; None for the one that was built.
        any_power_mode: Let them run in another power mode than they were built in.

    Raises:
        InputError: If none was built, engines of several kinds were and the arguments leave it open, one entry has no
            engine, or an engine was built from another graph.
        CheckError: If an engine file was altered.
        MachineError: If an engine was built on another machine.
    """
    stored = engine_name.stored_kinds(engines, pack, entries)
    asked = {"backend": backend, "precision": precision, "variant": variant}
    built = [kind for kind in stored if all(value in (None, getattr(kind, name)) for name, value in asked.items())]
    if not built:
        what = " ".join(word for word in asked.values() if word)
        only = f"; it holds {', '.join(map(str, stored))}" if stored else ""
        raise InputError(
            f"{engines} holds no {what + ' ' if what else ''}engine of {pack_folder} for {', '.join(entries)}{only}",
            hint="write --variant default, or another's name as `heartvit-edge engines list` shows it"
            if variant and engine_name.variant_options(variant) is None
            else _build(pack_folder, engines, backend, precision, variant),
        )
    kind = built[0]
    if len(built) > 1:
        variants = len({one.variant for one in built}) > 1
        raise InputError(
            f"{engines} holds engines of several kinds: {', '.join(map(str, built))}; expected a choice of one",
            hint=f"add --backend {kind.backend} --precision {kind.precision}"
            + (f" --variant {kind.variant}" if variants else ""),
        )
    places = [engine_name.engine_folder(engines, pack, entry, kind) for entry in entries]
    missing = [entry for entry, place in zip(entries, places, strict=True) if not place.is_dir()]
    if missing:
        raise InputError(
            f"{engines} holds no {kind} engine of {pack_folder} for {', '.join(missing)}",
            hint=_build(pack_folder, engines, *kind),
        )
    found_engines = tuple(
        StoredEngine(store.load_engine(place, machine, any_power_mode=any_power_mode), place) for place in places
    )
    for entry, engine in zip(entries, found_engines, strict=True):
        made = pack.entry(entry)
        graphs = {made.onnx_sha256, *(one.onnx_sha256 for one in made.others if one.precision == kind.precision)}
        if engine.manifest.onnx_sha256 not in graphs:
            raise InputError(
                f"the engine in {engine.folder} was built from another graph than {entry} of {pack_folder}",
                hint=f"{_build(pack_folder, engines, *kind)} --force",
            )
    return found_engines


def read_layers(engines: Sequence[StoredEngine], tell: Callable[[str], None]) -> tuple[EngineLayers, ...]:
    """Return the layer tables that lie beside engines, each once.

    A table explains figures and changes none, so one that cannot be read, or is another engine's, is told and left out.

    Args:
        engines: Any; those of ONNX Runtime have none.
        tell: Takes a remark for the user.
    """
    found: dict[tuple[str, str | None], EngineLayers] = {}
    for engine in engines:
        path = engine.folder / store.LAYERS
        if not path.is_file():
            continue
        try:
            layers = EngineLayers.read(path)
        except InputError as err:
            tell(f"the layer table of {engine.manifest.entry} is left out: {err}")
            continue
        if layers.engine_sha256 != engine.manifest.sha256:
            tell(f"the layer table of {engine.manifest.entry} is left out: {path} is of another engine")
            continue
        found[layers.engine_sha256, layers.budget] = layers
    return tuple(found.values())


def processor_of(manifest: EngineManifest) -> Processor:
    """Return what runs an engine: the GPU, unless it was built for ONNX Runtime's CPU provider."""
    return "cpu" if ("provider", CPU) in manifest.options else "gpu"


def check_batch_sizes(
    pack_folder: Path, engines: Path, found: Sequence[StoredEngine], batch_sizes: Sequence[int]
) -> None:
    """Return only if every engine serves every batch size.

    Raises:
        InputError: If one does not; the hint builds it for all of them.
    """
    for engine in found:
        manifest, served = engine.manifest, engine.manifest.batch
        settings = store.settings_of(manifest)
        outside = [size for size in batch_sizes if not served.min <= size <= served.max]
        if outside and (only := manifest.fixed_batch) is not None:
            raise InputError(
                f"the graph of {manifest.entry} has a constant batch of {only}, found {outside[0]}",
                hint=f"--batch-size {only}, or export the pack again without --fixed-batch {only}",
            )
        if outside:
            wider = BatchRange(min=min(served.min, *batch_sizes), opt=served.opt, max=max(served.max, *batch_sizes))
            command = store.build_command(
                str(pack_folder),
                None,
                manifest.backend,
                manifest.precision,
                batch=wider,
                engines=engines,
                force=False,
                settings=settings,
            )
            raise InputError(
                f"the engine of {manifest.entry} serves batch sizes {served.min} to {served.max}, found {outside[0]}",
                hint=f"build others: {command}; then add --variant {engine_name.variant_name(wider, settings)}",
            )


def _build(
    pack_folder: Path, engines: Path, backend: Backend | None, precision: Precision | None, variant: str | None
) -> str:
    words = ["heartvit-edge", "build-engine", str(pack_folder)]
    words += ["--backend", backend] if backend else []
    words += ["--precision", precision] if precision else []
    words += engine_name.variant_options(variant or engine_name.DEFAULT) or []
    return "build them with: " + shlex.join([*words, "--engines", str(engines)])
