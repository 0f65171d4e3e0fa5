"""Where engines lie, and which of them may be used here."""

from __future__ import annotations

import shlex
from pathlib import Path

from heartvit_edge.engines.fingerprint import explain_difference
from heartvit_edge.errors import CheckError, InputError, MachineError
from heartvit_edge.spec.engine import Backend, BatchRange, BuildSettings, EngineManifest, Precision
from heartvit_edge.spec.files import check_sha256
from heartvit_edge.spec.machine import Machine

MANIFEST = "manifest.json"
LAYERS = "layers.json"


def build_command(
    pack: str,
    entry: str | None,
    backend: Backend,
    precision: Precision,
    *,
    batch: BatchRange,
    engines: Path,
    force: bool,
    settings: BuildSettings | None = None,
) -> str:
    """Return the command line that builds one engine, or those of all entries.

    Args:
        pack: Folder of the pack, or ``PACK`` where it is not known.
        entry: Name of the pack's entry; None for all of them.
        backend: What runs the engine.
        precision: Element type of its matrix products.
        batch: Batch sizes that it serves.
        engines: The store.
        force: Whether an engine that exists is replaced.
        settings: How a TensorRT engine is built.
    """
    settings = settings or BuildSettings()
    words = ["heartvit-edge", "build-engine", pack, "--backend", backend, "--precision", precision]
    words += ["--budget", entry] if entry is not None else []
    words += ["--batch-size", f"{batch.min}:{batch.opt}:{batch.max}", "--engines", str(engines)]
    if settings.optimization_level != BuildSettings().optimization_level:
        words += ["--optimization-level", str(settings.optimization_level)]
    words += ["--sparse"] if settings.sparse else []
    return shlex.join([*words, "--force"] if force else words)


def rebuild_command(manifest: EngineManifest, folder: Path) -> str:
    """Return the command line that builds an engine of the store again, from a pack that is not known here."""
    return build_command(
        "PACK",
        manifest.entry,
        manifest.backend,
        manifest.precision,
        batch=manifest.batch,
        engines=folder.parent.parent,
        force=True,
        settings=settings_of(manifest),
    )


def settings_of(manifest: EngineManifest) -> BuildSettings:
    """Return how an engine was built; the default where ONNX Runtime is the backend, which takes no other."""
    options = dict(manifest.options)
    return BuildSettings(
        optimization_level=int(options.get("optimization_level", BuildSettings().optimization_level)),
        sparse=options.get("sparse_weights") == "on",
    )


def load_engine(folder: Path, machine: Machine, *, any_power_mode: bool = False) -> EngineManifest:
    """Return the manifest of an engine that is whole and was built on this machine.

    The hash comes first: an engine file is code, and nothing of an altered one may be loaded.

    Args:
        folder: From :func:`heartvit_edge.engines.engine_name.engine_folder`.
        machine: Where it shall run.
        any_power_mode: Let it run in another power mode than it was built in.

    Raises:
        InputError: If there is no engine, or its manifest is malformed.
        CheckError: If the engine file was altered.
        MachineError: If it was built on another machine or with other versions; the message names what differs.
    """
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"there is no engine in {folder}", hint="build it with: heartvit-edge build-engine PACK, then try again"
        )
    manifest = EngineManifest.read(folder / MANIFEST)
    again = rebuild_command(manifest, folder)
    for name, sha256 in manifest.files:
        check_sha256(folder / name, sha256, hint=f"build it again: {again}")
    differences = explain_difference(manifest.machine, machine, manifest.backend, any_power_mode=any_power_mode)
    if differences:
        only_mode = not explain_difference(manifest.machine, machine, manifest.backend, any_power_mode=True)
        raise MachineError(
            f"the engine in {folder} was built on another machine{' setting' if only_mode else ''}: "
            f"{'; '.join(differences)}",
            hint=f"build it for this machine: {again}"
            + ("; or run it all the same: --any-power-mode" if only_mode else ""),
        )
    return manifest


def reusable_engine(folder: Path, wanted: EngineManifest, command: str) -> EngineManifest:
    """Return the manifest of the engine in ``folder`` if it is what ``wanted`` asks for.

    Args:
        folder: An engine's folder, which exists.
        wanted: What would be built; its hash and build time are not compared.
        command: What replaces the engine, for the messages.

    Raises:
        InputError: If the folder holds no engine, or one that was built from or for something else.
        CheckError: If the engine file was altered.
    """
    hint = f"replace it: {command}"
    try:
        found = EngineManifest.read(folder / MANIFEST)
        for name, sha256 in found.files:
            check_sha256(folder / name, sha256, hint=hint)
    except InputError as err:
        raise InputError(f"{folder} exists but holds no whole engine: {err}", hint=hint) from err
    differences = [
        f"{field} is {getattr(found, field)!r}, wanted {getattr(wanted, field)!r}"
        for field in (
            "entry",
            "backend",
            "precision",
            "onnx_sha256",
            "inputs",
            "outputs",
            "num_keep",
            "buckets",
            "budgets",
            "tool_version",
        )
        if getattr(found, field) != getattr(wanted, field)
    ]
    if found.batch != wanted.batch:
        was, now = (f"{b.min}:{b.opt}:{b.max}" for b in (found.batch, wanted.batch))
        differences.append(f"batch size is {was}, wanted {now}")
    was_told, shall_be_told = dict(found.options), dict(wanted.options)
    differences += [
        f"{name} is {was_told.get(name)}, wanted {shall_be_told.get(name)}"
        for name in sorted(was_told.keys() | shall_be_told.keys())
        if was_told.get(name) != shall_be_told.get(name)
    ]
    differences += explain_difference(found.machine, wanted.machine, wanted.backend)
    if differences:
        raise InputError(f"the engine in {folder} is another one: {'; '.join(differences)}", hint=hint)
    return found


def option(manifest: EngineManifest, name: str) -> str:
    """Return what the builder was told under ``name``.

    Raises:
        CheckError: If the manifest does not say.
    """
    for key, value in manifest.options:
        if key == name:
            return value
    raise CheckError(
        f"the manifest of engine {manifest.entry} ({manifest.backend}) has no option {name!r}",
        hint="build it again: heartvit-edge build-engine PACK --force",
    )
