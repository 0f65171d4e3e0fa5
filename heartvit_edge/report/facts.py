"""What was run, where and how, as names and values for the page and the Markdown file."""

from __future__ import annotations

from collections.abc import Sequence

from heartvit_edge.bench.energy_figures import achieved_rate_hz
from heartvit_edge.bench.scenario import HEADLINES, best_offline
from heartvit_edge.report.runs import Run
from heartvit_edge.spec.measurement import Measurement
from heartvit_edge.spec.model import ImageSetRef

SHORT_HASH = 12
"""Digits of a hash that the tables show."""


def headline(run: Run) -> dict[str, str]:
    """Return the few facts without which no figure of the run means anything."""
    found = {}
    if run.pack:
        shape = run.pack.shape
        found["Model"] = run.pack.source.name
        found["Input"] = f"{shape.img_size} px, {shape.num_patches} patches, {shape.depth} blocks"
        found["Pack"] = f"{', '.join(entry.name for entry in run.pack.entries)} ({run.pack.digest()[:SHORT_HASH]})"
    elif run.evaluation:
        found["Pack"] = run.evaluation.pack_sha256[:SHORT_HASH]
    if run.measurement:
        machine = run.measurement.machine
        found["Machine"] = machine.board or machine.gpu or f"{machine.cpu}, {machine.num_cpus} CPUs"
        found["Backend"] = f"{run.measurement.backend}, {run.measurement.precision}"
        found["Power mode"] = machine.power_mode or "none: this machine has no nvpmodel"
        found["Requests"] = _requests(run.measurement)
        counts = [sum(len(trial.latency_ms) for trial in row.trials) for row in run.measurement.rows]
        each = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
        found["Windows"] = f"{_windows(run.measurement)}, {each} inferences"
        found["Energy"] = _energy(run) if run.measurement.power else _cause(run.measurement.no_power_reason or "")
    elif run.evaluation:
        found["Backend"] = f"{run.evaluation.backend}, {run.evaluation.precision}"
        found["Machine"] = "none: the run has no measurement.json"
    found["Images"] = _images(run)
    return found


def environment(run: Run) -> dict[str, str | None]:
    """Return everything known of the machine and of what the figures were made from; None where there is nothing."""
    found: dict[str, str | None] = {}
    if run.measurement:
        machine = run.measurement.machine
        found = {
            "Measured at (UTC)": run.measurement.created,
            "System": machine.system,
            "CPU": f"{machine.cpu}, {machine.num_cpus} usable",
            "Board": machine.board,
            "L4T": machine.l4t,
            "Power mode": machine.power_mode,
            "GPU": machine.gpu,
            "Compute capability": machine.compute_capability,
            "Multiprocessors": None if machine.num_sms is None else str(machine.num_sms),
            "CUDA": machine.cuda,
            "Backend": f"{run.measurement.backend}, {run.measurement.precision}",
            "Requests": _requests(run.measurement),
            "Windows": _windows(run.measurement),
            "Engines built for": run.measurement.variant,
        }
        if run.measurement.power:
            trace = run.measurement.power
            found["Power source"] = trace.source
            found["Power readings"] = _energy(run).removeprefix(f"{trace.source}, ")
            found["Total power"] = f"{' + '.join(trace.total_rails)}: {trace.total_rule}"
        found |= {f"{name} version": version for name, version in machine.versions}
    if run.pack:
        source = run.pack.source
        found |= {
            "Model": source.name,
            "Model arguments": ", ".join(f"{name}={value}" for name, value in source.model_kwargs) or "none",
            "Weights": ", ".join(source.weights) or "timm's pretrained weights",
            "Weights SHA-256": source.weights_sha256[:SHORT_HASH],
            "Calibration images": _set(run.pack.calibration) if run.pack.calibration else None,
            "heartvit-edge version": run.pack.tool_version,
            "Pack SHA-256": run.pack.digest()[:SHORT_HASH],
        }
    if run.evaluation:
        found["Pack SHA-256"] = run.evaluation.pack_sha256[:SHORT_HASH]
        found["Evaluated images"] = _set(run.evaluation.images)
        found["Evaluated with"] = f"{run.evaluation.backend}, {run.evaluation.precision}"
    return found


def _requests(measurement: Measurement) -> str:
    """Return how requests came, without which no latency means anything."""
    if measurement.arrival_per_s is not None:
        return f"at random, {measurement.arrival_per_s:g} a second; latencies contain waiting"
    if measurement.scenario is None:
        return "each as the one before is answered"
    judged = f"MLPerf's {measurement.scenario}, judged by {HEADLINES[measurement.scenario]}"
    if measurement.scenario != "offline":
        return judged
    best = ", ".join(f"{size} ({entry})" for entry, size in best_offline(measurement).items())
    return f"{judged}: most at batch size {best}"


def _windows(measurement: Measurement) -> str:
    """Return how many windows each row has, and how long they are."""
    number = max(len(row.trials) for row in measurement.rows)
    seconds = [trial.end_s - trial.start_s for row in measurement.rows for trial in row.trials]
    return f"{number} of {float(f'{min(seconds):.2g}'):g} s for each engine and batch size, in turn"


def commands(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Map each command that made files of these runs to the labels of those that it made."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for stored in (run.measurement, run.evaluation):
            if stored is not None:
                found.setdefault(stored.command, []).append(run.label)
    return found


def _energy(run: Run) -> str:
    assert run.measurement is not None
    trace = run.measurement.power
    if trace is None:
        return f"none: {run.measurement.no_power_reason}"
    rate = achieved_rate_hz(trace)
    achieved = f", {rate:.3g} readings a second" if rate else ""
    return f"{trace.source}{achieved}"


def _cause(reason: str) -> str:
    """Return why there is no energy, in few words; the section on power has all of them."""
    return f"none: {reason.split(': ')[0]}"


def _images(run: Run) -> str:
    if run.evaluation is None:
        return "none: the run has no evaluation.json"
    labelled = "labelled" if run.evaluation.images.labelled else "unlabelled"
    return f"{run.evaluation.num_images:,} of {run.evaluation.images.name}, {labelled}"


def _set(images: ImageSetRef) -> str:
    drawn = "all in order" if images.seed is None else f"drawn with seed {images.seed}"
    return f"{images.num_images:,} of {images.name}, {drawn}, SHA-256 {images.sha256[:SHORT_HASH]}"
