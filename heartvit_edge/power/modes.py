"""Power modes of a Jetson, by name, through jtop: set in turn, and the former put back whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

from typing_extensions import Self

from heartvit_edge.errors import InputError, MachineError
from heartvit_edge.power.jtop import CLIENT, JtopClient

SET_S = 30.0
"""How long a mode may take, the client's own patience and a slow service included."""


class PowerModes:
    """Sets modes while it is open, and puts the former back when it is closed.

    The process that sets them does so too when this one is killed: see :mod:`heartvit_edge.power.jtop_client`.

    Attributes:
        former: The mode in force when it was opened.
    """

    former: str

    def __init__(self, tell: Callable[[str], None], command: Sequence[str] = CLIENT, interval_s: float = 0.5) -> None:
        """Prepare; nothing is asked before it is entered.

        Args:
            tell: Takes a remark for the user.
            command: What runs the client.
            interval_s: Time between readings to ask the service for: its first client, which this is, sets the rate
                for all that follow, the one that reads power among them.
        """
        self._tell = tell
        self._interval_s = interval_s
        self._command = command
        self._changed = False

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            MachineError: If jtop cannot be reached, or the board has no nvpmodel.
        """
        self._client = JtopClient(self._interval_s, lambda _: None, self._command)
        self.names: tuple[str, ...] = tuple(self._client.ready["modes"])
        mode = self._client.ready["mode"]
        if mode is None:
            self._client.close(0)
            raise MachineError("this board has no power modes: nvpmodel is missing", hint="leave --power-mode out")
        self.former = mode
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the former mode back.

        Raises:
            MachineError: If that fails and nothing else has; else it is told, and the other error goes on.
        """
        try:
            self._client.close(SET_S)
        except MachineError as err:
            failure = MachineError(
                f"the former power mode {self.former} may not be in force: {err}",
                hint=f"sudo nvpmodel -q shows the mode; sudo nvpmodel -m NUMBER sets {self.former} again",
            )
            if error is None:
                raise failure from err
            self._tell(f"{failure}; {failure.hint}")
        else:
            if self._changed:
                self._tell(f"power mode: {self.former} again")

    def check(self, wanted: Sequence[str]) -> None:
        """Return only if the board has these modes.

        Raises:
            InputError: If one is not among them; the message names those there are.
        """
        unknown = [name for name in wanted if name not in self.names]
        if unknown:
            raise InputError(
                f"this board has no power mode {', '.join(unknown)}, only {', '.join(self.names)}",
                hint=f"--power-mode {self.names[0]}",
            )

    def set(self, name: str) -> None:
        """Set a mode and wait until it is in force.

        Raises:
            MachineError: If it does not come into force.
        """
        self._changed = True
        self._client.set_mode(name, SET_S)
        self._tell(f"power mode: {name}")
