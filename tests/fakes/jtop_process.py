"""A stand-in for the process that talks to jtop: it says what a test tells it to, in the same messages."""

from __future__ import annotations

import json
import sys
from pathlib import Path
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


PACKAGE = '''
"""A stand-in for jetson-stats whose board is one file with the name of its power mode."""
import datetime, pathlib, threading, time

BOARD = pathlib.Path({board!r})
MODELS = ["MAXN", "15W", "30W"]

class JtopException(Exception):
    pass

class Model:
    models = MODELS
    @property
    def name(self):
        return BOARD.read_text()
    def is_running(self):
        return False

class jtop(threading.Thread):
    def __init__(self, interval):
        super().__init__(daemon=True)
        self.interval, self.power, self.observers, self.began = interval, {{}}, [], time.monotonic()
    @property
    def nvpmodel(self):
        return Model()
    @nvpmodel.setter
    def nvpmodel(self, name):
        if name not in MODELS:
            raise JtopException(name)
        BOARD.write_text(name)
    @property
    def uptime(self):
        return datetime.timedelta(seconds=time.monotonic())
    def attach(self, observer):
        self.observers.append(observer)
    def run(self):
        while True:
            self.power = {{"rail": {{}}, "tot": {{"power": 5000, "avg": 1, "name": "VDD_IN"}}}}
            for observer in list(self.observers):
                observer(self)
            time.sleep(0.02)
    def ok(self, spin=False):
        return True
'''


def write_package(folder: Path, mode: str) -> Path:
    """Write a package ``jtop`` into a folder, to be put on the path; return the file with its board's power mode."""
    board = folder / "mode"
    board.write_text(mode)
    (folder / "jtop.py").write_text(PACKAGE.format(board=str(board)))
    return board
