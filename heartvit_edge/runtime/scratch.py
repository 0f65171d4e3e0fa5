"""The memory that engines need while they run, one buffer for all engines that take turns."""

from __future__ import annotations

from typing import NamedTuple

from heartvit_edge.runtime.cuda import Cuda


class Block(NamedTuple):
    """Where the scratch lies.

    Attributes:
        address: On the device.
        num_bytes: Its size.
        number: Counts the blocks there have been: what was told an older one must be told anew.
    """

    address: int
    num_bytes: int
    number: int


class Scratch:
    """As large as the largest engine asks for. Engines that share it must not run at the same time."""

    def __init__(self, cuda: Cuda) -> None:
        """Begin without memory.

        Args:
            cuda: Where the buffer lies; it gives the buffer back.
        """
        self._cuda = cuda
        self._needed = 1  # an address is wanted even where nothing is needed
        self._block: Block | None = None

    def reserve(self, num_bytes: int) -> None:
        """Ask for room; it is taken when it is first used, once every engine has asked."""
        self._needed = max(self._needed, num_bytes)

    def block(self) -> Block:
        """Return the scratch, which replaces a former one that has become too small. Nothing may be running.

        Raises:
            MachineError: If the device has not that much memory.
        """
        if self._block is None or self._block.num_bytes < self._needed:
            number = 0
            if self._block is not None:
                number = self._block.number + 1
                self._cuda.free(self._block.address)
                self._block = None
            self._block = Block(self._cuda.allocate(self._needed), self._needed, number)
        return self._block
