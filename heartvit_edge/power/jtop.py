"""Power rails of a Jetson, and its power modes, through jtop, the service of jetson-stats.

The package itself is imported in another process alone: see :mod:`heartvit_edge.power.jtop_client`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from typing_extensions import Self

from heartvit_edge.errors import MachineError
from heartvit_edge.power.recording import Recording
from heartvit_edge.power.sampler import Clock, PowerLostError
from heartvit_edge.power.totals import total_rule
from heartvit_edge.spec.measurement import PowerTrace

SOCKET = Path("/run/jtop.sock")
"""Where the service listens; in a container it must be mounted."""

MAX_SILENCE_INTERVALS = 10
"""Intervals without a new reading, and at least two seconds, after which the service counts as lost."""

CONNECT_S = 20.0
"""How long the service may take to answer: it loads for a while after a boot."""

INSTALL_HINT = "pip install 'heartvit-edge[jetson]' && sudo jtop --install-service, then log in again"
SERVICE_HINT = "sudo systemctl restart jtop.service (first time: sudo jtop --install-service, then log in again)"

OURS = Path(__file__).resolve().parents[2]
"""Folder that holds this package, so that the other process imports the same one."""

CLIENT = (sys.executable, "-m", "heartvit_edge.power.jtop_client")


def why_unusable(socket: Path = SOCKET) -> MachineError | None:
    """Return what stands against reading jtop on this machine, without connecting; None if nothing does."""
    if importlib.util.find_spec("jtop") is None:
        return MachineError("jetson-stats is not installed: there is no Python package jtop", hint=INSTALL_HINT)
    if not socket.exists():
        return MachineError(f"the jtop service is not running: {socket} is missing", hint=SERVICE_HINT)
    return None


class JtopClient:
    """The other process: its messages, and what it is told."""

    def __init__(self, interval_s: float, keep: Callable[[dict[str, Any]], None], command: Sequence[str]) -> None:
        """Start it, and wait until the service has answered.

        Args:
            interval_s: Time between readings to ask the service for.
            keep: Takes each reading, in a thread of its own.
            command: What runs the client; the interval is added.

        Raises:
            MachineError: If jetson-stats is missing, or its service does not answer or has another version.
        """
        self._keep = keep
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.error: str | None = None
        # A session of its own: Ctrl-C in the terminal is for us, who then end it, and it puts the power mode back.
        self._process = subprocess.Popen(
            [*command, str(interval_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd="/",  # nothing in the user's folder is imported by chance
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(OURS), os.environ.get("PYTHONPATH", "")])},
        )
        self._listener = threading.Thread(target=self._listen, name="jtop", daemon=True)
        self._listener.start()
        try:
            self.ready: dict[str, Any] = self._answer("ready", CONNECT_S)
        except MachineError:
            self.close(0)
            raise

    def set_mode(self, name: str, within_s: float) -> None:
        """Set a power mode by name and wait until it is in force.

        Raises:
            MachineError: If it is not within that many seconds.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{name}\n")
            self._process.stdin.flush()
        except OSError as err:
            raise MachineError(f"jtop was lost: {self.error or err}", hint=SERVICE_HINT) from err
        answer = self._answer("mode", within_s)
        if answer["failure"]:
            raise MachineError(answer["failure"], hint=f"sudo nvpmodel -q; a mode that needs a reboot: {name}")

    def close(self, within_s: float) -> None:
        """End its input, on which it puts the former power mode back, and end it at the latest after that time.

        Raises:
            MachineError: If it could not put the former power mode back.
        """
        before = self.error
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass  # it has gone already
        try:
            code: int | None = self._process.wait(timeout=within_s)
        except subprocess.TimeoutExpired:
            code = None
            self._process.kill()
            self._process.wait()
        self._listener.join(timeout=1)
        self._process.stdout.close()
        if code != 0 and within_s:
            raise MachineError(self.error or before or "the jtop client did not answer", hint=SERVICE_HINT)

    def _answer(self, key: str, within_s: float) -> Any:  # noqa: ANN401 - what the message holds
        try:
            message = self._answers.get(timeout=within_s)
        except queue.Empty:
            raise MachineError(
                f"the jtop service cannot be read: no answer came within {within_s:g} s", hint=SERVICE_HINT
            ) from None
        if "error" in message:
            hint = INSTALL_HINT if "missing" in message else SERVICE_HINT
            raise MachineError(f"the jtop service cannot be read: {message['error']}", hint=hint)
        return message[key] if key != "mode" else message

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if "reading" in message:
                self._keep(message["reading"])
                continue
            self.error = message.get("error", self.error)
            self._answers.put(message)
        self.error = self.error or "its client ended"
        self._answers.put({"error": self.error})


class JtopSampler:
    """Collects every reading that the jtop service sends.

    The service runs at the interval of its first client, so the rate may be another than the one asked for: the trace
    carries the service's interval, and its times are those of arrival.

    Attributes:
        name: ``jtop``.
        why: Why it was chosen.
        labels: The board's rails.
    """

    name = "jtop"

    def __init__(
        self,
        clock: Clock,
        interval_s: float,
        why: str,
        sleep: Callable[[float], None] = time.sleep,
        command: Sequence[str] = CLIENT,
    ) -> None:
        """Prepare a client that asks the service for a reading every ``interval_s`` seconds."""
        self.why = why
        self.labels: tuple[str, ...] = ()
        self._clock = clock
        self._asked_s = interval_s
        self._sleep = sleep
        self._command = command
        self._recording = Recording()
        self._resolution_mw = 1.0  # jtop cuts each reading to whole milliwatts
        self._first = threading.Event()

    def __enter__(self) -> Self:
        """Connect, take the first reading and begin to collect.

        Raises:
            MachineError: If jetson-stats is missing, its service does not answer or has another version, or the board
                has no power rail.
        """
        self._offset_s = time.perf_counter() - self._clock()
        self._client = JtopClient(self._asked_s, self._add, self._command)
        self._interval_s = float(self._client.ready["interval_s"])
        if not self._first.wait(max(2.0, MAX_SILENCE_INTERVALS * self._interval_s)) or not self._recording.labels:
            self._client.close(0)
            raise MachineError(
                "jtop reports no power rail on this board, expected at least one",
                hint="measure without energy: --power none",
            )
        self.labels = self._recording.labels
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the client; one that hangs with its service is killed."""
        self._client.close(0)

    def stop(self) -> PowerTrace:
        """Wait for one reading more and return all of them.

        Raises:
            PowerLostError: If the service stopped sending before this call.
        """
        asked = self._clock()
        silence_s = max(2.0, MAX_SILENCE_INTERVALS * self._interval_s)
        while self._recording.last_s < asked:
            if self._client.error:
                self._lost(self._client.error)
            if self._clock() - asked > silence_s:
                self._lost(f"no new reading came for {self._clock() - self._recording.last_s:.1f} s")
            self._sleep(min(0.02, self._asked_s / 4))
        return self._recording.trace(
            self.name,
            *total_rule(self.labels),
            interval_ms=1000 * self._interval_s,
            resolution_mw=dict.fromkeys(self.labels, self._resolution_mw),
        )

    def _add(self, reading: dict[str, Any]) -> None:
        """Store what the service has sent; the times of both processes are on one monotonic clock."""
        self._recording.add(reading["monotonic_s"] - self._offset_s, reading["rails_mw"], stamp=reading["stamp"])
        self._first.set()

    def _lost(self, reason: str) -> NoReturn:
        raise PowerLostError(
            f"jtop was lost {self._recording.last_s:.1f} s into the run ({len(self._recording)} readings): {reason}",
            hint=SERVICE_HINT,
        )
