"""A headless Chromium, driven over a pipe by its own DevTools protocol: no driver, no port and no package is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

SWITCHES = (
    "--headless",
    "--no-sandbox",  # root cannot have one; the page is our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-pipe",
)


LAUNCH = """
import fcntl, os, sys
held = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(held[0], 3)
os.dup2(held[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Gives the browser its pipe as descriptors 3 and 4, which the protocol wants."""


def find_browser() -> str | None:
    """Return the path of a Chromium; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab.

    Attributes:
        addresses: What it has asked for, in order, the network or not.
        complaints: What it wrote into its console, and what the browser refused it.
    """

    def __init__(self, told: Any, said: Any) -> None:
        """Open a tab over the two ends of the browser's pipe."""
        self._told, self._said = told, said
        self._number = 0
        self._session: str | None = None
        self.addresses: list[str] = []
        self.complaints: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{domain}.enable")

    def open(self, path: Path, width: int, height: int, scheme: str) -> None:
        """Load a file, as wide as told and in a light or dark colour scheme, and wait until it is drawn."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._ask("Emulation.setEmulatedMedia", features=features)
        self.addresses.clear()
        self.complaints.clear()
        self._ask("Page.navigate", url=path.as_uri())
        while self._next()["method"] != "Page.loadEventFired":
            pass

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._told.write(json.dumps(message).encode() + b"\0")
        self._told.flush()
        while "id" not in (answer := self._next(events=False)):
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self, *, events: bool = True) -> dict[str, Any]:
        """Return the next message, the next event where only those are asked for."""
        while True:
            text = bytearray()
            while (byte := self._said.read(1)) != b"\0":
                assert byte, "the browser has ended"
                text += byte
            message = json.loads(text)
            self._note(message)
            if not events or "method" in message:
                return message

    def _note(self, message: dict[str, Any]) -> None:
        method, found = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.addresses.append(found["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(found["args"]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(found["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.complaints.append(found["entry"]["text"])


@contextmanager
def open_page(profile: Path) -> Iterator[Page]:
    """Start a browser with an empty profile, and give a tab of it."""
    path = find_browser()
    assert path is not None
    ours_in, theirs_out = os.pipe()
    theirs_in, ours_out = os.pipe()

    command = [path, *SWITCHES, f"--user-data-dir={profile}", "about:blank"]
    browser = subprocess.Popen(
        [sys.executable, "-S", "-c", LAUNCH, str(theirs_in), str(theirs_out), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(theirs_in, theirs_out),
    )
    os.close(theirs_in)
    os.close(theirs_out)
    with os.fdopen(ours_out, "wb") as told, os.fdopen(ours_in, "rb") as said:
        try:
            yield Page(told, said)
        finally:
            browser.terminate()
            browser.wait(timeout=30)
