"""How far a TensorRT build is, where the version tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Progress = Callable[[str, int, int], None]
"""Told a phase's name, the steps done and the steps there are."""


def progress_monitor(trt: Any, progress: Progress, stop: Callable[[], bool]) -> Any:  # noqa: ANN401
    """Return a progress monitor for a builder; None before TensorRT 10, which has none.

    Args:
        trt: The tensorrt module.
        progress: Told when a phase begins, and after each of its steps. It may run in another thread, and must not
            raise: no Python exception may cross TensorRT.
        stop: Asked after each step whether the build shall end early.
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base has no types
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.totals: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            self.totals[phase_name] = num_steps
            progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, step + 1, self.totals.get(phase_name, step + 1))
            return not stop()

        def phase_finish(self, phase_name: str) -> None:
            total = self.totals.pop(phase_name, 0)
            progress(phase_name, total, total)

    return Monitor()
