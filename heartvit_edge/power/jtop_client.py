"""What talks to the jtop service of jetson-stats, in a process of its own. The only file that imports the package.

    python -m heartvit_edge.power.jtop_client INTERVAL_S

It prints one JSON object a line: ``{"ready": ...}`` first, then ``{"reading": ...}`` each time the service sends, or
``{"error": ...}`` at its end. It reads the name of a power mode a line, and sets it. When its input ends it puts the
former power mode back, also where the process that started it was killed, and goes.

A process of its own, because a client whose service hangs can hang with it, even while Python shuts down; and because
unpacking what the service sends would take time from the engine that is measured.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

APPLY_S = 20.0
"""How long a power mode may take to be in force."""

CONNECT_S = 10.0
"""How long a service may take to answer for the first time."""

SLOW = "Error connection"
"""What jetson-stats says of a service that answers and has no data yet."""

Say = Callable[[dict[str, Any]], None]


def main() -> None:
    """Run until the input ends or the service is lost, then leave at once, whatever still hangs."""
    out = threading.Lock()

    def say(message: dict[str, Any]) -> None:
        with out:
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()

    try:
        code = serve(float(sys.argv[1]), sys.stdin, say)
    except BrokenPipeError:
        code = 1
    os._exit(code)


def serve(interval_s: float, commands: TextIO, say: Say) -> int:
    """Connect, say what the service sends, and set the power modes that are asked for.

    Args:
        interval_s: Time between readings to ask the service for.
        commands: One power mode a line.
        say: Takes each message.

    Returns:
        0 where the input ended, 1 where the service cannot be read or was lost.
    """
    try:
        from jtop import JtopException, jtop
    except ImportError as err:
        say({"error": f"jetson-stats cannot be imported: {err}", "missing": True})
        return 1
    # What the client's thread may meet on a broken or foreign message is raised again by its ok().
    errors = (JtopException, OSError, EOFError, LookupError, TypeError, ValueError, queue.Empty)
    try:
        client = _connect(lambda: jtop(interval=interval_s), (JtopException, queue.Empty))
        modes = Modes(client, time.sleep)
        say({"ready": {"interval_s": client.interval, "mode": modes.now(), "modes": modes.names()}})
        client.attach(lambda now: say({"reading": reading_of(now)}))
        threading.Thread(target=_watch, args=(client, errors, say), daemon=True).start()
        for line in commands:
            failure = modes.set(line.strip())
            say({"mode": modes.now(), "failure": failure})
        if failure := modes.restore():
            say({"error": failure})
            return 1
    except errors as err:
        say({"error": _words(err)})
        return 1
    return 0


def _connect(make: Callable[[], Any], slow: tuple[type[BaseException], ...]) -> Any:  # noqa: ANN401
    """Return a client that has begun to read.

    jetson-stats gives its service three intervals for the first answer. A service that has just been woken, on a board
    that is busy, takes longer, so a client that gave up is followed by another for ``CONNECT_S``.
    """
    end = time.monotonic() + CONNECT_S
    while True:
        client = make()
        try:
            client.start()
        except slow as err:
            if time.monotonic() > end or not (isinstance(err, queue.Empty) or SLOW in str(err)):
                raise
            time.sleep(0.1)
        else:
            return client


def reading_of(client: Any) -> dict[str, Any]:  # noqa: ANN401 - jetson-stats has no types
    """Return what the service has just sent, with the time of its arrival on the monotonic clock."""
    return {
        "monotonic_s": time.perf_counter(),
        "rails_mw": rails_mw(client.power),
        "stamp": str(client.uptime),
        "mode": None if client.nvpmodel is None else client.nvpmodel.name,
    }


def rails_mw(power: Mapping[str, Any]) -> dict[str, float]:
    """Return the power of each rail in milliwatt from jtop's ``power``, under the board's own labels.

    jtop moves a rail that carries the whole input out of ``rail`` into ``tot`` and names it there; where ``tot`` has no
    name it is jtop's own sum and is left out. USB-C entries (``ucsi``) are negotiated limits, no readings. ``avg``,
    jtop's running mean, is never used.
    """
    rails = {
        label: float(reading["power"])
        for label, reading in power.get("rail", {}).items()
        if not label.startswith("ucsi") and "power" in reading
    }
    total = power.get("tot", {})
    return {total["name"]: float(total["power"]), **rails} if "name" in total else rails


class Modes:
    """The board's power modes by name: numbers differ between boards and JetPacks."""

    def __init__(self, client: Any, sleep: Callable[[float], None]) -> None:  # noqa: ANN401
        """Remember the mode that is in force."""
        self._client = client
        self._sleep = sleep
        self._former = self.now()
        self._changed = False

    def names(self) -> list[str]:
        """Return the modes that the board has; none where it has no nvpmodel."""
        return [] if self._client.nvpmodel is None else list(self._client.nvpmodel.models)

    def now(self) -> str | None:
        """Return the mode in force; None where the board has no nvpmodel."""
        return None if self._client.nvpmodel is None else str(self._client.nvpmodel.name)

    def set(self, name: str) -> str | None:
        """Set a mode and wait until the service says that it is in force; return why it is not, or None."""
        if name == self.now():
            return None
        self._client.nvpmodel = name
        self._changed = True
        for _ in range(round(APPLY_S / 0.1)):
            if self.now() == name and not self._client.nvpmodel.is_running():
                return None
            self._sleep(0.1)
        return f"the board did not take power mode {name} within {APPLY_S:g} s and is in {self.now()}"

    def restore(self) -> str | None:
        """Put back the mode that was in force before the first was set; return why it is not, or None."""
        return self.set(self._former) if self._changed and self._former is not None else None


def _watch(client: Any, errors: tuple[type[BaseException], ...], say: Say) -> None:  # noqa: ANN401
    """Say why the client's thread ended; the process then ends with its input."""
    client.join()
    reason = "its client ended"
    try:
        client.ok(spin=True)
    except errors as err:
        reason = _words(err)
    say({"error": reason})


def _words(err: BaseException) -> str:
    return " ".join(str(err).split()) or type(err).__name__


if __name__ == "__main__":
    main()
