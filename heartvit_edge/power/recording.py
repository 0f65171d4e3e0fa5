"""Readings as they arrive, and the trace that they make up."""

from __future__ import annotations

from collections.abc import Mapping

from heartvit_edge.spec.measurement import PowerTrace


class Recording:
    """Collects readings in one thread while another looks on.

    A reading is dropped, and counted, where the source hands out the former one again, where it lacks a rail that the
    first reading had, or where no time has passed: none of these tells anything new.

    Attributes:
        num_dropped: Readings dropped so far.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self.num_dropped = 0
        self._labels: tuple[str, ...] = ()
        self._stamp: object = None
        self._readings: list[tuple[float, tuple[float, ...]]] = []  # one append a reading: safe between threads

    def add(self, time_s: float, rails_mw: Mapping[str, float], stamp: object = None) -> None:
        """Keep a reading.

        Args:
            time_s: When it arrived, in seconds since the run began.
            rails_mw: Power of each rail in milliwatt, under the board's label; the first reading fixes the labels.
            stamp: What the source gives each of its own ticks; equal to the former stamp for a repeated reading.
        """
        repeated = stamp is not None and stamp == self._stamp
        if not self._readings:
            self._labels = tuple(rails_mw)
        incomplete = any(label not in rails_mw for label in self._labels)
        if repeated or incomplete or time_s <= self.last_s:
            self.num_dropped += 1
            return
        self._stamp = stamp
        self._readings.append((time_s, tuple(rails_mw[label] for label in self._labels)))

    def __len__(self) -> int:
        """Return the number of readings kept."""
        return len(self._readings)

    @property
    def labels(self) -> tuple[str, ...]:
        """The rails that every reading has."""
        return self._labels

    @property
    def last_s(self) -> float:
        """When the latest reading arrived; minus infinity before the first."""
        return self._readings[-1][0] if self._readings else float("-inf")

    def trace(
        self,
        source: str,
        total_rails: tuple[str, ...],
        total_rule: str,
        interval_ms: float | None = None,
        resolution_mw: Mapping[str, float] | None = None,
        notes: tuple[str, ...] = (),
    ) -> PowerTrace:
        """Return every reading so far as a value; at least one must have been kept."""
        readings = list(self._readings)
        return PowerTrace(
            source=source,
            times_s=tuple(time_s for time_s, _ in readings),
            rails_mw={label: tuple(row[n] for _, row in readings) for n, label in enumerate(self._labels)},
            total_rails=total_rails,
            total_rule=total_rule,
            interval_ms=interval_ms,
            num_dropped=self.num_dropped,
            resolution_mw=dict(resolution_mw or {}),
            notes=notes,
        )
