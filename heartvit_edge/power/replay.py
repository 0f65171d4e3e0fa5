"""A recorded trace, handed out again through the sampler's protocol: power code runs where there is no sensor."""

from __future__ import annotations

from types import TracebackType

from typing_extensions import Self

from heartvit_edge.power.sampler import Clock, PowerLostError
from heartvit_edge.spec.measurement import PowerTrace


class ReplaySampler:
    """Gives the readings of a recorded trace as if they were taken during this run.

    Attributes:
        name: ``replay``.
        why: That it replays, and what.
        labels: The rails of the recording.
    """

    name = "replay"

    def __init__(self, recorded: PowerTrace, clock: Clock) -> None:
        """Keep the trace; its times count from the beginning of this run, which ``clock`` gives."""
        self.why = f"replays {len(recorded.times_s)} readings of {recorded.source}"
        self.labels = tuple(recorded.rails_mw)
        self._recorded = recorded
        self._clock = clock

    def __enter__(self) -> Self:
        """Return itself; there is nothing to open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""

    def stop(self) -> PowerTrace:
        """Return the readings up to now and the first one after.

        Raises:
            PowerLostError: If the recording ended before now.
        """
        times_s = self._recorded.times_s
        now = self._clock()
        seen = next((n + 1 for n, time_s in enumerate(times_s) if time_s >= now), None)
        if seen is None:
            raise PowerLostError(
                f"the recording ends {times_s[-1]:.3f} s into the run, which took {now:.3f} s",
                hint="replay a longer one, or take less time: --duration, --trials, --idle, --cool-down",
            )
        rails_mw = {label: readings[:seen] for label, readings in self._recorded.rails_mw.items()}
        return self._recorded.model_copy(update={"source": self.name, "times_s": times_s[:seen], "rails_mw": rails_mw})
