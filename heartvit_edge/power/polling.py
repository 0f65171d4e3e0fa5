"""Reading a source again and again in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Protocol

from typing_extensions import Self

from heartvit_edge.errors import MachineError
from heartvit_edge.power.recording import Recording
from heartvit_edge.power.sampler import Clock, PowerLostError
from heartvit_edge.spec.measurement import PowerTrace

MAX_FAILURES = 10
"""Failed reads in a row after which a source counts as lost."""

PATIENCE_S = 2.0
"""How long a reading may fail to come before the source counts as lost, and at least ten intervals."""


@dataclass(frozen=True)
class Reading:
    """What one look at a source gave.

    Attributes:
        time_s: When, in seconds since the run began; for a counter the middle of the time that it counts over.
        rails_mw: Power of each rail in milliwatt.
        stamp: Equal to the former reading's where the source has nothing new; None where it has no stamp.
    """

    time_s: float
    rails_mw: dict[str, float]
    stamp: object = None


class Source(Protocol):
    """Something that can be read at any time.

    Attributes:
        name: What the trace calls it.
        labels: Its rails.
        min_interval_s: Time that the source takes for a new reading; it is not read faster.
        total: The rails that add up to the total, and why those.
        resolution_mw: Smallest step of each rail's reading, in milliwatt. Left out are rails whose step is not known,
            and counters, whose steps cancel out between readings.
        notes: What a reader of the figures must know of it.
        hint: What may put it right when it fails.
    """

    name: str
    labels: tuple[str, ...]
    min_interval_s: float
    total: tuple[tuple[str, ...], str]
    resolution_mw: dict[str, float]
    notes: tuple[str, ...]
    hint: str

    def read(self, clock: Clock) -> Reading | None:
        """Return a reading; None where a counter has not moved yet.

        Raises:
            OSError: If the source cannot be read this time.
            ValueError: If it holds no number.
        """
        ...

    def close(self) -> None:
        """Give back what was opened."""
        ...


class PollingSampler:
    """Reads a source at an interval, in a thread of its own.

    A read that fails is tried again; after ``MAX_FAILURES`` in a row the source counts as lost.

    Attributes:
        name: Of the source.
        why: Why it was chosen.
        labels: Its rails.
    """

    def __init__(self, open_source: Callable[[], Source], clock: Clock, interval_s: float, why: str) -> None:
        """Prepare to read what ``open_source`` gives every ``interval_s`` seconds, or as fast as it has news."""
        self.name = ""
        self.why = why
        self.labels: tuple[str, ...] = ()
        self._open_source = open_source
        self._clock = clock
        self._interval_s = interval_s
        self._recording = Recording()
        self._ended = threading.Event()
        self._news = threading.Condition()
        self._failure: str | None = None
        self._num_failed = 0

    def __enter__(self) -> Self:
        """Open the source, take the first reading and begin to collect.

        Raises:
            MachineError: If the source cannot be opened or read.
        """
        self._source = self._open_source()
        self.name, self.labels = self._source.name, self._source.labels
        self._interval_s = max(self._interval_s, self._source.min_interval_s)
        try:
            self._look()
        except (OSError, ValueError) as err:
            self._source.close()
            raise MachineError(f"{self.name} cannot be read: {err}", hint=self._source.hint) from err
        self._thread = threading.Thread(target=self._collect, name=f"power-{self.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread and close the source; a read that hangs in the kernel is left behind."""
        self._ended.set()
        self._thread.join(timeout=PATIENCE_S)
        if not self._thread.is_alive():
            self._source.close()

    def stop(self) -> PowerTrace:
        """Wait for one reading more and return all of them.

        Raises:
            PowerLostError: If the source failed, or no reading comes.
        """
        asked = self._clock()
        patience_s = max(PATIENCE_S, 10 * self._interval_s)
        with self._news:
            come = self._news.wait_for(lambda: self._failure or self._recording.last_s >= asked, timeout=patience_s)
        if self._failure:
            self._lost(self._failure)
        if not come:
            self._lost(f"no new reading came for {self._clock() - self._recording.last_s:.1f} s")
        notes = self._source.notes
        if self._num_failed:
            notes += (f"{self._num_failed} reads failed and were tried again",)
        return self._recording.trace(
            self.name,
            *self._source.total,
            interval_ms=1000 * self._interval_s,
            resolution_mw=self._source.resolution_mw,
            notes=notes,
        )

    def _look(self) -> None:
        reading = self._source.read(self._clock)
        if reading is not None:
            self._recording.add(reading.time_s, reading.rails_mw, reading.stamp)
        elif len(self._recording):
            self._recording.num_dropped += 1

    def _collect(self) -> None:
        """Read until told to end. The time between reads is never less than the interval, so none is read twice."""
        failures = 0
        while not self._ended.wait(self._interval_s):
            failure = None
            try:
                self._look()
                failures = 0
            except (OSError, ValueError) as err:
                failures, self._num_failed = failures + 1, self._num_failed + 1
                failure = f"{failures} reads failed in a row: {err}" if failures == MAX_FAILURES else None
            with self._news:
                self._failure = failure
                self._news.notify_all()
            if failure:
                return

    def _lost(self, reason: str) -> NoReturn:
        raise PowerLostError(
            f"{self.name} was lost {self._recording.last_s:.1f} s into the run "
            f"({len(self._recording)} readings): {reason}",
            hint=self._source.hint,
        )
