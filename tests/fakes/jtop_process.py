"""A stand-in for the process that talks to jtop: it says what a test tells it to, in the same messages."""

from __future__ import annotations

import json
import sys
from typing import Any

SCRIPT = """
import json, sys, threading, time
def say(message):
    sys.stdout.write(json.dumps(message) + "\\n")
    sys.stdout.flush()
def read(rails, stamp):
    say({"reading": {"monotonic_s": time.perf_counter(), "rails_mw": rails, "stamp": str(stamp), "mode": None}})
def play(script):
    for step in script:
        kind, value = step
        if kind == "say":
            say(value)
        elif kind == "readings":
            for n in range(value["count"]):
                read(value["rails_mw"], value.get("stamp", n))
                time.sleep(value.get("every_s", 0.005))
        elif kind == "exit":
            import os
            os._exit(value)
threading.Thread(target=play, args=(json.loads(sys.argv[1]),), daemon=True).start()
modes = json.loads(sys.argv[2])
for line in sys.stdin:
    name = line.strip()
    say({"mode": name, "failure": modes.get(name)})
if "hang" in modes:
    time.sleep(60)
if "at the end" in modes:
    say({"error": modes["at the end"]})
    sys.exit(1)
"""

READY = ("say", {"ready": {"interval_s": 0.1, "mode": "MAXN", "modes": ["MAXN", "15W"]}})


def process(*script: Any, modes: dict[str, Any] | None = None) -> tuple[str, ...]:
    """Return the command of a process that plays the script and answers each power mode with its failure or none."""
    return (sys.executable, "-S", "-c", SCRIPT, json.dumps(script), json.dumps(modes or {}))


def readings(count: int = 4000, every_s: float = 0.005, stamp: int | None = None, **rails_mw: float) -> Any:
    """Return the step that sends so many readings of these rails; all with one stamp where it is given."""
    step = {"count": count, "every_s": every_s, "rails_mw": rails_mw}
    return ("readings", step if stamp is None else step | {"stamp": stamp})
