"""``heartvit-edge engines``: what lies in the store, whether it is whole, what could go, and where its time goes."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from heartvit_edge.cli import engine_options as options
from heartvit_edge.cli import engine_times
from heartvit_edge.cli.console import say
from heartvit_edge.cli.table import aligned
from heartvit_edge.errors import CheckError, MachineError

Store = Annotated[Path, typer.Option("--engines", help="Where `heartvit-edge build-engine` stored the engines.")]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="List, check, time and remove built engines.")

app.command("time")(engine_times.time_engines)


@app.command("list")
def list_(engines: Store = Path("engines"), json: options.Json = False) -> None:
    """List every engine of the store, and whether it fits this machine. Nothing is hashed.

    Example: heartvit-edge engines list
    """
    from heartvit_edge.engines.fingerprint import detect_machine
    from heartvit_edge.engines.inventory import list_engines

    found = list_engines(engines, detect_machine())
    if json:
        rows = [
            {
                "folder": str(one.folder),
                "num_bytes": one.num_bytes,
                "unfit": one.unfit or None,
                "manifest": one.manifest and one.manifest.model_dump(mode="json"),
            }
            for one in found
        ]
        typer.echo(jsonlib.dumps(rows, indent=1))
        return
    table = []
    for one in found:
        manifest = one.manifest
        batch = f"{manifest.batch.min}:{manifest.batch.opt}:{manifest.batch.max}" if manifest else "-"
        fused = dict(manifest.facts).get("fused_attention", "-").partition(":")[0] if manifest else "-"
        fits = "yes" if not one.unfit else "no"
        name = str(one.folder.relative_to(engines))
        table.append((name, batch, f"{one.num_bytes / 1e6:.1f}", fused, fits))
    typer.echo(aligned(("engine", "batch", "MB", "attention fused", "fits"), table))
    for one in found:
        if one.unfit:
            say(f"{one.folder}: {one.unfit}")


@app.command()
def verify(engines: Store = Path("engines")) -> None:
    """Hash every engine of the store, and compare where it was built with this machine.

    Exits with 5 if one was altered, and with 3 if all are whole and one was built elsewhere.

    Example: heartvit-edge engines verify
    """
    from heartvit_edge.engines.fingerprint import detect_machine
    from heartvit_edge.engines.inventory import verify_engines

    results = verify_engines(engines, detect_machine())
    for folder, error in results:
        typer.echo(f"{'whole' if error is None else 'unfit':<6} {folder}")
        if error is not None:
            say(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
    errors = [error for _, error in results if error is not None]
    if errors:
        foreign = all(isinstance(error, MachineError) for error in errors)
        kind = MachineError if foreign else CheckError
        raise kind(
            f"{len(errors)} of {len(results)} engines in {engines} cannot be used here",
            hint="build them again as said above, or remove them: heartvit-edge engines prune --force",
        )


@app.command()
def prune(
    engines: Store = Path("engines"),
    force: Annotated[bool, typer.Option("--force", help="Remove them; without it they are only listed.")] = False,
) -> None:
    """List, or with --force remove, what no run on this machine can use.

    That is altered engines, engines and kernel timings of other machines or versions, and what killed builds left.
    Engines that were built in another power mode stay.

    Example: heartvit-edge engines prune --force
    """
    from heartvit_edge.engines.fingerprint import detect_machine
    from heartvit_edge.engines.inventory import engine_folders, find_waste, remove
    from heartvit_edge.engines.store_lock import lock_store

    engine_folders(engines)  # refuses what is no folder before the lock would make it
    machine = detect_machine()
    with lock_store(engines, say):
        waste = find_waste(engines, machine)
        for one in waste:
            if force:
                remove(one)
            typer.echo(one.path)
            say(f"{'removed' if force else 'would remove'} {one.path}: {one.reason}")
    if waste and not force:
        say("nothing was removed: add --force")
