"""``heartvit-edge doctor``: what this machine has, what it lacks, and which commands work on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from heartvit_edge import __version__
from heartvit_edge.cli import requirements
from heartvit_edge.engines.cuda_device import count_sms, why_no_cuda_device
from heartvit_edge.engines.fingerprint import ask_nvidia_smi, detect_machine, installed_version, package_versions
from heartvit_edge.engines.jetson import l4t_to_jetpack
from heartvit_edge.engines.onnxruntime_session import import_onnxruntime
from heartvit_edge.errors import MachineError
from heartvit_edge.power.choose import SOURCES, lacks
from heartvit_edge.spec.base import Spec
from heartvit_edge.spec.machine import Machine


class Finding(Spec):
    """One thing that was looked for.

    Attributes:
        name: What it is.
        found: Its version or description; None where it is missing or unusable.
        note: Why it is missing or unusable, or a remark on what was found.
    """

    name: str
    found: str | None
    note: str | None = None


class Ability(Spec):
    """Whether a command works here.

    Attributes:
        command: As it is typed, without its arguments.
        works: Whether everything that it needs is here; bad input can still end it.
        reason: What it lacks; None where it works.
        hint: What puts that right; None where it works, or where nothing that can be typed does.
    """

    command: str
    works: bool
    reason: str | None = None
    hint: str | None = None


class Diagnosis(Spec):
    """What ``doctor --json`` prints.

    Attributes:
        tool_version: heartvit-edge's own version.
        machine: The fingerprint that engines and measurements carry; None where it cannot be taken.
        jetpack: JetPack version; None off Jetson, or where the L4T release is not in the table.
        findings: What was looked for.
        commands: Every command, and whether it works.
    """

    tool_version: str
    machine: Machine | None
    jetpack: str | None
    findings: tuple[Finding, ...]
    commands: tuple[Ability, ...]


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON for a machine to read.")] = False) -> None:
    """Show what this machine has, and which commands work on it.

    Example: heartvit-edge doctor --json
    """
    diagnosis = diagnose()
    if json:
        typer.echo(diagnosis.model_dump_json(indent=1))
    else:
        _print(diagnosis)


def diagnose(root: Path = Path("/"), sms: Callable[[], int | None] = count_sms) -> Diagnosis:
    """Return what this machine has, and which commands work on it; what is missing is told, never raised.

    Args:
        root: Where system files are read from; packages are those of the running interpreter.
        sms: Counts the multiprocessors of the GPU.
    """
    machine: Machine | None = None
    jetpack = None
    try:
        machine = detect_machine(root, sms)
        jetpack = l4t_to_jetpack(machine.l4t) if machine.l4t else None
        here = _machine_findings(machine, jetpack)
    except MachineError as err:
        here = [Finding(name="machine", found=None, note=f"{err}: {err.hint}")]
    errors = {command: lacks() for command, lacks in requirements.commands(root).items()}
    return Diagnosis(
        tool_version=__version__,
        machine=machine,
        jetpack=jetpack,
        findings=(*here, *_package_findings(), *_power_findings(root)),
        commands=tuple(
            Ability(command=command, works=not error, reason=str(error) if error else None, hint=error and error.hint)
            for command, error in errors.items()
        ),
    )


def _machine_findings(machine: Machine, jetpack: str | None) -> list[Finding]:
    versions = dict(machine.versions)
    findings = [
        Finding(name="Python", found=versions["python"]),
        Finding(name="system", found=machine.system),
        Finding(name="processor", found=f"{machine.cpu}, {machine.num_cpus} usable"),
        Finding(name="board", found=machine.board, note=None if machine.board else "this is no Jetson"),
    ]
    if machine.board:
        release = f"JetPack {jetpack}" if jetpack else "of a JetPack that this version does not know"
        findings += [
            Finding(name="L4T", found=machine.l4t, note=release if machine.l4t else "/etc/nv_tegra_release is missing"),
            Finding(
                name="power mode",
                found=machine.power_mode,
                note=None if machine.power_mode else "nvpmodel has stored none in /var/lib/nvpmodel/status",
            ),
        ]
    if machine.gpu:
        sms = f", {machine.num_sms} multiprocessors" if machine.num_sms else ""
        gpu = Finding(name="GPU", found=f"{machine.gpu}, compute capability {machine.compute_capability}{sms}")
    else:
        gpu = Finding(name="GPU", found=None, note=_why_no_gpu(machine))
    return [*findings, gpu, Finding(name="CUDA", found=machine.cuda, note=why_no_cuda_device())]


def _why_no_gpu(machine: Machine) -> str | None:
    if machine.board:
        return "this version does not know the board's chip"
    try:
        ask_nvidia_smi()
    except MachineError as err:
        return str(err)
    return None


def _package_findings() -> list[Finding]:
    versions = dict(package_versions())
    cuda_version = installed_version("cuda-python", "cuda-bindings")
    runtime = _finding("ONNX Runtime", versions.get("onnxruntime"), requirements.lacks_onnxruntime())
    if runtime.found:
        providers = ", ".join(import_onnxruntime().get_available_providers())
        runtime = runtime.model_copy(update={"note": f"built with {providers}"})
    return [
        *(_package(name, installed_version(name), requirements.INSTALL_HOST) for name in requirements.HOST_PACKAGES),
        _package("onnx", installed_version("onnx"), "pip install 'heartvit-edge[onnxruntime]'"),
        runtime,
        _finding("ONNX Runtime on CUDA", "its libraries load", requirements.lacks_cuda_provider()),
        _finding("TensorRT", versions.get("tensorrt"), requirements.lacks_tensorrt()),
        _package("cuda.bindings", cuda_version, "pip install cuda-python"),
        _package("pycuda", installed_version("pycuda"), "pip install pycuda"),
    ]


def _power_findings(root: Path) -> list[Finding]:
    found = {"ina3221": "its rails answer", "jtop": "its service listens", "nvml": "a GPU tells its power"}
    return [
        _finding(f"power: {source}", found.get(source, "its counters answer"), lacks(source, root))
        for source in SOURCES
    ]


def _package(module: str, version: str | None, install: str) -> Finding:
    if requirements.importable(module):
        return Finding(name=module, found=version or "of unknown version")
    return Finding(name=module, found=None, note=f"not installed: {install}")


def _finding(name: str, found: str | None, error: MachineError | None) -> Finding:
    if error:
        return Finding(name=name, found=None, note=str(error))
    return Finding(name=name, found=found or "of unknown version")


def _print(diagnosis: Diagnosis) -> None:
    """Print plain lines that no terminal width breaks, so that every hint can be copied."""
    typer.echo(f"heartvit-edge {diagnosis.tool_version}\n")
    width = max(len(finding.name) for finding in diagnosis.findings)
    for finding in diagnosis.findings:
        note = f"  ({finding.note})" if finding.note else ""
        typer.echo(f"{finding.name:<{width}}  {finding.found or '-'}{note}")
    typer.echo("\nworks  command")
    for ability in diagnosis.commands:
        typer.echo(f"{'yes' if ability.works else 'no':<5}  heartvit-edge {ability.command}")
        if ability.reason:
            typer.echo(f"{'':<9}lacks: {ability.reason}")
        if ability.hint:
            typer.echo(f"{'':<9}try:   {ability.hint}")
