"""Power rails of a Jetson through jtop, the service of jetson-stats. The only file that imports it."""

from __future__ import annotations

import importlib.util
import queue
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from typing_extensions import Self

from heartvit_edge.errors import MachineError
from heartvit_edge.power.recording import Recording
from heartvit_edge.power.sampler import Clock, PowerLostError
from heartvit_edge.spec.measurement import PowerTrace

SOCKET = Path("/run/jtop.sock")
"""Where the service listens; in a container it must be mounted."""

INPUT_RAILS = ("VIN", "VDD_IN", "POM_5V_IN")
"""Labels of a rail that carries the whole input: of the carrier board (VIN) or of the module."""

MAX_SILENCE_INTERVALS = 10
"""Intervals without a new reading, and at least two seconds, after which the service counts as lost."""

INSTALL_HINT = "pip install 'heartvit-edge[jetson]' && sudo jtop --install-service, then log in again"
SERVICE_HINT = "sudo systemctl restart jtop.service (first time: sudo jtop --install-service, then log in again)"


def why_unusable(socket: Path = SOCKET) -> MachineError | None:
    """Return what stands against reading jtop on this machine, without connecting; None if nothing does."""
    if importlib.util.find_spec("jtop") is None:
        return MachineError("jetson-stats is not installed: there is no Python package jtop", hint=INSTALL_HINT)
    if not socket.exists():
        return MachineError(f"the jtop service is not running: {socket} is missing", hint=SERVICE_HINT)
    return None


def total_rule(labels: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Return the rails that add up to the total, and why those, in words for the report."""
    for label in INPUT_RAILS:
        if label in labels:
            what = "the carrier board" if label == "VIN" else "the whole module"
            return (label,), f"{label} carries the input of {what}, so it alone is the total"
    rails = " + ".join(labels)
    return labels, f"the board has no input rail ({', '.join(INPUT_RAILS)}), so the total is the sum {rails}"


class JtopSampler:
    """Collects every reading that the jtop service sends, in the client's own thread.

    The service runs at the interval of its first client, so the rate may be another than the one asked for: the trace
    carries the service's interval, and its times are those of arrival. ``avg``, jtop's running mean, is never used.

    Attributes:
        name: ``jtop``.
        why: Why it was chosen.
    """

    name = "jtop"

    def __init__(self, clock: Clock, interval_s: float, why: str, sleep: Callable[[float], None] = time.sleep) -> None:
        """Prepare a client that asks the service for a reading every ``interval_s`` seconds."""
        self.why = why
        self._clock = clock
        self._asked_s = interval_s
        self._sleep = sleep
        self._recording = Recording()
        self._client: Any = None
        self._errors: tuple[type[BaseException], ...] = (OSError,)

    def __enter__(self) -> Self:
        """Connect, take the first reading and begin to collect.

        Raises:
            MachineError: If jetson-stats is missing, its service does not answer or has another version, or the board
                has no power rail.
        """
        try:
            from jtop import JtopException, jtop
        except ImportError as err:
            raise MachineError(f"jetson-stats cannot be imported: {err}", hint=INSTALL_HINT) from err
        # What the client's thread may meet on a broken or foreign message is raised again by its ok().
        self._errors = (JtopException, OSError, EOFError, LookupError, TypeError, ValueError)
        client = jtop(interval=self._asked_s)
        client.attach(self._keep)
        try:
            client.start()
        except (*self._errors, queue.Empty) as err:
            client.close()
            reason = " ".join(str(err).split()) or type(err).__name__
            raise MachineError(f"the jtop service cannot be read: {reason}", hint=SERVICE_HINT) from err
        self._client = client
        if not self._recording.labels:
            client.close()
            raise MachineError(
                "jtop reports no power rail on this board, expected at least one",
                hint="measure without energy: --power none",
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self._client.close()

    def stop(self) -> PowerTrace:
        """Wait for one reading more and return all of them.

        Raises:
            PowerLostError: If the service stopped sending before this call.
        """
        asked = self._clock()
        silence_s = max(2.0, MAX_SILENCE_INTERVALS * self._client.interval)
        while self._recording.last_s < asked:
            self._check_alive()
            if self._clock() - asked > silence_s:
                self._lost(f"no new reading came for {self._clock() - self._recording.last_s:.1f} s")
            self._sleep(min(0.02, self._asked_s / 4))
        rails, rule = total_rule(self._recording.labels)
        return self._recording.trace(self.name, rails, rule, interval_ms=1000 * self._client.interval)

    def _keep(self, client: Any) -> None:  # noqa: ANN401 - jetson-stats has no types
        """Store what the service has just sent; the client calls this in its own thread."""
        now = self._clock()
        self._recording.add(now, rails_mw(client.power), stamp=client.uptime)

    def _check_alive(self) -> None:
        if self._client.is_alive():
            return
        try:
            self._client.ok(spin=True)
        except self._errors as err:
            self._lost(" ".join(str(err).split()) or type(err).__name__)
        self._lost("its client ended")

    def _lost(self, reason: str) -> NoReturn:
        raise PowerLostError(
            f"jtop was lost {self._recording.last_s:.1f} s into the run ({len(self._recording)} readings): {reason}",
            hint=SERVICE_HINT,
        )


def rails_mw(power: Mapping[str, Any]) -> dict[str, float]:
    """Return the power of each rail in milliwatt from jtop's ``power``, under the board's own labels.

    jtop moves a rail that carries the whole input out of ``rail`` into ``tot`` and names it there; where ``tot`` has no
    name it is jtop's own sum and is left out. USB-C entries (``ucsi``) are negotiated limits, no readings.
    """
    rails = {
        label: float(reading["power"])
        for label, reading in power.get("rail", {}).items()
        if not label.startswith("ucsi") and "power" in reading
    }
    total = power.get("tot", {})
    return {total["name"]: float(total["power"]), **rails} if "name" in total else rails
