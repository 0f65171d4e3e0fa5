"""Measurements with chosen samples, for tests of what is computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fakes.tiny_pack import make_tiny_pack

from heartvit_edge.spec.machine import Machine
from heartvit_edge.spec.measurement import EntryMeasurement, Measurement, PowerTrace, Trial

MACHINE = Machine(system="Linux x86_64", cpu="test", num_cpus=2, versions=(("python", "3.11"),))


def make_trial(start_s: float, latency_ms: Sequence[float], between_ms: float = 0.0) -> Trial:
    """Return a window of these calls back to back, with ``between_ms`` after each."""
    length_s = (sum(latency_ms) + between_ms * len(latency_ms)) / 1000
    return Trial(start_s=start_s, end_s=start_s + length_s, latency_ms=tuple(latency_ms))


def make_row(entry: str, trials: Sequence[Trial], batch_size: int = 1) -> EntryMeasurement:
    """Return a row of these windows."""
    return EntryMeasurement(
        entry=entry,
        batch_size=batch_size,
        engine_sha256="e" * 64,
        warm_up_count=20,
        warm_up_stable=True,
        trials=tuple(trials),
    )


def make_measurement(folder: Path, rows: Sequence[EntryMeasurement], power: PowerTrace | None = None) -> Measurement:
    """Return a run of the tiny pack, which is written to ``folder``, with these rows."""
    return Measurement(
        pack=make_tiny_pack(folder),
        machine=MACHINE,
        backend="onnxruntime",
        precision="fp32",
        created="2025-01-01T00:00:00+00:00",
        command="heartvit-edge bench pack --out run",
        rows=tuple(rows),
        power=power,
        no_power_reason=None if power else "there is no sensor",
    )
