"""What can become of tokens that are not kept."""

from __future__ import annotations

from typing import Literal

Reduction = Literal["drop", "fuse", "join", "merge"]
"""They are gone; fused into one mean token; gone in the first half of the blocks, and later joined to their likest,
those first that the gate values least and that are like another; or merged into their likest, by likeness alone."""
